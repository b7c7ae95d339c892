"""The pages of studies, drawn from what results/STUDY/runs.json holds.

    python -m ablations.pages results      # all of them again

A study has report.md and index.html, whose table can be sorted. results/index.html lists all
studies, each with its finding.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import METRIC
from support.arguments import ArgumentParser
from support.errors import require, run_command
from support.files import write_text
from support.tables import table_text

TEMPLATES = Path(__file__).parent / "templates"
RUNS = "runs.json"
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
# Of the page, where `against` stands beside the variant.
COLUMNS = (
    "variant",
    "test difference",
    f"test {METRIC}",
    f"validation {METRIC}",
    "validation difference",
    "processor min",
    "parameters",
    "memory, MB",
)
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
REPORT = """# {study}

{question}

{finding}

{table}
{note}

## What it cannot say

{limits}

## What was run

Preset {base}; for all: {common}; from the command line: {flags}.

{changes}
## Not finished

{failed}
"""
# The content of runs.json, see `ablations.report`.
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A variant. validation, test: (runs,) METRIC of each seed. difference: to the variant
    `against` on test, with interval; None where there is none."""

    name: str
    against: str
    validation: np.ndarray
    test: np.ndarray
    difference: Mapping[str, Any] | None
    minutes: float
    parameters: float
    memory: float


def rows_of(record: Record) -> list[Row]:
    """The variants that have a finished run, in the study's order."""
    rows = []
    for name, variant in record["variants"].items():
        runs = [run for run in record["runs"] if run["variant"] == name]
        if not runs:
            continue

        def mean(key, runs=runs):
            return float(np.mean([run[key] for run in runs]))

        row = Row(
            name=name,
            against=variant["against"],
            validation=np.array([run["validation"] for run in runs]),
            test=np.array([run["test"][METRIC] for run in runs]),
            difference=record["differences"].get(name),
            minutes=mean("processor_seconds") / 60,
            parameters=mean("parameters"),
            memory=mean("peak_memory_mb"),
        )
        rows.append(row)
    return rows


def table(rows: list[Row]) -> list[list[str]]:
    """The cells under HEADER."""
    cells = []
    for row in rows:
        differences = ["", ""]
        if row.difference:
            found = row.difference
            interval = f"{found['low']:+.4f} to {found['high']:+.4f}"
            test = f"{found['test']:+.4f}{found['mark']}"
            differences = [
                f"{found['validation']:+.4f}",
                f"{test}\n{interval}",
            ]
        line = [
            row.name,
            str(len(row.test)),
            "\n".join(_with_spread(row.validation)),
            "\n".join(_with_spread(row.test)),
            row.against,
            *differences,
            f"{row.minutes:.1f}",
            f"{row.parameters:,.0f}",
            f"{row.memory:,.0f}",
        ]
        cells.append(line)
    return cells


def _with_spread(values):
    """The mean, and the standard deviation where there are several seeds."""
    mean = f"{values.mean():.4f}"
    return [mean, f"±{values.std(ddof=1):.4f}"] if len(values) > 1 else [mean]


def finding(rows: list[Row]) -> str:
    """What differs from its reference beyond chance, in words."""
    compared = [row for row in rows if row.difference]
    if not compared:
        return "Nothing was compared: no variant and its reference have both finished."
    sure = [row for row in compared if row.difference["mark"]]
    parts = []
    for word, sign in (("Better", 1), ("Worse", -1)):
        found = [row for row in sure if sign * row.difference["test"] > 0]
        if found:
            found.sort(key=lambda row: -abs(row.difference["test"]))
            named = ", ".join(_named_gain(row) for row in found)
            parts.append(f"{word} in test {METRIC}: {named}.")
    left = len(compared) - len(sure)
    if left == len(compared):
        parts.append("All differences on test may be chance.")
    elif left > 1:
        parts.append(f"The other {left} differences may be chance.")
    elif left:
        parts.append("The other difference may be chance.")
    return " ".join(parts)


def _named_gain(row):
    return f"{row.name} ({row.difference['test']:+.4f} against {row.against})"


def title(record: Record) -> str:
    """The first sentence of the question."""
    question = record["question"] or record["study"]
    first, mark, _ = question.partition("?")
    return first + mark


def note(record: Record) -> str:
    """Protocol, explanation of the columns, version of the code."""
    protocols = dict.fromkeys(run["protocol"] for run in record["runs"])
    commits = dict.fromkeys(run["git_commit"] for run in record["runs"])
    return (
        f"{'; '.join(protocols)}. {EXPLANATION}; commit {', '.join(commits)}"
    )


def _named(values):
    text = ", ".join(f"{name} {value}" for name, value in values.items())
    return text or "nothing"


def report_text(record: Record) -> str:
    """A study as Markdown."""
    rows = rows_of(record)
    changes = [
        [name, _named(variant["changes"])]
        for name, variant in record["variants"].items()
    ]
    return REPORT.format(
        study=record["study"],
        question=record["question"],
        finding=finding(rows),
        table=table_text(HEADER, table(rows)),
        note=note(record),
        limits=_listed(LIMITS),
        base=record["base"],
        common=_named(record["common"]),
        flags=" ".join(record["flags"]) or "nothing",
        changes=table_text(["variant", "changes"], changes),
        failed=_listed(record["failed"]) or "Nothing.",
    )


def _listed(lines):
    return "\n".join(f"- {line}" for line in lines)


def page_text(record: Record) -> str:
    """A study as a page of its own, without files beside it."""
    rows = rows_of(record)
    ends = [
        abs(row.difference[end])
        for row in rows
        if row.difference
        for end in ("low", "high")
    ]
    reach = max(ends, default=1.0) or 1.0
    return _drawn(
        "study.html",
        record=record,
        title=title(record),
        finding=finding(rows),
        columns=COLUMNS,
        rows=[_cells(row, reach) for row in rows],
        note=note(record),
        limits=LIMITS,
        named=_named,
    )


def _cells(row, reach):
    """What the template shows of a row; its bar spans -reach to reach."""
    found = row.difference
    gain = found["validation"] if found else 0.0
    means = [_mean_cell(row.test), _mean_cell(row.validation)]
    shown = f"{gain:+.4f}" if found else ""
    means.append({"value": gain, "text": shown, "small": ""})
    costs = [
        {"value": row.minutes, "text": f"{row.minutes:.1f}"},
        {"value": row.parameters, "text": f"{row.parameters:,.0f}"},
        {"value": row.memory, "text": f"{row.memory:,.0f}"},
    ]
    bar = _bar(found, reach) if found else None
    return {
        "name": row.name,
        "against": row.against,
        "means": means,
        "bar": bar,
        "costs": costs,
    }


def _mean_cell(values):
    mean, *spread = _with_spread(values)
    return {"value": values.mean(), "text": mean, "small": "".join(spread)}


def _bar(found, reach):
    kind = "chance"
    if found["mark"]:
        kind = "better" if found["test"] > 0 else "worse"

    def place(value):
        return f"{100 + 96 * value / reach:.1f}"

    return {
        "kind": kind,
        "value": found["test"],
        "text": f"{found['test']:+.4f}{found['mark']}",
        "interval": f"{found['low']:+.4f} to {found['high']:+.4f}",
        "low": place(found["low"]),
        "middle": place(found["test"]),
        "high": place(found["high"]),
    }


def _drawn(template, **values):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values) + "\n"


def _record(path):
    """Content of runs.json, {} if it is damaged: other studies must not suffer from it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def drawn(results: Path) -> Iterator[tuple[Path, str]]:
    """(file, text) of each page of all studies under a folder, and of their index."""
    studies = []
    for path in sorted(results.glob(f"*/{RUNS}")):
        record = _record(path)
        if "differences" not in record:
            print(f"{path} is damaged or of an earlier version: left as it is")
            continue
        yield path.with_name("report.md"), report_text(record)
        yield path.with_name("index.html"), page_text(record)
        entry = {
            "folder": path.parent.name,
            "record": record,
            "title": title(record),
            "finding": finding(rows_of(record)),
        }
        studies.append(entry)
    studies.sort(key=lambda study: study["record"]["date"], reverse=True)
    yield results / "index.html", _drawn("index.html", studies=studies)


def write_pages(results: Path) -> None:
    """Write what `drawn` gives."""
    for path, text in drawn(results):
        write_text(path, text)


def main(argv: list[str]) -> int:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("results", type=Path, help="a folder of studies")
    results = parser.parse_args(argv).results
    require(
        list(results.glob(f"*/{RUNS}")),
        f"{results} has no study (no */{RUNS}); python -m ablations.run writes one",
    )
    write_pages(results)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
