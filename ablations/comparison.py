"""What the measurements beside the studies share: conditions, paired comparisons, cells."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataset import Dataset
from evaluation.metrics import interval
from evaluation.protocols import filters_seen
from evaluation.report import cell
from evaluation.significance import compare, compare_over_seeds, holm, mark
from settings import BOOKKEEPING, Settings
from support.checkpoint import write_json
from support.errors import UserError
from support.tables import print_table, write_tables
from support.tracking import git_commit

METRIC = "NDCG@10"
MEANING = (
    "95 % bootstrap intervals over users; * .05 ** .01 *** .001 where the row compared with is "
    "better or worse: paired, Holm"
)
# question -> row -> (S, P) the metric of each seed and user
Values = Mapping[str, Mapping[str, np.ndarray]]
Summary = dict[str, dict[str, dict[str, Any]]]


def check_full_ranking(settings: Settings, data: Dataset) -> None:
    """Raises `UserError` for settings under which the notes of the tables would not be true."""
    if settings.train.teacher or settings.train.start_from:
        raise UserError(
            "what the models of this table begin with is not to be chosen: drop --teacher and "
            "--start_from"
        )
    full = settings.eval.candidates == "full" and filters_seen(
        settings.eval, data
    )
    if settings.model.query_time != "unknown" or not full:
        raise UserError(
            "these tables rank all items but those of the history, at an unknown time: drop "
            "--query_time and --candidates, and give --filter_seen yes"
        )


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on."""
    values = settings.to_dict()
    return {
        name: value
        for name, value in values.items()
        if name not in BOOKKEEPING
    }


def summary(values: Values, against: str) -> Summary:
    """Question -> row -> users, mean, interval over users, each seed's mean, and the gain of the
    row `against` over it, p corrected for the number of comparisons (Holm)."""
    result: Summary = {}
    gains = []
    for question, rows in values.items():
        result[question] = {}
        for name, metric in rows.items():
            row = {
                "users": metric.shape[1],
                **interval(metric.mean(0)),
                "seeds": metric.mean(1).tolist(),
            }
            if name != against:
                row["gain"] = _gain(rows[against], metric)
                gains.append(row["gain"])
            result[question][name] = row
    corrected = holm([gain["p_value"] for gain in gains])
    for gain, p_value in zip(gains, corrected, strict=True):
        gain["p_value"] = p_value
    return result


def _gain(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    several = len(ours) == len(theirs) > 1 and ours.shape[1] > 1
    test = (
        compare_over_seeds(ours, theirs) if several else compare(ours, theirs)
    )
    return dataclasses.asdict(test)


def marked_cell(row: dict[str, Any] | None) -> str:
    """A row's figure as tables show it."""
    if row is None:
        return ""
    return cell(row, mark(row["gain"]["p_value"]) if "gain" in row else "")


def write_results(
    folder: Path,
    title: str,
    note: str,
    header: list[str],
    rows: list[list[str]],
    content: dict[str, Any],
) -> None:
    """Print a table, and leave table.md and results.json in a folder."""
    print_table(title, note, header, rows)
    write_tables(folder / "table.md", note, header, rows)
    write_json(
        folder / "results.json",
        {"note": note, "git_commit": git_commit(), **content},
    )
