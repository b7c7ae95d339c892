"""The rows of the results tables: trains or tunes them, ranks, compares, and says whether they come
out as reported.

    python -m ablations.rows vanilla --board loo-3416 --seeds 3     (or: make reproduce ROW=vanilla)
    python -m ablations.rows --board loo-3706                   all rows (or: make baselines)
    python -m ablations.rows vanilla --publish models           its best seed as a model to share

A trained row is a preset (a file of `configs/`) and one run a seed; the others are tuned on
validation, at most TRIALS settings. A finished run with the same settings, data and code is not
trained again; a stopped one continues. Results are in `results/BOARD/`: a record of each row, and
the metrics of each user that are tested in pairs. With them the table of the board is drawn without
measuring the other rows again (boards.py). Older results there are compared with the new ones, and
replaced only with `--write`.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ablations.boards import (
    BOARDS,
    NAMES,
    ROWS,
    TESTED,
    TRAINED,
    Values,
    as_stored,
    report,
    reported,
    table,
    verdict,
)
from ablations.comparison import training_parser
from ablations.once import run_once
from ablations.publishing import BOTH, SAMPLED, publish
from ablations.study import ROOT, code_version, data_hash, run_key
from baselines.followers import pctm, sequential_rules
from baselines.neighbours import ease, item_knn, markov_chain
from baselines.popularity import Popularity, RecentPopularity
from command_line import parse_settings
from data_processor import load
from dataset import Dataset
from evaluation.metrics import METRIC, ONE_TARGET, interval, per_user
from evaluation.protocols import (
    Ranker,
    both_filters,
    protocol_line,
    target_ranks,
)
from evaluation.slices import by_time
from model_io import load_model
from settings import EvalSettings
from support.errors import require, run_command
from support.tables import show_tables, write_tables
from support.tracking import git_commit
from support.yaml_file import read_yaml

TRIALS = 24
# baselines read all of a history; models as much as their length
WHOLE_HISTORY = 10_000
BASELINES: dict[str, Callable[..., Ranker]] = {
    "popularity": Popularity,
    "recent_popularity": RecentPopularity,
    "markov_chain": markov_chain,
    "item_knn": item_knn,
    "ease": ease,
    "sequential_rules": sequential_rules,
    "pctm": pctm,
}
KEPT = ("steps", "git_commit", "parameters", "peak_memory_mb", "values")
KEPT += ("preferences",)
# Flags that would have no effect, or another one on training than on the test.
OWN = ("preset", "config", "model", "protocol", "min_item_count")
OWN += ("filter_seen", "candidates")


def grids() -> dict[str, dict[str, list[Any]]]:
    """Baseline -> setting -> values that are tried, at most TRIALS in all."""
    content, _ = read_yaml(ROOT / "ablations" / "baselines.yaml")
    return content


def tuned(name: str, data: Dataset) -> tuple[dict[str, Any], list[Ranker]]:
    """Record and ranker of the setting of a baseline that is best on validation."""
    build, grid = BASELINES[name], grids()[name]
    began = time.perf_counter()
    users, trials = data.split.requests["validation"].users, []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        ranker = build(data, **settings)
        rank = target_ranks(
            ranker, data, "validation", WHOLE_HISTORY, EvalSettings()
        )
        score = float(per_user(rank, users)[METRIC].mean())
        trials.append({**settings, "validation": score})
    best = dict(max(trials, key=lambda trial: trial["validation"]))
    run = {
        "validation": best.pop("validation"),
        "seconds": time.perf_counter() - began,
    }
    record = {"settings": best, "trials": trials, "runs": [run]}
    return record, [build(data, **best)]


def trained(
    name: str, flags: argparse.Namespace, extra: list[str], data: Dataset
) -> tuple[dict[str, Any], list[Ranker]]:
    """Record and models of a preset, one run a seed."""
    runs, models = [], []
    code, split = code_version(), data_hash(data)
    for seed in flags.seeds:
        settings = parse_settings(["--preset", name, *extra])
        settings = settings.replace(**BOARDS[flags.board], seed=seed)
        key = run_key(settings, split, code)
        place = flags.work / flags.board / f"{name}-{seed}-{key}"
        results = run_once(settings, place)
        run = {
            "seed": seed,
            "folder": place.name,
            "validation": results["best"][METRIC],
            "best_epoch": results["best"]["epoch"],
            "seconds": results["training_seconds"],
        }
        runs.append(run | {figure: results[figure] for figure in KEPT})
        models.append(load_model(place / "best").model.frozen())
    record = settings.recorded() | {"seed": flags.seeds}
    return {"settings": record, "runs": runs}, models


def measure(
    name: str, flags: argparse.Namespace, extra: list[str], data: Dataset
) -> tuple[dict[str, Any], Values]:
    """A row's record, and its metrics of each seed and user."""
    if name in TRAINED:
        record, rankers = trained(name, flags, extra, data)
    else:
        record, rankers = tuned(name, data)
    length = record["settings"].get("seq_length", WHOLE_HISTORY)
    told = record["settings"].get("query_time", "unknown")
    of_metric: dict[str, list[np.ndarray]] = {}
    for run, ranker in zip(record["runs"], rankers, strict=True):
        run["test"] = {}
        for metric, values in _test_metrics(ranker, data, length).items():
            run["test"][metric] = float(values.mean())
            of_metric.setdefault(metric, []).append(values)
    test = {}
    for metric, runs in of_metric.items():
        values = np.stack(runs)  # (S, P)
        spread = float(values.mean(1).std(ddof=1)) if len(runs) > 1 else None
        test[metric] = {**interval(values.mean(0)), "sd_of_seeds": spread}
    record = {
        "row": name,
        "board": flags.board,
        "protocol": protocol_line(data, "test", EvalSettings(), told),
        "test": test,
        "split_hash": data.split_hash,
        "git_commit": git_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **record,
    }
    values = {
        metric: as_stored(of_metric[metric])
        for metric in TESTED
        if metric in of_metric
    }
    return record, values


def _test_metrics(ranker, data, length):
    """Metric -> (P,) of each user, or of those with such a request."""
    users = data.split.requests["test"].users
    rankings = both_filters(EvalSettings(), data)
    # The sample as in the published tables.
    rankings[SAMPLED] = EvalSettings(candidates="popular_100_any")
    found = {}
    for kind, evaluation in rankings.items():
        rank = target_ranks(ranker, data, "test", length, evaluation)
        values = per_user(rank, users)
        if kind:
            found |= {f"{metric}{kind}": values[metric] for metric in BOTH}
            continue
        found |= {metric: values[metric] for metric in ONE_TARGET}
        for part, chosen in by_time(data, "test").items():
            values = per_user(rank[chosen], users[chosen])
            found[f"{METRIC}, {part}"] = values[METRIC]
    return found


def _of_split(records, data):
    """The records of the split of these data alone."""
    return {
        name: record
        for name, record in records.items()
        if record["split_hash"] == data.split_hash
    }


def _parser():
    parser = training_parser(__doc__, "rows", "3")
    parser.set_defaults(results=Path("results"))
    add = parser.add_argument
    add(
        "rows",
        nargs="*",
        help=f"of {', '.join(NAMES)} (default: those of the board)",
    )
    add("--board", choices=BOARDS, default="loo-3416", help="data, protocol")
    add("--write", action="store_true", help="replace what results/ reports")
    add("--publish", type=Path, help="folder for trained rows as models")
    return parser


def main(argv: list[str]) -> int:
    """Exit code 1 if a row does not come out as reported."""
    flags, extra = _parser().parse_known_args(argv)
    for name in flags.rows:
        require(
            name in NAMES, f"no row {name!r}; there are {', '.join(NAMES)}"
        )
    for token in extra:
        name = token.removeprefix("--").replace("-", "_")
        require(
            not (token.startswith("--") and name.startswith(OWN)),
            f"{token}: a row has its own preset, model and protocol; drop the flag",
        )
    settings = parse_settings(extra)
    data = load(settings.replace(**BOARDS[flags.board]).data)
    folder, work = flags.results / flags.board, flags.work / flags.board
    folder.mkdir(parents=True, exist_ok=True)
    records, values = reported(folder, data.split_hash)
    # Rows of other data than these are compared with, and not mixed.
    foreign = len(_of_split(records, data)) < len(records)
    changed, failed = False, False
    for name in flags.rows or ROWS[flags.board]:
        older = records.get(name)
        records[name], values[name] = measure(name, flags, extra, data)
        if older:
            same, line = verdict(records[name], older)
            failed |= not same
            print(line)
        if flags.write or not (older or foreign):
            report(folder / name, records[name], values[name])
            changed = True
        if flags.publish and name in TRAINED:
            publish(records[name], work, flags.publish / name)
    title = f"Board {flags.board}"
    show_tables([(title, *table(_of_split(records, data), values))])
    if changed:
        of_files = table(*reported(folder, data.split_hash))
        write_tables([(title, *of_files)], folder / "table.md")
    return int(failed and not flags.write)


if __name__ == "__main__":
    sys.exit(run_command(main))
