"""The results of a board in `results/BOARD/`: a record of each row, the metrics of each user that
are tested in pairs, and the table that is drawn from them.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ablations.publishing import shown_of
from evaluation.metrics import METRIC
from evaluation.report import cell
from evaluation.significance import holm, mark, randomisation_test
from support.checkpoint import read_json
from support.errors import UserError
from support.files import replacing, write_json

BOARDS: dict[str, dict[str, Any]] = {
    "loo-3416": {"min_item_count": 5},
    "loo-3706": {"min_item_count": 1},
    "global-time": {"min_item_count": 1, "protocol": "global_time"},
}
# Baselines, tuned on validation; and presets, trained.
TUNED = (
    "popularity",
    "recent_popularity",
    "markov_chain",
    "item_knn",
    "ease",
    "sequential_rules",
    "pctm",
)
TRAINED = ("sasrec", "vanilla", "enhanced", "no_time", "timed", "original")
NAMES = (*TUNED, *TRAINED)
# Of each board, without `original`, which takes hours.
ROWS = {
    "loo-3416": (*TUNED, "vanilla", "sasrec", "no_time"),
    "loo-3706": (*TUNED, "vanilla", "sasrec", "enhanced", "timed"),
    "global-time": (*TUNED, "vanilla", "sasrec", "enhanced"),
}
# rows that the others are tested against
AGAINST = ("vanilla", "sasrec", "pctm")
STORED = np.float32
DIFFERENT = f"{METRIC}, different timestamp"
TESTED = (METRIC, DIFFERENT)  # in pairs
NOTE = (
    "{protocol}. ± standard deviation over seeds, 95 % bootstrap interval over users. pop-100: "
    "among 100 items drawn by popularity; those seen are left out, so fewer remain, as in "
    "published tables. Different, same timestamp: requests whose target has another timestamp "
    "than the item before it, or the same one, where the order may be that of the file. vs: "
    "difference in {metric}, of all or where the timestamp is different; randomisation test over "
    "users, Holm, * .05 ** .01 *** .001. Time: of training, or of all trials."
)


# Metric of TESTED -> (S, P) of each seed and user.
Values = dict[str, np.ndarray]


def reported(
    folder: Path, split: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Values]]:
    """Row -> record, and row -> metrics of each user, of the results of a board; the metrics of
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


def _stored(path):
    try:
        with np.load(path) as file:
            return {name: file[name].astype(float) for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and measure the row again with --write"
        ) from error


def as_stored(runs: list[np.ndarray]) -> np.ndarray:
    """(S, P) with the digits that a file keeps, so that a table comes out the same later."""
    return np.stack(runs).astype(STORED).astype(float)


def report(path: Path, record: dict[str, Any], values: Values) -> None:
    """Write a row's record, and its metrics of each user beside it."""
    stored = {metric: found.astype(STORED) for metric, found in values.items()}
    with replacing(path.with_suffix(".npz")) as part:
        np.savez_compressed(part, **stored)
    write_json(path.with_suffix(".json"), record)


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


def table(
    records: dict[str, dict[str, Any]], values: dict[str, Values]
) -> tuple[str, list[str], list[list[str]]]:
    """(what it means, header, rows): means over seeds, intervals over users, paired tests against
    the rows of AGAINST. values: row -> its metrics of each user, of the rows to test."""
    # A row that is told the request time says so, and the line above the table is the others'.
    first = min(records.values(), key=_told)
    shown = shown_of(first["test"])
    tests = _tests(values)
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
        row += [differences.get(name, "") for differences in tests.values()]
        seconds = np.mean([run["seconds"] for run in record["runs"]])
        rows.append([*row, f"{seconds:,.0f} s"])
    note = NOTE.format(protocol=first["protocol"], metric=METRIC)
    return note, ["row", "runs", *shown, *tests, "time"], rows


def _told(record):
    return record["settings"].get("query_time") == "known"


def _tests(values):
    """Column -> row -> its difference to a row of AGAINST, with stars."""
    columns = {}
    for metric in TESTED:
        found = {
            name: of_row[metric]
            for name, of_row in values.items()
            if metric in of_row
        }
        for reference in AGAINST:
            if reference in found:
                part = metric.removeprefix(METRIC)
                columns[f"vs {reference}{part}"] = _differences(
                    found, reference
                )
    return columns


def _differences(values, against):
    """Row -> its difference to another one, with stars."""
    means = {name: runs.mean(0) for name, runs in values.items()}
    theirs = means.pop(against)
    differences = {name: ours - theirs for name, ours in means.items()}
    p_values = {
        name: randomisation_test(difference)
        for name, difference in differences.items()
    }
    corrected = holm(p_values)
    return {
        name: f"{difference.mean():+.4f}{mark(corrected[name])}"
        for name, difference in differences.items()
    }
