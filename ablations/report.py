"""The page that a study ends in: each variant beside the one it is compared with, on the same people and seeds.

`results/STUDY/` gets report.md, report.html (the same, in one file), the figures as SVG and PNG, runs.json with each
run's figures, and what this page can be made from again (`ablations/archive.py`). The page holds means and differences
over groups of people, no data of single ones; what it is made from has a figure a request, in an order of no meaning.

    python -m ablations.report options          # what ablations.run was last asked of it, or with flags of its own
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations import figures
from ablations.archive import code_of
from ablations.live import evaluations
from ablations.page import Part, write_page
from ablations.study import Study, Variant
from data_processor import load
from evaluation.metrics import bootstrap_interval
from evaluation.report import print_table
from evaluation.significance import Comparison, compare, compare_over_seeds, holm, mark, seed_spread
from evaluation.slices import request_slices
from settings import TrainSettings
from support.checkpoint import read_json, write_json
from support.errors import UserError, run_command

if TYPE_CHECKING:
    import pandas as pd

METRIC = "NDCG@10"
HEADER = ["variant", "runs", f"validation\n{METRIC}", f"test\n{METRIC}", "against", "validation\ndifference",
          "test\ndifference", "processor\ns an epoch", "processor\nmin in all", "parameters", "memory,\nMB"]
EXPLANATION = (". ± standard deviation over seeds; difference to the variant named, on the same people and seeds (none "
               "where the two were asked something else): 95 % interval of this one difference and paired t test over "
               "people and seeds, the luck of the seed pooled over the study or this difference's own where that is "
               "larger; p corrected for all comparisons "
               "(Holm), * .05 ** .01 *** .001; with one seed, interval over people alone and no test; below its "
               "reference each variant by the gain on validation; processor time of training and validation, of all "
               "cores together, without what comes before (an SVD, a graph trained beforehand, sentence vectors, "
               "teachers), to be compared where all ran on one machine, a core each, with nothing beside them")
FEWEST_IN_SLICE = 100  # people
Folders = Mapping[tuple[str, int], Path]  # (variant, seed) -> folder of a finished run
Results = Mapping[tuple[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """A variant's figures: one value a seed, and the comparison with another variant where there is one."""

    variant: Variant
    validation: np.ndarray  # (S,)
    test: np.ndarray  # (S,)
    gain: float | None  # on validation, mean over the seeds that both have
    comparison: Comparison | None  # on the test people
    p_value: float  # corrected for the number of comparisons; 1 where one seed allows no test
    tested: bool
    seconds: float  # of an epoch, of all cores together; nan where older code has not measured it
    all_seconds: float  # of the whole training, likewise; both without what comes before
    parameters: int
    memory: float  # MB
    main: bool  # compared with the study's first variant
    rising: int  # runs whose last evaluation was their best

    @property
    def told_time(self) -> bool:
        """Whether the model knows when the recommendation is asked for."""
        return self.variant.settings.model.query_time == "known"

    @property
    def all_minutes(self) -> float:
        """Processor minutes of the whole training."""
        return self.all_seconds / 60

    @property
    def thousands(self) -> float:
        """Parameters in thousands."""
        return self.parameters / 1000

    @property
    def named(self) -> str:
        """The variant, and what it is compared with if that is not the first one."""
        return self.variant.name if self.main else f"{self.variant.name} (against {self.variant.against})"


def study_lines(study: Study, folders: Folders, results: Results) -> list[Line]:
    """The first variant, then the others: below what they are compared with, by their gain on validation."""
    done = [variant for variant in study.variants if any(name == variant.name for name, _ in folders)]
    pairs = {variant.name: _pair(variant, folders, results) for variant in done}
    of_seeds = [np.stack([_of_people(folder) for (name, _), folder in folders.items() if name == variant.name])
                for variant in done]
    of_seeds = [values for values in of_seeds if len(values) > 1]
    spread = seed_spread(of_seeds) if of_seeds else None
    tests = {name: None if pair is None else compare(*pair) if len(pair[0]) == 1 else compare_over_seeds(*pair, spread)
             for name, pair in pairs.items()}
    p_values = {variant.name: tests[variant.name].p_value for variant in done
                if tests[variant.name] is not None and len(_common_seeds(variant, folders)) > 1}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    lines = []
    for variant in done:
        own = {seed: results[name, seed] for name, seed in folders if name == variant.name}
        gains = [result["best"][METRIC] - results[variant.against, seed]["best"][METRIC]
                 for seed, result in own.items() if (variant.against, seed) in results]
        test = tests[variant.name]
        mean = {name: float(np.mean([result.get(name, np.nan) for result in own.values()]))  # older runs lack times
                for name in ("processor_seconds", "parameters", "peak_memory_mb")}
        epochs = np.mean([_epochs(result, folders[variant.name, seed]) for seed, result in own.items()])
        lines.append(Line(
            variant, np.array([result["best"][METRIC] for result in own.values()]),
            np.array([_ranking(result)[METRIC]["mean"] for result in own.values()]),
            None if test is None else float(np.mean(gains)), test, corrected.get(variant.name, 1.0),
            variant.name in p_values,
            mean["processor_seconds"] / epochs, mean["processor_seconds"], int(mean["parameters"]),
            mean["peak_memory_mb"], variant.against in ("", study.variants[0].name),
            sum(_still_rising(result, folders[variant.name, seed]) for seed, result in own.items())))
    order = [variant.name for variant in study.variants]
    return sorted(lines, key=lambda line: (
        line.variant.against != "", order.index(line.variant.against or order[0]),
        np.inf if line.gain is None else -line.gain))


def table(lines: list[Line]) -> list[list[str]]:
    """The rows under HEADER."""
    rows = []
    for line in lines:
        cells = [f"{value.mean():.4f}" + (f"\n±{value.std(ddof=1):.4f}" if len(value) > 1 else "")
                 for value in (line.validation, line.test)]
        differences, test = ["", ""], line.comparison
        if test is not None:
            differences = [f"{line.gain:+.4f}", f"{test.difference:+.4f}{mark(line.p_value)}\n"
                                                f"{test.low:+.4f} to {test.high:+.4f}"]
        times = ["", ""] if np.isnan(line.seconds) else [f"{line.seconds:.1f}", f"{line.all_minutes:.1f}"]
        rows.append([line.variant.name, str(len(line.test)), *cells, line.variant.against, *differences,
                     *times, f"{line.parameters:,.0f}", f"{line.memory:,.0f}"])
    return rows


def asked_alike(lines: list[Line]) -> list[Line]:
    """The first, and those that were asked what it was asked: compared with it, or with one that was."""
    alike = {line.variant.name: line for line in lines[:1]}
    for line in lines:
        if line.comparison is not None and line.variant.against in alike:
            alike[line.variant.name] = line
    return list(alike.values())


def findings(lines: list[Line]) -> tuple[list[str], list[str]]:
    """(what the study says, what it cannot say), a sentence each."""
    compared = [line for line in lines if line.comparison is not None]
    tested = [line for line in compared if line.tested]
    seeds = min((len(line.test) for line in lines), default=0)
    says = []
    better, worse = ([line for line in compared if line.p_value < 0.05 and (line.comparison.difference > 0) == sign]
                     for sign in (True, False))
    knows = {line.variant.name: line.told_time for line in lines}
    told = [line for line in better if knows[line.variant.name] and not knows[line.variant.against]]
    if tested:
        says.append(f"Of {len(tested)} comparisons, {len(better)} are for the variant on the test items and "
                    f"{len(worse)} against it, beyond what chance among people and seeds gives (Holm, .05).")
    for words, those in (("Better", [line for line in better if line not in told]),
                         ("Better, but told when the recommendation is asked for, which no setting can choose", told),
                         ("Worse", worse)):
        if those:
            says.append(f"{words}: " + ", ".join(f"{line.named} ({line.comparison.difference:+.4f})"
                                                 for line in those) + ".")
    best = max((line for line in asked_alike(lines) if line.told_time == lines[0].told_time),
               key=lambda line: line.validation.mean(), default=None)
    if best is not None:
        says.append(f"Validation, by which a setting would be chosen, is highest for {best.variant.name} "
                    f"({best.validation.mean():.4f}"
                    + (f", {best.gain:+.4f} over {best.variant.against}" if best.gain is not None else "") + ").")
    untested = [line.named for line in compared if not line.tested]
    cannot = [f"With one seed, nothing of the luck of the seed; not tested: {', '.join(untested)}."] if untested else []
    if seeds > 1:
        spread = np.sqrt(np.mean([line.test.var(ddof=1) for line in lines]))
        cannot.append(f"The luck of the seed is measured by {seeds} seeds a variant: its standard deviation is about "
                      f"{spread:.4f}.")
    if compared:
        reach = np.median([(line.comparison.high - line.comparison.low) / 2 for line in compared])
        cannot.append(f"Differences on test of less than about {reach:.4f}, half of the median interval.")
    if rising := sum(line.rising for line in lines):
        cannot.append(f"What longer schedules give: in {rising} of {sum(len(line.test) for line in lines)} runs the "
                      f"last evaluation was the best one.")
    return says, [*cannot, "One data set, and each variant at the settings that its line gives: one that wants more "
                           "steps or another learning rate may do better.",
                  "What several changes do together: gains need not add up."]


def changed_slices(lines: list[Line], folders: Folders, most: int = 8) -> list[list[str]]:
    """The groups whose metric moved most otherwise than everybody else's, for its noise: [variant, family, slice,
    people, difference, interval, everybody else's difference]."""
    rows, known = [], {}
    for line in (line for line in lines if line.comparison is not None):
        variant, settings = line.variant, line.variant.settings.data
        if settings not in known:
            known[settings] = request_slices(load(settings), "test")
        of_seeds = [_requests(folders[variant.name, seed]) - _requests(folders[variant.against, seed])
                    for seed in _common_seeds(variant, folders)]  # by person, an entry a request
        difference = sum(of_seeds) / len(of_seeds)
        for family, parts in known[settings].items():
            for place, (name, chosen) in enumerate(parts.items()):
                if any(np.array_equal(~chosen, other) for other in list(parts.values())[:place]):
                    continue  # everybody else, who have been asked
                of_people, of_others = (difference[part].groupby(level=0).mean().to_numpy()
                                        for part in (chosen, ~chosen))
                if min(len(of_people), len(of_others)) >= FEWEST_IN_SLICE:
                    low, high = bootstrap_interval(of_people, 500)
                    error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in (of_people, of_others)))
                    rows.append((abs(of_people.mean() - of_others.mean()) / max(error, 1e-12), [
                        line.named, family, name, f"{len(of_people):,}", f"{of_people.mean():+.4f}",
                        f"{low:+.4f} to {high:+.4f}", f"{of_others.mean():+.4f}"]))
    return [cells for _, cells in sorted(rows, key=lambda row: -row[0])[:most]]


def write_report(study: Study, folders: Folders, failed: list[str], flags: list[str], place: Path) -> None:
    """Print the table and write the page.

    flags: what was changed for all variants on the command line. Raises `UserError` if no run of the study is finished.
    """
    if not folders:
        raise UserError(f"{study.name}: no run came to its end; mend this and start it again: {'; '.join(failed)}")
    results = {run: read_json(folder / "best" / "results.json") for run, folder in folders.items()}
    lines = study_lines(study, folders, results)
    protocols = dict.fromkeys(result["protocol"] for result in results.values())
    note = "; ".join(protocols) + EXPLANATION + _code(results, folders)
    print_table(study.question, note, HEADER, table(lines))
    for line in failed:
        print("failed:", line)
    told, slices = what_was_run(study, flags, results), changed_slices(lines, folders)
    curves = {run: evaluations(folder) for run, folder in folders.items()}
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".report-") as scratch:  # half a page replaces none
        part = Path(scratch)
        drawn = figures.draw(lines, asked_alike(lines), curves, METRIC, part)
        write_page(page_parts(study, note, lines, told, slices, failed, drawn), part / "report")
        write_json(part / "runs.json", _record(study, flags, results))
        for file in part.iterdir():
            file.replace(place / file.name)


def _record(study: Study, flags: list[str], results: Results) -> dict[str, Any]:
    """What runs.json says: the study, and each run's figures."""
    return {
        "study": study.name, "base": study.base, "settings": study.common, "flags": flags,
        "variants": {variant.name: {**variant.changes, "against": variant.against} for variant in study.variants},
        "runs": [{"variant": name, "seed": seed, "validation": result["best"][METRIC], "protocol": result["protocol"],
                  "test": {metric: entry["mean"] for metric, entry in _ranking(result).items()},
                  **{key: result[key] for key in ("epochs", "steps", "training_seconds", "parameters",
                                                  "peak_memory_mb", "git_commit", "split_hash")}}
                 for (name, seed), result in results.items()]}


def what_was_run(study: Study, flags: list[str], results: Results) -> list[Part]:
    """The preset and what was changed for all; of each variant its changes, how long it trained and what ended it."""
    common = ", ".join(f"{name} {value}" for name, value in study.common.items())
    rows = []
    for variant in study.variants:
        own = [result for (name, _), result in results.items() if name == variant.name]
        if own:
            best, all_epochs = (np.mean([result["best"]["epoch"] for result in own]),
                                np.mean([result["epochs"] for result in own]))
            ends = dict.fromkeys(_end(result, variant.settings.train) for result in own)
            rows.append([variant.name, ", ".join(f"{name} {value}" for name, value in variant.changes.items()),
                         f"{all_epochs:.0f}", f"{best:.0f}", " and ".join(ends)])
    text = f"Preset {study.base}" + (f", for all: {common}" if common else "") + \
        (f", from the command line: {' '.join(flags)}" if flags else "") + "."
    return [("heading", "What was run"), ("text", text),
            ("table", [["variant", "changes", "epochs", "best epoch", "ended by"], *rows])]


def _epochs(result: dict[str, Any], folder: Path) -> float:
    """How many a run trained for; a budget of steps may end in the middle of one, an evaluation before that not."""
    first = evaluations(folder)[:1]
    return result["steps"] * first[0]["epoch"] / first[0]["step"] if first else result["epochs"]


def _still_rising(result: dict[str, Any], folder: Path) -> bool:
    """Whether the last evaluation of a run was its best."""
    return any(result["best"]["epoch"] == last["epoch"] for last in evaluations(folder)[-1:])


def _end(result: dict[str, Any], train: TrainSettings) -> str:
    if train.max_steps and result["steps"] >= train.max_steps:
        return "its steps"
    if not train.max_steps and result["epochs"] >= train.max_epochs:
        return "its epochs"
    if train.max_minutes and result["training_seconds"] >= 57 * train.max_minutes:  # the last epoch that fits
        return "its minutes"
    return "validation, which rose no more"


def page_parts(study: Study, note: str, lines: list[Line], told: list[Part], slices: list[list[str]],
               failed: list[str], drawn: Mapping[str, tuple[Path, str]]) -> list[Part]:
    """What the page says, from top to bottom."""
    says, cannot = findings(lines)
    parts: list[Part] = [("title", study.name), ("text", study.question), ("table", [HEADER, *table(lines)]),
                         ("small", note), ("heading", "What it says"), ("list", says),
                         ("heading", "What it cannot say"), ("list", cannot)]
    for title, figure in drawn.items():
        parts += [("heading", title), ("figure", figure)]
    parts += told
    if slices:
        parts += [("heading", "Where it changed most"),
                  ("table", [["variant", "of", "slice", "people", "difference", "95 % interval",
                             "everybody else"], *slices]),
                  ("small", f"Groups of at least {FEWEST_IN_SLICE} people, picked out of all groups and variants by "
                            f"how far they moved from everybody else, in units of its standard error over people: a "
                            f"place to look, not a test, and without the luck of the seed.")]
    return [*parts, ("heading", "Not finished"), ("list", failed)] if failed else parts


def _pair(variant: Variant, folders: Folders, results: Results) -> tuple[np.ndarray, np.ndarray] | None:
    """The metric (S, P) of a variant and of what it is compared with, on the seeds that both have.

    None for the first variant, where there are no such seeds, and where the two were not asked the same.
    """
    seeds = _common_seeds(variant, folders)
    # Whether a model is told the time of the request is what it knows, not what it is asked.
    asked = {(re.sub("request time (un)?known", "", results[name, seed]["protocol"]), results[name, seed]["split_hash"])
             for name in (variant.name, variant.against) for seed in seeds}
    if len(asked) != 1:
        return None
    ours, theirs = (np.stack([_of_people(folders[name, seed]) for seed in seeds])
                    for name in (variant.name, variant.against))
    return ours, theirs


def _common_seeds(variant: Variant, folders: Folders) -> list[int]:
    return [seed for name, seed in folders if name == variant.name and (variant.against, seed) in folders]


def _requests(folder: Path) -> pd.Series:
    """The metric of each request by person, in the order of the split."""
    import pandas as pd

    frame = pd.read_parquet(folder / "best" / "test_users.parquet", columns=["user_id", METRIC])
    return frame.set_index("user_id")[METRIC]


def _of_people(folder: Path) -> np.ndarray:
    """(P,) the metric of each person, the mean over their requests."""
    return _requests(folder).groupby(level=0).mean().to_numpy()


def _code(results: Results, folders: Folders) -> str:
    """The commits of the runs; where the code of training is not the same in all, which runs are whose."""
    of_code: dict[str, list[tuple[str, str]]] = {}
    for (name, seed), result in results.items():
        of_code.setdefault(code_of(folders[name, seed]) or result["git_commit"], []).append(
            (result["git_commit"], f"{name} ({seed})"))
    commits = [" and ".join(dict.fromkeys(commit for commit, _ in runs)) for runs in of_code.values()]
    if len(of_code) == 1:
        (code,) = of_code
        return f"; commit {commits[0]}" + (f", code of training {code}" if code not in commits[0] else "")
    return "; NOT ALL OF ONE CODE, so a difference may be of code: " + "; ".join(
        f"{commit}: {', '.join(name for _, name in runs)}" for commit, runs in zip(commits, of_code.values(),
                                                                                   strict=True))


def _ranking(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test metrics of the model of a run, not of popularity beside it."""
    return next(ranking for name, ranking in result["ranking"].items() if name != "popularity")


def main(argv: list[str]) -> int:
    """Write a study's page again."""
    from ablations.archive import unpack
    from ablations.run import last_command, report, study_and_runs, with_older_code

    study, runs, flags, of_all = study_and_runs(last_command(argv))
    packed = unpack([Path("results") / study.name, flags.results / study.name], [], flags.work,
                    runs[0].settings.data.data_dir)
    return report(study, with_older_code(runs, flags.work / f"{study.name}.command.json", packed), flags, of_all)


if __name__ == "__main__":
    sys.exit(run_command(main))
