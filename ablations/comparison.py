"""Shared by the measurements outside studies: flags, checks, paired comparisons, tables."""

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
from settings import Settings
from support.arguments import ArgumentParser, seeds
from support.errors import require
from support.files import write_json
from support.tables import Table, show_tables
from support.tracking import git_commit

MEANING = (
    "95 % bootstrap intervals over users; * .05 ** .01 *** .001 where the row compared with is "
    "better or worse: paired, Holm"
)
# question -> row -> for each seed (P,) the metric of each user
Values = dict[str, dict[str, list[np.ndarray]]]
Summary = dict[str, dict[str, dict[str, Any]]]


def training_parser(description: str, name: str, count: str) -> ArgumentParser:
    """The flags of a program that trains models for a table. count: default number of seeds."""
    parser = ArgumentParser(description)
    add = parser.add_argument
    add("--seeds", type=seeds, default=count, help="how many: 42, 43, ...")
    add("--work", type=Path, default=Path("runs", name), help="its models")
    add("--results", type=Path, default=Path("runs/results", name))
    return parser


def check_full_ranking(
    settings: Settings, data: Dataset, **fixed: str
) -> None:
    """Raises `UserError` for settings that contradict the notes of the tables."""
    fixed |= {"teacher": "", "start_from": "", "candidates": "full"}
    fixed["query_time"] = "unknown"
    for name, value in fixed.items():
        require(
            settings.to_dict()[name] == value,
            f"these tables are made with --{name} {value or 'none'}: drop the flag",
        )
    require(
        filters_seen(settings.eval, data),
        "these tables leave the history out: give --filter_seen yes",
    )


def collect(
    values: Values, row: str, answers: Mapping[str, np.ndarray]
) -> None:
    """Add one seed of a row: the metric of each user, by question."""
    for question, metric in answers.items():
        values.setdefault(question, {}).setdefault(row, []).append(metric)


def summary(values: Values, against: str) -> Summary:
    """Question -> row -> users, mean, interval over users, each seed's mean, and the gain of the
    row `against` over it, p corrected for the number of comparisons (Holm)."""
    result: Summary = {}
    p_values = {}
    for question, rows in values.items():
        result[question] = {}
        ours = np.stack(rows[against])  # (S, P)
        for name, runs in rows.items():
            theirs = np.stack(runs)
            row = result[question][name] = {
                "users": theirs.shape[1],
                **interval(theirs.mean(0)),
                "seeds": theirs.mean(1).tolist(),
            }
            if name == against:
                continue
            several = len(ours) == len(theirs) > 1 and ours.shape[1] > 1
            test = compare_over_seeds if several else compare
            row["gain"] = dataclasses.asdict(test(ours, theirs))
            p_values[question, name] = row["gain"]["p_value"]
    for (question, name), p_value in holm(p_values).items():
        result[question][name]["gain"]["p_value"] = p_value
    return result


def marked_cell(row: dict[str, Any] | None) -> str:
    """A row's figure for a table."""
    if row is None:
        return ""
    return cell(row, mark(row["gain"]["p_value"]) if "gain" in row else "")


def write_results(
    folder: Path, tables: list[Table], content: dict[str, Any]
) -> None:
    """Print tables, and leave table.md and the figures as results.json in a folder."""
    show_tables(tables, folder / "table.md")
    content = {"note": tables[0][1], "git_commit": git_commit(), **content}
    write_json(folder / "results.json", content)
