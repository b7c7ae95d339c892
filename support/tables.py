"""Tables as Markdown, on a terminal and as Parquet."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.errors import UserError
from support.files import replacing, write_text

# title, note, header, rows
Table = tuple[str, str, list[str], list[list[str]]]


def table_text(header: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown; a line break in a cell becomes a space."""
    lines = []
    for row in (header, ["---"] * len(header), *rows):
        cells = [part.replace("\n", " ").replace("|", "\\|") for part in row]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def by_row(
    rows: Mapping[str, Mapping[str, Any]], shown: Callable[[Any], str]
) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, rows with their names) of figures by row and column."""
    names = list(next(iter(rows.values())))
    cells = [
        [row, *(shown(figures[name]) for name in names)]
        for row, figures in rows.items()
    ]
    return names, cells


def print_table(
    title: str, protocol: str, header: list[str], rows: list[list[str]]
) -> None:
    """Print a table under its protocol line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 180)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    console.print(escape(protocol), style="dim", highlight=False)
    table = Table(show_header=any(header))
    for number, name in enumerate(header):
        table.add_column(
            escape(name),
            justify="left" if number == 0 else "right",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def show_tables(tables: Sequence[Table], path: Path | None = None) -> None:
    """Print tables, each with its title and note, and write them as Markdown."""
    for table in tables:
        print_table(*table)
    if path:
        write_tables(tables, path)


def write_tables(tables: Sequence[Table], path: Path) -> None:
    """Write tables, each with its title and note, as Markdown."""
    parts = [
        f"## {title}\n\n{note}\n\n{table_text(header, rows)}"
        for title, note, header, rows in tables
    ]
    write_text(path, "\n".join(parts))


def write_frame(path: Path, table: Any) -> None:
    """Write a data frame as Parquet or CSV, by the name's ending: see `replacing`."""
    kinds = {".parquet": table.to_parquet, ".csv": table.to_csv}
    write = kinds.get(path.suffix)
    if write is None:
        raise UserError(f"{path}: a file is written as .parquet or .csv")
    with replacing(path) as part:
        write(part, index=False)
