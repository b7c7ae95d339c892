"""The interactions of all files in parts: all rows of a user in one part, unchanged (DuckDB)."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from readers.raw import MISSING, TEXT_IDS, WHOLE_IDS, File
from storage.source import (
    FILE,
    Source,
    identifier,
    literal_name,
    scan,
    text_literal,
)
from support.checkpoint import read_json
from support.errors import UserError
from support.files import write_json

ROW, PART = "__row", "__part"
ROWS, SUMMARY = "rows", "summary.json"
GROUP = 1 << 30  # bytes of files that are staged together
BLANK = " \t\r\n\f\v"


def connect(memory: str, folder: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB within a limit of memory; what does not fit goes to `folder`."""
    connection = duckdb.connect()
    try:
        connection.execute(f"SET memory_limit={text_literal(memory)}")
    except duckdb.Error:
        raise UserError(
            f"--memory {memory}: give a size such as 2GB or 500MB"
        ) from None
    connection.execute(f"SET temp_directory={text_literal(str(folder))}")
    # Rows keep the order of the files, which decides between equal times.
    connection.execute("SET preserve_insertion_order=true")
    return connection


def groups_of(paths: Sequence[Path]) -> list[list[Path]]:
    """The files in groups of one after the other, each of about GROUP bytes."""
    groups: list[list[Path]] = []
    size = GROUP
    for path in paths:
        if size >= GROUP:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += path.stat().st_size
    return groups


def stage(
    source: Source, folder: Path, parts: int, memory: str, number: int
) -> None:
    """Write the interactions of a group of files, by part, and at last what is known of them. A
    group that is there already stays."""
    place = folder / f"group-{number:05}"
    if (place / SUMMARY).exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    connection = connect(memory, place / "duckdb")
    fields = ", ".join(map(identifier, source.fields))
    user = _plain_text(source.schema.interactions.user)

    def copy(rows: str) -> None:
        connection.execute(f"""
            COPY (
                SELECT {fields}, {identifier(FILE)},
                    row_number() OVER () - 1 AS {identifier(ROW)},
                    CAST(md5_number_lower({user}) % {parts} AS INTEGER) AS {identifier(PART)}
                FROM ({rows})
            ) TO {text_literal(str(place / ROWS))}
            (FORMAT parquet, PARTITION_BY ({identifier(PART)}), OVERWRITE)
        """)

    scan(copy, groups_of(source.paths)[number], source.layout)
    rows = _rows(place)
    files = connection.sql(
        f"SELECT {identifier(FILE)}, count(*) FROM {rows} "
        f"GROUP BY ALL ORDER BY min({identifier(ROW)})"
    )
    summary = {
        "files": files.fetchall(),
        "whole": {
            role: _are_whole(source, role, rows, connection)
            for role in ("user", "item")
        },
    }
    connection.close()
    write_json(place / SUMMARY, summary)


def _are_whole(source, role, rows, connection):
    """Whether all ids of a group are whole numbers (readers/numbers.py)."""
    text = _plain_text(getattr(source.schema.interactions, role))
    whole = f"{text} = CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR)"
    found = connection.sql(
        f"SELECT coalesce(bool_and({_blank(text)} OR coalesce({whole}, false)), true) FROM {rows}"
    )
    ((whole,),) = found.fetchall()
    return whole


@dataclass(frozen=True)
class Staged:
    """The groups of a folder: files with their numbers of rows, and how ids are written."""

    source: Source
    folder: Path
    groups: list[dict[str, Any]]

    @classmethod
    def of(cls, source: Source, folder: Path) -> "Staged":
        """The groups that `stage` wrote."""
        number = len(groups_of(source.paths))
        groups = [
            read_json(folder / f"group-{group:05}" / SUMMARY)
            for group in range(number)
        ]
        return cls(source, folder, groups)

    def id_forms(self) -> dict[str, str]:
        """Role -> how its ids are written in all rows, for `named_table`."""
        forms = {}
        for role in ("user", "item"):
            whole = all(group["whole"][role] for group in self.groups)
            forms[role] = WHOLE_IDS if whole else TEXT_IDS
        return forms

    def alike_users(self, memory: str) -> int:
        """How many ids of users differ from another in case alone."""
        text = _plain_text(self.source.schema.interactions.user)
        rows = _rows(*self.folder.glob("group-*"))
        connection = connect(memory, self.folder / "duckdb")
        found = connection.sql(
            f"SELECT count(DISTINCT {text}) - count(DISTINCT lower({text})) "
            f"FROM {rows} WHERE NOT {_blank(text)}"
        )
        ((number,),) = found.fetchall()
        connection.close()
        return number

    def part(self, number: int) -> File:
        """The rows of one part in the order of the files."""
        tables, files, rows_before = [], [], 0
        for group, about in enumerate(self.groups):
            place = self.folder / f"group-{group:05}" / ROWS
            place = place / f"{PART}={number}"
            if place.exists():
                table = pq.ParquetDataset(place).read()
                table = table.take(pc.sort_indices(table[ROW]))
                rows = pc.add(table[ROW], rows_before)
                column = table.schema.get_field_index(ROW)
                tables.append(table.set_column(column, ROW, rows))
            files += [tuple(file) for file in about["files"]]
            rows_before += sum(rows for _, rows in about["files"])
        sample, fields = self.source.sample, self.source.fields
        if not tables:
            return dataclasses.replace(sample, frame=sample.frame[fields])
        table = pa.concat_tables(tables)
        return dataclasses.replace(
            sample,
            frame=table.select(fields).to_pandas(),
            rows=table[ROW].to_numpy(),
            parts=files,
        )


def _rows(*places):
    """SQL for the rows of some groups."""
    patterns = [
        text_literal(f"{literal_name(place)}/{ROWS}/*/*.parquet")
        for place in places
    ]
    return f"read_parquet([{', '.join(patterns)}])"


def _blank(text):
    return f"{text} IN ({', '.join(map(text_literal, MISSING))})"


def _plain_text(field):
    """SQL for an id as text, 12.0 as 12: one user is in one part, however the id is written."""
    text = f"trim(CAST({identifier(field)} AS VARCHAR), {_escaped(BLANK)})"
    plain = rf"regexp_replace({text}, '^(-?\d+)\.0+$', '\1')"
    return f"coalesce({plain}, '')"


def _escaped(text):
    return "E'" + text.encode("unicode_escape").decode() + "'"
