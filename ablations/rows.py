"""The rows of the results tables: trains or tunes them, ranks, compares, and says whether they come
out as reported.

    python -m ablations.rows vanilla --board loo-3416 --seeds 3     (or: make reproduce ROW=vanilla)
    python -m ablations.rows --board loo-3706                   all rows (or: make baselines)
    python -m ablations.rows vanilla --publish models           its best seed as a model to share

A trained row is a preset (a file of `configs/`) and one run a seed; the others are tuned on
validation, at most TRIALS settings. A finished run with the same settings, data and code is not
trained again; a stopped one continues. Results are in `results/BOARD/`: a record of each row, and
NDCG@10 of each user, with which the table of the board is drawn without measuring the other rows
again. Older results there are compared with the new ones, and replaced only with `--write`.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ablations.comparison import training_parser
from ablations.once import run_once
from ablations.publishing import BOTH, SAMPLED, publish, shown_of
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
from evaluation.report import cell
from evaluation.significance import compare, holm, mark
from evaluation.slices import by_time
from model_io import load_model
from settings import EvalSettings
from support.checkpoint import read_json
from support.errors import UserError, require, run_command
from support.files import replacing, write_json
from support.tables import show_tables, write_tables
from support.tracking import git_commit
from support.yaml_file import read_yaml

BOARDS: dict[str, dict[str, Any]] = {
    "loo-3416": {"min_item_count": 5},
    "loo-3706": {"min_item_count": 1},
    "global-time": {"min_item_count": 1, "protocol": "global_time"},
}
# rows that the others are tested against
AGAINST = ("vanilla", "sasrec", "pctm")
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
TRAINED = ("sasrec", "vanilla", "enhanced", "no_time", "timed", "original")
NAMES = (*BASELINES, *TRAINED)
# Of each board, without `original`, which takes hours.
ROWS = {
    "loo-3416": (*BASELINES, "vanilla", "sasrec", "no_time"),
    "loo-3706": (*BASELINES, "vanilla", "sasrec", "enhanced", "timed"),
    "global-time": (*BASELINES, "vanilla", "sasrec", "enhanced"),
}
STORED = np.float32
KEPT = ("steps", "git_commit", "parameters", "peak_memory_mb", "values")
KEPT += ("preferences",)
NOTE = (
    "{protocol}. ± standard deviation over seeds, 95 % bootstrap interval over users. pop-100: "
    "among 100 items drawn by popularity; those seen are left out, so fewer remain, as in "
    "published tables. Different, same timestamp: requests whose target has another timestamp "
    "than the item before it, or the same one, where the order may be that of the file. vs: "
    "difference in {metric}, randomisation test over users, Holm, * .05 ** .01 *** .001. Time: "
    "of training, or of all trials."
)


# Flags that would have no effect, or another one on training than on the test.
OWN = ("--preset", "--config", "--model", "--protocol", "--min_item_count")
OWN += ("--filter_seen", "--candidates")


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
) -> tuple[dict[str, Any], np.ndarray]:
    """A row's record, and its METRIC (S, P) of each seed and user."""
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
    # As they are stored, so that a table comes out the same later.
    values = np.stack(of_metric[METRIC]).astype(STORED)
    return record, values.astype(float)


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


def verdict(
    record: dict[str, Any], reported: dict[str, Any]
) -> tuple[bool, str]:
    """Whether a row came out as reported: the means differ by at most three standard errors, from
    the larger deviation over seeds, or by at most .001 if neither side has several seeds."""
    ours, theirs = (entry["test"][METRIC] for entry in (record, reported))
    spread = max(ours["sd_of_seeds"] or 0.0, theirs["sd_of_seeds"] or 0.0)
    runs = 1 / len(record["runs"]) + 1 / len(reported["runs"])
    room = 3 * spread * runs**0.5 or 0.001
    same = abs(ours["mean"] - theirs["mean"]) <= room
    outcome = "as reported" if same else "NOT AS REPORTED"
    if record["split_hash"] != reported["split_hash"]:
        outcome += (
            " (the split has another hash: other data, or an older version)"
        )
    return same, (
        f"{record['row']}: {METRIC} {ours['mean']:.4f}, reported {theirs['mean']:.4f} "
        f"on {reported['date']}, room {room:.4f}: {outcome}"
    )


def reported(
    folder: Path, split: str
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Row -> record, and row -> METRIC (S, P), of the results of a board; the metric of
    rows of this split alone. Raises `UserError` for a file that is damaged."""
    records, values = {}, {}
    for name in NAMES:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        records[name] = read_json(path)
        path = path.with_suffix(".npz")
        if path.exists() and records[name]["split_hash"] == split:
            values[name] = _stored(path)
    return records, values


def _of_split(records, data):
    """The records of the split of these data alone."""
    return {
        name: record
        for name, record in records.items()
        if record["split_hash"] == data.split_hash
    }


def _stored(path):
    try:
        with np.load(path) as file:
            return file[METRIC].astype(float)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and measure the row again with --write"
        ) from error


def report(path: Path, record: dict[str, Any], values: np.ndarray) -> None:
    """Write a row's record, and its METRIC (S, P) beside it."""
    with replacing(path.with_suffix(".npz")) as part:
        np.savez_compressed(part, **{METRIC: values.astype(STORED)})
    write_json(path.with_suffix(".json"), record)


def table(
    records: dict[str, dict[str, Any]], values: dict[str, np.ndarray]
) -> tuple[str, list[str], list[list[str]]]:
    """(what it means, header, rows): means over seeds, intervals over users, paired tests against
    the rows of AGAINST. values: row -> METRIC (S, P), of the rows to test."""
    # A row that is told the request time says so, and the line above the table is the others'.
    first = min(records.values(), key=_told)
    shown = shown_of(first["test"])
    references = [name for name in AGAINST if name in values]
    differences = {name: _differences(values, name) for name in references}
    rows = []
    for name, record in records.items():
        label = f"{name}, told the request time" if _told(record) else name
        row = [label, str(len(record["runs"]))]
        for metric in shown:
            entry = record["test"].get(metric)
            if entry is None:
                # A record of an older version.
                row.append("")
                continue
            mean, _, spread = cell(entry).partition("\n")
            if entry["sd_of_seeds"] is not None:
                mean += f"\n±{entry['sd_of_seeds']:.4f}"
            row.append(f"{mean}\n{spread}")
        row += [differences[other].get(name, "") for other in references]
        seconds = np.mean([run["seconds"] for run in record["runs"]])
        rows.append([*row, f"{seconds:,.0f} s"])
    note = NOTE.format(protocol=first["protocol"], metric=METRIC)
    against = [f"vs {name}" for name in references]
    return note, ["row", "runs", *shown, *against, "time"], rows


def _told(record):
    return record["settings"].get("query_time") == "known"


def _differences(values, against):
    """Row -> its difference to another one, with stars."""
    tests = {
        name: compare(ours, values[against])
        for name, ours in values.items()
        if name != against
    }
    corrected = holm({name: test.p_value for name, test in tests.items()})
    return {
        name: f"{test.difference:+.4f}{mark(corrected[name])}"
        for name, test in tests.items()
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
        require(
            not token.startswith(OWN),
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
