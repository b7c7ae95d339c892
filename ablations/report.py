"""The report of a study: each variant beside its reference, on the same users and seeds.

`results/STUDY/` gets report.md and runs.json with each run's figures. They contain means and
differences over groups of users, nothing about single users.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
from support.files import write_json, write_text
from support.tables import print_table, table_text

HEADER = [
    "variant",
    "runs",
    f"validation\n{METRIC}",
    f"test\n{METRIC}",
    "against",
    "validation\ndifference",
    "test\ndifference",
    "processor\nmin",
    "parameters",
    "memory,\nMB",
]
EXPLANATION = (
    "± standard deviation over seeds; difference to the variant named, on the same users and "
    "seeds: 95 % interval and paired t test over users and seeds, the luck of the seed pooled "
    "over the study; p corrected for all comparisons (Holm), * .05 ** .01 *** .001; with one "
    "seed an interval over users alone and no test; processor time of training and validation, "
    "of all cores together"
)
PAGE = """# {study.name}

{study.question}

{table}
{note}

## What it cannot say

- One data set, and each variant at the settings that its line gives: one that wants more steps or
  another learning rate may do better.
- What several changes do together: gains need not add up.
- A variant with query_time known is told when the recommendation is asked for: better than one
  that is not, it need not be the better model.

## What was run

Preset {study.base}; for all: {common}; from the command line: {flags}.

{changes}
## Not finished

{failed}
"""
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


def table(
    study: Study, runs: list[dict[str, Any]], of_users: Users
) -> list[list[str]]:
    """The rows under HEADER: variants that have a finished run, in the study's order."""
    variants = {variant.name: variant for variant in study.variants}
    tests = _tests(variants, of_users)
    frame = pd.DataFrame(runs).set_index(["variant", "seed"])
    frame["test"] = [test[METRIC] for test in frame["test"]]
    rows = []
    for name in of_users:
        figures, against = frame.loc[name], variants[name].against
        differences = ["", ""]
        if name in tests:
            test = tests[name]
            gain = figures["validation"] - frame.loc[against]["validation"]
            interval = f"{test.low:+.4f} to {test.high:+.4f}"
            difference = f"{test.difference:+.4f}{mark(test.p_value)}"
            differences = [f"{gain.mean():+.4f}", f"{difference}\n{interval}"]
        means = figures.mean(numeric_only=True)
        row = [
            name,
            str(len(figures)),
            _with_spread(figures["validation"]),
            _with_spread(figures["test"]),
            against,
            *differences,
            f"{means['processor_seconds'] / 60:.1f}",
            f"{means['parameters']:,.0f}",
            f"{means['peak_memory_mb']:,.0f}",
        ]
        rows.append(row)
    return rows


def _with_spread(values):
    spread = f"\n±{values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def _record(study, flags, runs):
    """The content of runs.json."""
    content = dataclasses.asdict(study) | {"flags": list(flags), "runs": runs}
    content["variants"] = {
        variant.name: {**variant.changes, "against": variant.against}
        for variant in study.variants
    }
    return content


def write_report(
    study: Study,
    folders: Mapping[tuple[str, int], Path],
    failed: Sequence[str],
    flags: Sequence[str],
    place: Path,
) -> None:
    """Print the table and write the report.

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
    protocols = dict.fromkeys(run["protocol"] for run in runs)
    commits = dict.fromkeys(run["git_commit"] for run in runs)
    note = (
        f"{'; '.join(protocols)}. {EXPLANATION}; commit {', '.join(commits)}"
    )
    rows = table(study, runs, of_users)
    print_table(study.question, note, HEADER, rows)
    for line in failed:
        print("failed:", line)
    changes = [
        [variant.name, _named(variant.changes)] for variant in study.variants
    ]
    text = PAGE.format(
        study=study,
        table=table_text(HEADER, rows),
        note=note,
        common=_named(study.common),
        flags=" ".join(flags) or "nothing",
        changes=table_text(["variant", "changes"], changes),
        failed="\n".join(f"- {line}" for line in failed) or "Nothing.",
    )
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / "report.md", text)
    write_json(place / "runs.json", _record(study, flags, runs))


def _named(values):
    text = ", ".join(f"{name} {value}" for name, value in values.items())
    return text or "nothing"
