"""Results of one run: computed once, kept a request a row, shown as tables under their protocol
line.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dataset import Dataset
from evaluation.metrics import ONE_TARGET, SEVERAL_TARGETS, bootstrap_interval, per_user
from support.errors import UserError

Summary = dict[str, dict[str, float]]  # metric -> mean, low, high


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean over users and its 95 % bootstrap interval."""
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def summarise(rank: np.ndarray, users: np.ndarray) -> Summary:
    """Metric name to its interval, from the ranks (Q, T) of users' requests."""
    metrics = per_user(rank, users)
    names = ONE_TARGET if rank.shape[1] == 1 else SEVERAL_TARGETS
    return {name: interval(metrics[name]) for name in names}


def cell(summary: dict[str, float], mark: str = "") -> str:
    """A mean with its interval below, as tables show it."""
    return f"{summary['mean']:.4f}{mark}\n{summary['low']:.3f}-{summary['high']:.3f}"


def table_text(header: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown; a line break in a cell becomes a space."""
    lines = []
    for row in (header, ["---"] * len(header), *rows):
        cells = [part.replace("\n", " ").replace("|", "\\|") for part in row]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def print_table(
    title: str, protocol: str, header: list[str], rows: list[list[str]]
) -> None:
    """A table on the terminal under its protocol line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 180)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    console.print(escape(protocol), style="dim", highlight=False)
    table = Table(show_header=any(header))
    for number, name in enumerate(header):
        table.add_column(
            escape(name), justify="left" if number == 0 else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_ranking(title: str, protocol: str, rows: dict[str, Summary]) -> None:
    """The ranking table, the interval under each mean."""
    names = list(next(iter(rows.values())))
    cells = [
        [model, *(cell(summary[name]) for name in names)]
        for model, summary in rows.items()
    ]
    print_table(title, protocol, ["model", *names], cells)


def write_tables(
    path: Path, note: str, header: list[str], rows: list[list[str]]
) -> None:
    """A table under its note as Markdown, at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{note}\n\n{table_text(header, rows)}", encoding="utf-8")


def write_request_results(
    path: Path, data: Dataset, until: str, columns: dict[str, Any]
) -> None:
    """Parquet with a row a request, written whole or not at all.

    A column of several numbers a request gets several names: rank, rank_2, ...
    """
    import pandas as pd

    table = {"user_id": data.catalogue.users.id_array(data.split.requests[until].users)}
    for name, values in columns.items():
        parts = values.T if values.ndim == 2 else [values]
        for number, part in enumerate(parts, start=1):
            table[name if number == 1 else f"{name}_{number}"] = part
    write_parquet(path, pd.DataFrame(table))


def write_parquet(path: Path, table: Any) -> None:
    """Write a data frame beside its place and move it there."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            part = Path(folder) / path.name
            table.to_parquet(part, index=False)
            part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose another place "
            f"or free some space"
        ) from error
