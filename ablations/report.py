"""The record of a study: each variant beside its reference, on the same users and seeds.

`results/STUDY/` gets runs.json with each run's figures, and the pages that are drawn from it. They
contain means and differences over groups of users, nothing about single users.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations import pages
from ablations.study import Study
from evaluation.metrics import METRIC
from evaluation.significance import (
    compare,
    compare_over_seeds,
    holm,
    mark,
    seed_spread,
)
from run_folder import BEST, read_results
from support.errors import require
from support.files import write_json
from support.tables import print_table

KEPT = (
    "protocol",
    "epochs",
    "steps",
    "training_seconds",
    "processor_seconds",
    "parameters",
    "peak_memory_mb",
    "git_commit",
    "split_hash",
)
# variant -> seed -> (P,) the metric of each user
Users = Mapping[str, Mapping[int, np.ndarray]]


def _tests(variants, of_users):
    """Variant -> comparison with its reference, p corrected for the number of comparisons."""
    groups = [np.stack(list(runs.values())) for runs in of_users.values()]
    several = [group for group in groups if len(group) > 1]
    # The luck of the seed, pooled over all variants.
    spread = seed_spread(several) if several else None
    tests, p_values = {}, {}
    for name, runs in of_users.items():
        variant = variants[name]
        reference = variants.get(variant.against)
        if not reference or not _comparable(variant, reference):
            continue
        theirs = of_users.get(reference.name, {})
        seeds = [seed for seed in runs if seed in theirs]
        if not seeds:
            continue
        pair = [
            np.stack([part[seed] for seed in seeds]) for part in (runs, theirs)
        ]
        if len(seeds) > 1:
            tests[name] = compare_over_seeds(*pair, spread)
            p_values[name] = tests[name].p_value
        else:
            tests[name] = dataclasses.replace(compare(*pair), p_value=1.0)
    for name, p_value in holm(p_values).items():
        tests[name] = dataclasses.replace(tests[name], p_value=p_value)
    return tests


def _comparable(one, other):
    """Whether both rank for the same requests in the same way."""
    return (one.settings.data, one.settings.eval) == (
        other.settings.data,
        other.settings.eval,
    )


def _of_users(folder):
    """(P,) the metric of each user, the mean over the user's requests."""
    path = folder / "best" / "test_users.parquet"
    frame = pd.read_parquet(path, columns=["user_id", METRIC])
    return frame.groupby("user_id")[METRIC].mean().to_numpy()


def _figures(variant, seed, folder):
    """The entry of a run in runs.json."""
    result = read_results(folder / BEST)
    ranking = result["ranking"][variant.settings.model.model]
    return {
        "variant": variant.name,
        "seed": seed,
        "validation": result["best"][METRIC],
        "test": {metric: entry["mean"] for metric, entry in ranking.items()},
        **{key: result[key] for key in KEPT},
    }


def differences(
    study: Study, runs: list[dict[str, Any]], of_users: Users
) -> dict[str, dict[str, Any]]:
    """Variant -> its difference to its reference in METRIC, on validation and on test."""
    variants = {variant.name: variant for variant in study.variants}
    frame = pd.DataFrame(runs).set_index(["variant", "seed"])
    found = {}
    for name, test in _tests(variants, of_users).items():
        reference = frame.loc[variants[name].against]["validation"]
        gain = frame.loc[name]["validation"] - reference
        found[name] = {
            "validation": float(gain.mean()),
            "test": test.difference,
            "low": test.low,
            "high": test.high,
            "p_value": test.p_value,
            "mark": mark(test.p_value),
        }
    return found


def _record(study, flags, runs, failed):
    """The content of runs.json, but for the differences."""
    variants = {
        variant.name: {"changes": variant.changes, "against": variant.against}
        for variant in study.variants
    }
    return {
        "study": study.name,
        "date": time.strftime("%Y-%m-%d"),
        "question": study.question,
        "base": study.base,
        "common": study.common,
        "flags": list(flags),
        "variants": variants,
        "runs": runs,
        "failed": list(failed),
    }


def write_report(
    study: Study,
    folders: Mapping[tuple[str, int], Path],
    failed: Sequence[str],
    flags: Sequence[str],
    results: Path,
) -> None:
    """Print the table, and write the record of the study and the pages of all studies.

    folders: of finished runs, by variant and seed. flags: what was changed for all variants on
    the command line. Raises `UserError` if no run of the study is finished.
    """
    require(
        folders,
        f"{study.name}: no run came to its end; mend this and start it again: "
        f"{'; '.join(failed)}",
    )
    variants = {variant.name: variant for variant in study.variants}
    runs = [
        _figures(variants[name], seed, folder)
        for (name, seed), folder in folders.items()
    ]
    of_users: dict[str, dict[int, np.ndarray]] = {}
    for (variant, seed), folder in folders.items():
        of_users.setdefault(variant, {})[seed] = _of_users(folder)
    record = _record(study, flags, runs, failed)
    record["differences"] = differences(study, runs, of_users)
    table = pages.table(pages.rows_of(record))
    print_table(study.question, pages.note(record), pages.HEADER, table)
    for line in failed:
        print("failed:", line)
    place = results / study.name
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / pages.RUNS, record)
    pages.write_pages(results)
