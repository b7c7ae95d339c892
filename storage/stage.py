"""The interactions of all files in parts: all rows of a user in one part, unchanged (DuckDB)."""

import dataclasses
import shutil
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from readers.raw import MISSING, TEXT_IDS, WHOLE, WHOLE_IDS, File
from storage.source import (
    FILE,
    Source,
    identifier,
    text_literal,
)

ROW, PART = "__row", "__part"
BLANK = " \t\r\n\f\v"


def connect(memory: str, folder: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB within a limit of memory; what does not fit goes to `folder`."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit={text_literal(memory)}")
    connection.execute(f"SET temp_directory={text_literal(str(folder))}")
    # Rows keep the order of the files, which decides between equal times.
    connection.execute("SET preserve_insertion_order=true")
    return connection


def stage(
    source: Source,
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    parts: int,
) -> None:
    """Write the interactions to `folder`, in `parts` parts."""
    shutil.rmtree(folder, ignore_errors=True)
    fields = ", ".join(map(identifier, source.fields))
    user = _plain_text(source.schema.interactions.user)

    def copy(rows: str) -> None:
        connection.execute(f"""
            COPY (
                SELECT {fields}, {identifier(FILE)},
                    row_number() OVER () - 1 AS {identifier(ROW)},
                    CAST(md5_number_lower({user}) % {parts} AS INTEGER) AS {identifier(PART)}
                FROM ({rows})
            ) TO {text_literal(str(folder))}
            (FORMAT parquet, PARTITION_BY ({identifier(PART)}), OVERWRITE)
        """)

    source.scan(copy)


def _plain_text(field):
    """SQL for an id as text, 12.0 as 12: one user is in one part, however the id is written."""
    text = f"trim(CAST({identifier(field)} AS VARCHAR), {_escaped(BLANK)})"
    plain = rf"regexp_replace({text}, '^(-?\d+)\.0+$', '\1')"
    return f"coalesce({plain}, '')"


def _escaped(text):
    return "E'" + text.encode("unicode_escape").decode() + "'"


def _rows(folder):
    return f"read_parquet({text_literal(f'{folder}/*/*.parquet')})"


def id_forms(
    source: Source, connection: duckdb.DuckDBPyConnection, folder: Path
) -> dict[str, str]:
    """Role -> how its ids are written in all rows, for `named_table`."""
    forms = {}
    for role in ("user", "item"):
        text = _plain_text(getattr(source.schema.interactions, role))
        found = connection.sql(
            f"SELECT bool_and({_blank(text)} OR regexp_full_match({text}, '{WHOLE}')) "
            f"FROM {_rows(folder)}"
        )
        ((whole,),) = found.fetchall()
        forms[role] = WHOLE_IDS if whole else TEXT_IDS
    return forms


def _blank(text):
    return f"{text} IN ({', '.join(map(text_literal, MISSING))})"


def alike_users(
    source: Source, connection: duckdb.DuckDBPyConnection, folder: Path
) -> int:
    """How many ids of users differ from another in case alone."""
    text = _plain_text(source.schema.interactions.user)
    found = connection.sql(
        f"SELECT count(DISTINCT {text}) - count(DISTINCT lower({text})) "
        f"FROM {_rows(folder)} WHERE NOT {_blank(text)}"
    )
    ((number,),) = found.fetchall()
    return number


def rows_of_files(
    connection: duckdb.DuckDBPyConnection, folder: Path
) -> list[tuple[str, int]]:
    """(name, number of rows) of each file that has rows, in their order."""
    found = connection.sql(
        f"SELECT {identifier(FILE)}, count(*) FROM {_rows(folder)} "
        f"GROUP BY ALL ORDER BY min({identifier(ROW)})"
    )
    return found.fetchall()


def staged_part(
    source: Source, folder: Path, part: int, files: list[tuple[str, int]]
) -> File:
    """The rows of one part in the order of the files."""
    place = folder / f"{PART}={part}"
    if not place.exists():
        frame = source.sample.frame[source.fields].iloc[:0]
        return dataclasses.replace(source.sample, frame=frame)
    table = pq.ParquetDataset(place).read()
    table = table.take(pc.sort_indices(table[ROW]))
    frame = table.select(source.fields).to_pandas()
    rows = table[ROW].to_numpy()
    return dataclasses.replace(
        source.sample, frame=frame, rows=rows, parts=files
    )
