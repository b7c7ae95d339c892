"""The report that a study ends in: each variant beside the one it is compared with, on the same
users and seeds.

`results/STUDY/` gets report.md and runs.json with each run's figures. They hold means and
differences over groups of users, no data of single ones.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablations.study import Study, Variant
from evaluation.significance import (
    Comparison,
    compare,
    compare_over_seeds,
    holm,
    mark,
    seed_spread,
)
from support.checkpoint import read_json, write_json
from support.errors import UserError
from support.tables import print_table, table_text

METRIC = "NDCG@10"
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
LIMITS = (
    "One data set, and each variant at the settings that its line gives: one that wants more "
    "steps or another learning rate may do better.",
    "What several changes do together: gains need not add up.",
    "A variant with query_time known is told when the recommendation is asked for: better than "
    "one that is not, it need not be the better model.",
)
KEPT = (
    "protocol",
    "epochs",
    "steps",
    "training_seconds",
    "parameters",
    "peak_memory_mb",
    "git_commit",
    "split_hash",
)
Run = tuple[str, int]  # variant, seed
Folders = Mapping[Run, Path]  # of finished runs
Results = Mapping[Run, dict[str, Any]]


def _tests(
    variants: Sequence[Variant],
    of_users: Mapping[Run, np.ndarray],
    results: Results,
) -> dict[str, tuple[Comparison, float]]:
    """Variant -> comparison with its reference, p corrected for the number of comparisons."""
    spread = _seed_spread(variants, of_users)
    tests: dict[str, Comparison] = {}
    p_values = {}
    for variant in variants:
        seeds = _common_seeds(variant, results)
        if not _asked_the_same(variant, seeds, results):
            continue
        ours = np.stack([of_users[variant.name, seed] for seed in seeds])
        theirs = np.stack([of_users[variant.against, seed] for seed in seeds])
        if len(seeds) > 1:
            test = compare_over_seeds(ours, theirs, spread)
            p_values[variant.name] = test.p_value
        else:
            test = compare(ours, theirs)
        tests[variant.name] = test
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        name: (test, corrected.get(name, 1.0)) for name, test in tests.items()
    }


def _seed_spread(
    variants: Sequence[Variant], of_users: Mapping[Run, np.ndarray]
) -> tuple[float, int] | None:
    """The luck of the seed, pooled over all variants; None with one seed."""
    groups = []
    for variant in variants:
        runs = [
            values
            for (name, _), values in of_users.items()
            if name == variant.name
        ]
        if len(runs) > 1:
            groups.append(np.stack(runs))
    return seed_spread(groups) if groups else None


def _asked_the_same(
    variant: Variant, seeds: list[int], results: Results
) -> bool:
    """Whether a variant and its reference ranked for the same requests in the same way."""
    asked = set()
    for seed in seeds:
        for name in (variant.name, variant.against):
            result = results[name, seed]
            # A model that is told the time of the request is still asked the same.
            protocol = re.sub(
                "request time (un)?known", "", result["protocol"]
            )
            asked.add((protocol, result["split_hash"]))
    return len(asked) == 1


def _common_seeds(variant: Variant, runs: Mapping[Run, Any]) -> list[int]:
    own = [seed for name, seed in runs if name == variant.name]
    return [seed for seed in own if (variant.against, seed) in runs]


def _validation(result: dict[str, Any]) -> float:
    return result["best"][METRIC]


def _mean(results: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([result[name] for result in results]))


def _of_users(folder: Path) -> np.ndarray:
    """(P,) the metric of each user, the mean over the user's requests."""
    import pandas as pd

    path = folder / "best" / "test_users.parquet"
    frame = pd.read_parquet(path, columns=["user_id", METRIC])
    return frame.groupby("user_id")[METRIC].mean().to_numpy()


def ranking_of(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test metrics of the model of a run, not of popularity beside it."""
    return next(
        ranking
        for name, ranking in result["ranking"].items()
        if name != "popularity"
    )


def table(study: Study, folders: Folders, results: Results) -> list[list[str]]:
    """The rows under HEADER: variants that have a finished run, in the study's order."""
    finished = {name for name, _ in folders}
    variants = [
        variant for variant in study.variants if variant.name in finished
    ]
    of_users = {run: _of_users(folder) for run, folder in folders.items()}
    tests = _tests(variants, of_users, results)
    rows = []
    for variant in variants:
        own = [
            result
            for (name, _), result in results.items()
            if name == variant.name
        ]
        differences = ["", ""]
        if variant.name in tests:
            test, p_value = tests[variant.name]
            gains = []
            for seed in _common_seeds(variant, results):
                ours, theirs = (
                    results[variant.name, seed],
                    results[variant.against, seed],
                )
                gains.append(_validation(ours) - _validation(theirs))
            interval = f"{test.low:+.4f} to {test.high:+.4f}"
            difference = f"{test.difference:+.4f}{mark(p_value)}\n{interval}"
            differences = [f"{np.mean(gains):+.4f}", difference]
        row = [
            variant.name,
            str(len(own)),
            _with_spread([_validation(result) for result in own]),
            _with_spread(
                [ranking_of(result)[METRIC]["mean"] for result in own]
            ),
            variant.against,
            *differences,
            f"{_mean(own, 'processor_seconds') / 60:.1f}",
            f"{_mean(own, 'parameters'):,.0f}",
            f"{_mean(own, 'peak_memory_mb'):,.0f}",
        ]
        rows.append(row)
    return rows


def _with_spread(values: Sequence[float]) -> str:
    spread = f"\n±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def write_report(
    study: Study,
    folders: Folders,
    failed: Sequence[str],
    flags: Sequence[str],
    place: Path,
) -> None:
    """Print the table and write the report.

    flags: what was changed for all variants on the command line. Raises `UserError` if no run of
    the study is finished.
    """
    if not folders:
        raise UserError(
            f"{study.name}: no run came to its end; mend this and start it again: "
            f"{'; '.join(failed)}"
        )
    results = {
        run: read_json(folder / "best/results.json")
        for run, folder in folders.items()
    }
    protocols = dict.fromkeys(
        result["protocol"] for result in results.values()
    )
    commits = dict.fromkeys(
        result["git_commit"] for result in results.values()
    )
    note = (
        f"{'; '.join(protocols)}. {EXPLANATION}; commit {', '.join(commits)}"
    )
    rows = table(study, folders, results)
    print_table(study.question, note, HEADER, rows)
    for line in failed:
        print("failed:", line)
    place.mkdir(parents=True, exist_ok=True)
    text = _text(study, rows, note, failed, flags)
    (place / "report.md").write_text(text, encoding="utf-8")
    write_json(place / "runs.json", _record(study, flags, results))


def _text(
    study: Study,
    rows: list[list[str]],
    note: str,
    failed: Sequence[str],
    flags: Sequence[str],
) -> str:
    """The report as Markdown."""
    changes = [
        [variant.name, _named(variant.changes)] for variant in study.variants
    ]
    parts = [
        f"# {study.name}",
        study.question,
        table_text(HEADER, rows).strip(),
        note,
        "## What it cannot say",
        _list(LIMITS),
        "## What was run",
        f"Preset {study.base}; for all: {_named(study.common) or 'nothing'}; from the "
        f"command line: {' '.join(flags) or 'nothing'}.",
        table_text(["variant", "changes"], changes).strip(),
    ]
    if failed:
        parts += ["## Not finished", _list(failed)]
    return "\n\n".join(parts) + "\n"


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _record(
    study: Study, flags: Sequence[str], results: Results
) -> dict[str, Any]:
    """What runs.json says: the study, and each run's figures."""
    runs = []
    for (name, seed), result in results.items():
        test = {
            metric: entry["mean"]
            for metric, entry in ranking_of(result).items()
        }
        run = {
            "variant": name,
            "seed": seed,
            "validation": _validation(result),
            "test": test,
        }
        runs.append(run | {key: result[key] for key in KEPT})
    content = dataclasses.asdict(study) | {"flags": list(flags), "runs": runs}
    content["variants"] = {
        variant.name: {**variant.changes, "against": variant.against}
        for variant in study.variants
    }
    return content
