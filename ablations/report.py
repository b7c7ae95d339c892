"""The page that a study ends in: each variant beside the one it is compared with, on the same
users and seeds.

`results/STUDY/` gets report.md, report.html (the same, in one file), the figures as SVG and
runs.json with each run's figures. The page holds means and differences over groups of users, no
data of single ones.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations import figures
from ablations.page import Part, write_page
from ablations.study import Study, Variant
from data_processor import load
from evaluation.metrics import bootstrap_interval
from evaluation.report import print_table
from evaluation.significance import (
    Comparison,
    compare,
    compare_over_seeds,
    holm,
    mark,
    seed_spread,
)
from evaluation.slices import request_slices
from settings import TrainSettings
from support.checkpoint import read_json, write_json
from support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

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
    ". ± standard deviation over seeds; difference to the variant named, on the same users and seeds (none "
    "where the two were asked something else): 95 % interval of this one difference and paired t test over "
    "users and seeds, the luck of the seed pooled over the study or this difference's own where that is "
    "larger; p corrected for all comparisons (Holm), * .05 ** .01 *** .001; with one seed, interval over "
    "users alone and no test; below its reference each variant by the gain on validation; processor time of "
    "training and validation, of all cores together, to be compared where all ran on one machine"
)
FEWEST_IN_SLICE = 100  # users
MOST_SLICES = 8
Folders = Mapping[tuple[str, int], Path]  # (variant, seed) -> folder of a finished run
Results = Mapping[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """A variant's figures: one value a seed, and the comparison with another variant where there
    is one.
    """

    variant: Variant
    validation: np.ndarray  # (S,)
    test: np.ndarray  # (S,)
    gain: float  # on validation, mean over the seeds that both have
    comparison: Comparison | None  # on the test users
    # corrected for the number of comparisons; 1 where one seed allows no test
    p_value: float
    tested: bool
    minutes: float  # of training, of all cores together
    parameters: int
    memory: float  # MB
    main: bool  # compared with the study's first variant
    rising: int  # runs whose last evaluation was their best

    @property
    def knows_time(self) -> bool:
        """Whether the model is told when the recommendation is asked for."""
        return self.variant.settings.model.query_time == "known"

    @property
    def title(self) -> str:
        """The variant, and what it is compared with if that is not the first one."""
        name = self.variant.name
        return name if self.main else f"{name} (against {self.variant.against})"


def study_lines(
    study: Study, folders: Folders, results: Results, curves: figures.Curves
) -> list[Line]:
    """The first variant, then the others: below what they are compared with, by their gain on
    validation.
    """
    finished = {name for name, _ in folders}
    variants = [variant for variant in study.variants if variant.name in finished]
    of_seeds = []
    for variant in variants:
        values = [
            _of_users(folder)
            for (name, _), folder in folders.items()
            if name == variant.name
        ]
        if len(values) > 1:
            of_seeds.append(np.stack(values))
    spread = seed_spread(of_seeds) if of_seeds else None
    tests: dict[str, Comparison] = {}
    p_values = {}
    for variant in variants:
        pair = _pair(variant, folders, results)
        if pair is None:
            continue
        several = len(pair[0]) > 1
        tests[variant.name] = (
            compare_over_seeds(*pair, spread) if several else compare(*pair)
        )
        if several:
            p_values[variant.name] = tests[variant.name].p_value
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    lines = []
    for variant in variants:
        own = {
            seed: results[name, seed] for name, seed in folders if name == variant.name
        }
        gains = [
            result["best"][METRIC] - results[variant.against, seed]["best"][METRIC]
            for seed, result in own.items()
            if (variant.against, seed) in results
        ]
        rising = sum(
            result["best"]["epoch"] == last["epoch"]
            for seed, result in own.items()
            for last in curves[variant.name, seed][-1:]
        )
        means = {
            name: float(np.mean([result[name] for result in own.values()]))
            for name in ("processor_seconds", "parameters", "peak_memory_mb")
        }
        lines.append(
            Line(
                variant,
                np.array([result["best"][METRIC] for result in own.values()]),
                np.array(
                    [ranking_of(result)[METRIC]["mean"] for result in own.values()]
                ),
                float(np.mean(gains)) if gains else np.nan,
                tests.get(variant.name),
                corrected.get(variant.name, 1.0),
                variant.name in corrected,
                means["processor_seconds"] / 60,
                int(means["parameters"]),
                means["peak_memory_mb"],
                variant.against in ("", study.variants[0].name),
                rising,
            )
        )
    order = [variant.name for variant in study.variants]
    return sorted(
        lines,
        key=lambda line: (
            line.variant.against != "",
            order.index(line.variant.against or order[0]),
            -np.nan_to_num(line.gain),
        ),
    )


def table(lines: Sequence[Line]) -> list[list[str]]:
    """The rows under HEADER."""
    rows = []
    for line in lines:
        cells = []
        for value in (line.validation, line.test):
            spread = f"\n±{value.std(ddof=1):.4f}" if len(value) > 1 else ""
            cells.append(f"{value.mean():.4f}{spread}")
        differences, test = ["", ""], line.comparison
        if test is not None:
            differences = [
                f"{line.gain:+.4f}",
                f"{test.difference:+.4f}{mark(line.p_value)}\n"
                f"{test.low:+.4f} to {test.high:+.4f}",
            ]
        rows.append(
            [
                line.variant.name,
                str(len(line.test)),
                *cells,
                line.variant.against,
                *differences,
                f"{line.minutes:.1f}",
                f"{line.parameters:,.0f}",
                f"{line.memory:,.0f}",
            ]
        )
    return rows


def comparable(lines: Sequence[Line]) -> list[Line]:
    """The first, and those that were asked what it was asked: compared with it, or with one that
    was.
    """
    alike = {line.variant.name: line for line in lines[:1]}
    for line in lines:
        if line.comparison is not None and line.variant.against in alike:
            alike[line.variant.name] = line
    return list(alike.values())


def findings(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """(what the study says, what it cannot say), a sentence each."""
    compared = [line for line in lines if line.comparison is not None]
    tested = [line for line in compared if line.tested]
    clear = [line for line in compared if line.p_value < 0.05]
    better = [line for line in clear if line.comparison.difference > 0]
    worse = [line for line in clear if line.comparison.difference <= 0]
    knows = {line.variant.name: line.knows_time for line in lines}
    told = [
        line
        for line in better
        if knows[line.variant.name] and not knows[line.variant.against]
    ]
    says = []
    if tested:
        says.append(
            f"Of {len(tested)} comparisons, {len(better)} are for the variant on the test items and "
            f"{len(worse)} against it, beyond what chance among users and seeds gives (Holm, .05)."
        )
    groups = (
        ("Better", [line for line in better if line not in told]),
        (
            "Better, but told when the recommendation is asked for, which no setting can choose",
            told,
        ),
        ("Worse", worse),
    )
    for words, group in groups:
        if group:
            named = ", ".join(
                f"{line.title} ({line.comparison.difference:+.4f})" for line in group
            )
            says.append(f"{words}: {named}.")
    alike = [
        line for line in comparable(lines) if line.knows_time == lines[0].knows_time
    ]
    best = max(alike, key=lambda line: line.validation.mean())
    says.append(
        f"Validation, by which a setting would be chosen, is highest for {best.variant.name} "
        f"({best.validation.mean():.4f})."
    )
    cannot = []
    untested = [line.title for line in compared if not line.tested]
    if untested:
        cannot.append(
            f"With one seed, nothing of the luck of the seed; not tested: {', '.join(untested)}."
        )
    if compared:
        reach = np.median(
            [(line.comparison.high - line.comparison.low) / 2 for line in compared]
        )
        cannot.append(
            f"Differences on test of less than about {reach:.4f}, half of the median interval."
        )
    rising = sum(line.rising for line in lines)
    if rising:
        runs = sum(len(line.test) for line in lines)
        cannot.append(
            f"What longer schedules give: in {rising} of {runs} runs the last evaluation was the best one."
        )
    cannot += [
        "One data set, and each variant at the settings that its line gives: one that wants more steps or another "
        "learning rate may do better.",
        "What several changes do together: gains need not add up.",
    ]
    return says, cannot


def changed_slices(lines: Sequence[Line], folders: Folders) -> list[list[str]]:
    """The groups whose metric moved most otherwise than everybody else's, for its noise:
    [variant, family, slice, users, difference, interval, everybody else's difference]."""
    rows = []
    for line in lines:
        if line.comparison is None:
            continue
        variant = line.variant
        parts = [
            _requests(folders[variant.name, seed])
            - _requests(folders[variant.against, seed])
            for seed in _common_seeds(variant, folders)
        ]
        difference = sum(parts) / len(parts)
        for family, slices in request_slices(
            load(variant.settings.data), "test"
        ).items():
            for name, chosen in slices.items():
                own, others = (
                    difference[part].groupby(level=0).mean().to_numpy()
                    for part in (chosen, ~chosen)
                )
                if min(len(own), len(others)) < FEWEST_IN_SLICE:
                    continue
                low, high = bootstrap_interval(own, 500)
                error = np.sqrt(
                    own.var(ddof=1) / len(own) + others.var(ddof=1) / len(others)
                )
                apart = abs(own.mean() - others.mean()) / max(error, 1e-12)
                rows.append(
                    (
                        apart,
                        [
                            line.title,
                            family,
                            name,
                            f"{len(own):,}",
                            f"{own.mean():+.4f}",
                            f"{low:+.4f} to {high:+.4f}",
                            f"{others.mean():+.4f}",
                        ],
                    )
                )
    rows.sort(key=lambda row: -row[0])
    return [cells for _, cells in rows[:MOST_SLICES]]


def write_report(
    study: Study,
    folders: Folders,
    curves: figures.Curves,
    failed: Sequence[str],
    flags: Sequence[str],
    place: Path,
) -> None:
    """Print the table and write the page.

    flags: what was changed for all variants on the command line. Raises `UserError` if no run of
    the study is finished.
    """
    if not folders:
        raise UserError(
            f"{study.name}: no run came to its end; mend this and start it again: {'; '.join(failed)}"
        )
    results = {
        run: read_json(folder / "best" / "results.json")
        for run, folder in folders.items()
    }
    lines = study_lines(study, folders, results, curves)
    protocols = dict.fromkeys(result["protocol"] for result in results.values())
    commits = dict.fromkeys(result["git_commit"] for result in results.values())
    note = f"{'; '.join(protocols)}{EXPLANATION}; commit {', '.join(commits)}"
    print_table(study.question, note, HEADER, table(lines))
    for line in failed:
        print("failed:", line)
    place.mkdir(parents=True, exist_ok=True)
    # half a page replaces none
    with tempfile.TemporaryDirectory(dir=place, prefix=".report-") as scratch:
        part = Path(scratch)
        drawn = figures.draw(lines, comparable(lines), curves, METRIC, part)
        parts = page_parts(
            study,
            note,
            lines,
            what_was_run(study, flags, results),
            changed_slices(lines, folders),
            failed,
            drawn,
        )
        write_page(parts, part / "report")
        write_json(part / "runs.json", _record(study, flags, results))
        for file in part.iterdir():
            file.replace(place / file.name)


def _record(study: Study, flags: Sequence[str], results: Results) -> dict[str, Any]:
    """What runs.json says: the study, and each run's figures."""
    kept = (
        "protocol",
        "epochs",
        "steps",
        "training_seconds",
        "parameters",
        "peak_memory_mb",
        "git_commit",
        "split_hash",
    )
    runs = []
    for (name, seed), result in results.items():
        test = {metric: entry["mean"] for metric, entry in ranking_of(result).items()}
        runs.append(
            {
                "variant": name,
                "seed": seed,
                "validation": result["best"][METRIC],
                "test": test,
                **{key: result[key] for key in kept},
            }
        )
    variants = {
        variant.name: {**variant.changes, "against": variant.against}
        for variant in study.variants
    }
    return {
        "study": study.name,
        "base": study.base,
        "settings": study.common,
        "flags": list(flags),
        "variants": variants,
        "runs": runs,
    }


def what_was_run(study: Study, flags: Sequence[str], results: Results) -> list[Part]:
    """The preset and what was changed for all; of each variant its changes, how long it trained
    and what ended it.
    """
    rows = []
    for variant in study.variants:
        own = [result for (name, _), result in results.items() if name == variant.name]
        if own:
            ends = dict.fromkeys(_end(result, variant.settings.train) for result in own)
            rows.append(
                [
                    variant.name,
                    _named(variant.changes),
                    f"{np.mean([one['epochs'] for one in own]):.0f}",
                    f"{np.mean([one['best']['epoch'] for one in own]):.0f}",
                    " and ".join(ends),
                ]
            )
    text = (
        f"Preset {study.base}; for all: {_named(study.common) or 'nothing'}; from the command line: "
        f"{' '.join(flags) or 'nothing'}."
    )
    return [
        ("heading", "What was run"),
        ("text", text),
        ("table", [["variant", "changes", "epochs", "best epoch", "ended by"], *rows]),
    ]


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _end(result: dict[str, Any], train: TrainSettings) -> str:
    if train.max_steps and result["steps"] >= train.max_steps:
        return "its steps"
    if not train.max_steps and result["epochs"] >= train.max_epochs:
        return "its epochs"
    # the last epoch that fits
    if train.max_minutes and result["training_seconds"] >= 57 * train.max_minutes:
        return "its minutes"
    return "validation, which rose no more"


def page_parts(
    study: Study,
    note: str,
    lines: Sequence[Line],
    run: Sequence[Part],
    slices: list[list[str]],
    failed: Sequence[str],
    drawn: Mapping[str, tuple[Path, str]],
) -> list[Part]:
    """What the page says, from top to bottom."""
    says, cannot = findings(lines)
    parts: list[Part] = [
        ("title", study.name),
        ("text", study.question),
        ("table", [HEADER, *table(lines)]),
        ("small", note),
        ("heading", "What it says"),
        ("list", says),
        ("heading", "What it cannot say"),
        ("list", cannot),
    ]
    for title, figure in drawn.items():
        parts += [("heading", title), ("figure", figure)]
    parts += run
    if slices:
        header = [
            "variant",
            "of",
            "slice",
            "users",
            "difference",
            "95 % interval",
            "everybody else",
        ]
        parts += [
            ("heading", "Where it changed most"),
            ("table", [header, *slices]),
            (
                "small",
                f"Groups of at least {FEWEST_IN_SLICE} users, picked out of all groups and variants by how "
                f"far they moved from everybody else, in units of its standard error over users: a place to "
                f"look, not a test, and without the luck of the seed.",
            ),
        ]
    return (
        [*parts, ("heading", "Not finished"), ("list", list(failed))]
        if failed
        else parts
    )


def _pair(
    variant: Variant, folders: Folders, results: Results
) -> tuple[np.ndarray, np.ndarray] | None:
    """The metric (S, P) of a variant and of what it is compared with, on the seeds that both
    have.

    None for the first variant, where there are no such seeds, and where the two were not asked
    the same.
    """
    common = _common_seeds(variant, folders)
    asked = set()
    for seed in common:
        for name in (variant.name, variant.against):
            result = results[name, seed]
            # Whether a model is told the time of the request is what it knows, not what it is
            # asked.
            protocol = re.sub("request time (un)?known", "", result["protocol"])
            asked.add((protocol, result["split_hash"]))
    if len(asked) != 1:
        return None
    ours, theirs = (
        np.stack([_of_users(folders[name, seed]) for seed in common])
        for name in (variant.name, variant.against)
    )
    return ours, theirs


def _common_seeds(variant: Variant, folders: Folders) -> list[int]:
    return [
        seed
        for name, seed in folders
        if name == variant.name and (variant.against, seed) in folders
    ]


def _requests(folder: Path) -> pd.Series:
    """The metric of each request by user, in the order of the split."""
    import pandas as pd

    frame = pd.read_parquet(
        folder / "best" / "test_users.parquet", columns=["user_id", METRIC]
    )
    return frame.set_index("user_id")[METRIC]


def _of_users(folder: Path) -> np.ndarray:
    """(P,) the metric of each user, the mean over the user's requests."""
    return _requests(folder).groupby(level=0).mean().to_numpy()


def ranking_of(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test metrics of the model of a run, not of popularity beside it."""
    return next(
        ranking for name, ranking in result["ranking"].items() if name != "popularity"
    )
