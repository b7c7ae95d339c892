"""The report that a study ends in: each variant beside the one it is compared with, on the same
users and seeds.

`results/STUDY/` gets report.md and runs.json with each run's figures. They hold means and
differences over groups of users, no data of single ones.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Line:
    """A variant's figures, one value a seed, and its comparison where there is one."""

    variant: Variant
    validation: np.ndarray  # (S,)
    test: np.ndarray  # (S,)
    gain: float  # on validation, mean over the seeds that both have
    comparison: Comparison | None  # on the test users
    p_value: float  # corrected; 1 where one seed allows no test
    minutes: float  # of all cores together
    parameters: int
    memory: float  # MB


def study_lines(study: Study, folders: Folders, results: Results) -> list[Line]:
    """A line for each variant that has a finished run, in the study's order."""
    finished = {name for name, _ in folders}
    variants = [variant for variant in study.variants if variant.name in finished]
    of_users = {run: _of_users(folder) for run, folder in folders.items()}
    tests = _tests(variants, of_users, results)
    lines = []
    for variant in variants:
        seeds = [seed for name, seed in folders if name == variant.name]
        own = [results[variant.name, seed] for seed in seeds]
        gains = [
            _validation(results[variant.name, seed])
            - _validation(results[variant.against, seed])
            for seed in _common_seeds(variant, folders)
        ]
        comparison, p_value = tests.get(variant.name, (None, 1.0))
        line = Line(
            variant,
            validation=np.array([_validation(result) for result in own]),
            test=np.array([ranking_of(result)[METRIC]["mean"] for result in own]),
            gain=float(np.mean(gains)) if gains else np.nan,
            comparison=comparison,
            p_value=p_value,
            minutes=_mean(own, "processor_seconds") / 60,
            parameters=int(_mean(own, "parameters")),
            memory=_mean(own, "peak_memory_mb"),
        )
        lines.append(line)
    return lines


def _tests(
    variants: Sequence[Variant], of_users: Mapping[Run, np.ndarray], results: Results
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
    return {name: (test, corrected.get(name, 1.0)) for name, test in tests.items()}


def _seed_spread(
    variants: Sequence[Variant], of_users: Mapping[Run, np.ndarray]
) -> tuple[float, int] | None:
    """The luck of the seed, pooled over all variants; None with one seed."""
    groups = []
    for variant in variants:
        runs = [
            values for (name, _), values in of_users.items() if name == variant.name
        ]
        if len(runs) > 1:
            groups.append(np.stack(runs))
    return seed_spread(groups) if groups else None


def _asked_the_same(variant: Variant, seeds: list[int], results: Results) -> bool:
    """Whether a variant and its reference ranked for the same requests in the same way."""
    asked = set()
    for seed in seeds:
        for name in (variant.name, variant.against):
            result = results[name, seed]
            # A model that is told the time of the request is still asked the same.
            protocol = re.sub("request time (un)?known", "", result["protocol"])
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
        ranking for name, ranking in result["ranking"].items() if name != "popularity"
    )


def table(lines: Sequence[Line]) -> list[list[str]]:
    """The rows under HEADER."""
    rows = []
    for line in lines:
        differences = ["", ""]
        test = line.comparison
        if test is not None:
            interval = f"{test.low:+.4f} to {test.high:+.4f}"
            difference = f"{test.difference:+.4f}{mark(line.p_value)}\n{interval}"
            differences = [f"{line.gain:+.4f}", difference]
        row = [
            line.variant.name,
            str(len(line.test)),
            _with_spread(line.validation),
            _with_spread(line.test),
            line.variant.against,
            *differences,
            f"{line.minutes:.1f}",
            f"{line.parameters:,}",
            f"{line.memory:,.0f}",
        ]
        rows.append(row)
    return rows


def _with_spread(values: np.ndarray) -> str:
    spread = f"\n±{values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


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
        run: read_json(folder / "best/results.json") for run, folder in folders.items()
    }
    lines = study_lines(study, folders, results)
    protocols = dict.fromkeys(result["protocol"] for result in results.values())
    commits = dict.fromkeys(result["git_commit"] for result in results.values())
    note = f"{'; '.join(protocols)}. {EXPLANATION}; commit {', '.join(commits)}"
    rows = table(lines)
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
    parts = [f"# {study.name}", study.question, table_text(HEADER, rows).strip(), note]
    parts += ["## What it cannot say", _list(LIMITS)]
    changes = [[variant.name, _named(variant.changes)] for variant in study.variants]
    parts += [
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


def _record(study: Study, flags: Sequence[str], results: Results) -> dict[str, Any]:
    """What runs.json says: the study, and each run's figures."""
    runs = []
    for (name, seed), result in results.items():
        test = {metric: entry["mean"] for metric, entry in ranking_of(result).items()}
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
