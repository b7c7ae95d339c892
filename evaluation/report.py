"""Results of one run: computed once, kept a request a row, shown as tables under their protocol line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from data_processor import SequenceData
from evaluation.metrics import ONE_TARGET, SEVERAL_TARGETS, bootstrap_interval, per_person
from support.errors import UserError


def summarise(rank: np.ndarray, people: np.ndarray) -> dict[str, dict[str, float]]:
    """Metric name to its mean over people and the 95 % bootstrap interval, from the ranks (Q, T) of their requests."""
    summary, metrics = {}, per_person(rank, people)
    for name in ONE_TARGET if rank.shape[1] == 1 else SEVERAL_TARGETS:
        values = metrics[name]
        low, high = bootstrap_interval(values)
        summary[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return summary


def table_text(header: list[str], rows: list[list[str]], latex: bool = False) -> str:
    """A table as Markdown, or as a LaTeX tabular (booktabs); a line break in a cell becomes a space."""
    head, *flat = ([cell.replace("\n", " ") for cell in row] for row in [header, *rows])
    if not latex:
        head, *flat = ([cell.replace("|", "\\|") for cell in row] for row in [head, *flat])
        return "\n".join(["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *flat]]) + "\n"
    special = str.maketrans({char: f"\\{char}" for char in "%_&#"} | {"±": r"$\pm$"})
    lines = [" & ".join(cell.translate(special) for cell in row) + r" \\" for row in [head, *flat]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def print_table(title: str, protocol: str, header: list[str], rows: list[list[str]]) -> None:
    """A table on the terminal under its protocol line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 180)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    console.print(escape(protocol), style="dim", highlight=False)
    table = Table()
    for number, name in enumerate(header):
        table.add_column(escape(name), justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_ranking(title: str, protocol: str, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """The ranking table, the interval under each mean."""
    names = list(next(iter(rows.values())))
    print_table(title, protocol, ["model", *names],
                [[model, *(f"{summary[name]['mean']:.4f}\n{summary[name]['low']:.3f}-{summary[name]['high']:.3f}"
                           for name in names)] for model, summary in rows.items()])


def write_request_results(path: Path, data: SequenceData, until: str, columns: dict[str, Any]) -> None:
    """Parquet with a row a request, written whole or not at all; a column of several numbers a request gets several
    names: rank, rank_2, ..."""
    import pandas as pd

    table = {"user_id": data.catalogue.user_ids[data.split.requests[until].people]}
    for name, values in columns.items():
        parts = values.T if values.ndim == 2 else [values]
        table |= {name if number == 1 else f"{name}_{number}": part for number, part in enumerate(parts, start=1)}
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
        raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another place or free some space"
                        ) from error
