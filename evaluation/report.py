"""Results of one run: computed once, kept a user a row, shown as tables under their protocol line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from data_processor import SequenceData
from evaluation.metrics import bootstrap_interval, per_user
from support.errors import UserError


def summarise(rank: np.ndarray, samples: int) -> dict[str, dict[str, float]]:
    """Metric name to its mean over users and the 95 % bootstrap interval."""
    summary = {}
    for name, values in per_user(rank).items():
        low, high = bootstrap_interval(values, samples)
        summary[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return summary


def ranking_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown table: a model a row, 'mean [low, high]' a metric."""
    names = list(next(iter(rows.values())))
    lines = ["| model | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for model, summary in rows.items():
        cells = [f"{summary[name]['mean']:.4f} [{summary[name]['low']:.3f}, {summary[name]['high']:.3f}]"
                 for name in names]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_table(title: str, protocol: str, header: list[str], rows: list[list[str]]) -> None:
    """A table on the terminal under its protocol line."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 130)
    console.print(f"\n[bold]{title}[/bold]")
    console.print(protocol, style="dim", highlight=False)
    table = Table()
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_ranking(title: str, protocol: str, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """The ranking table, the interval under each mean."""
    names = list(next(iter(rows.values())))
    print_table(title, protocol, ["model", *names],
                [[model, *(f"{summary[name]['mean']:.4f}\n{summary[name]['low']:.3f}-{summary[name]['high']:.3f}"
                           for name in names)] for model, summary in rows.items()])


def write_user_results(path: Path, data: SequenceData, columns: dict[str, Any]) -> None:
    """Parquet with a row a user, written whole or not at all."""
    import pandas as pd

    write_parquet(path, pd.DataFrame({"user_id": data.catalogue.user_ids, **columns}))


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
