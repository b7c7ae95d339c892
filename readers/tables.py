"""Tables in files: CSV and TSV (any separator, gzip), Parquet, JSON lines, RecBole's atomic
files.
"""

import csv
import glob
import gzip
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd

from readers.raw import File
from schema import TABLES, Kind, Schema
from support.errors import UserError

SEPARATORS = ",\t;|"
JSON_LINES = (".json", ".jsonl", ".ndjson")
# Types in the header of RecBole's atomic files.
RECBOLE: dict[str, Kind] = {
    "token": "category",
    "token_seq": "tags",
    "float": "number",
    "float_seq": "vector",
}
PARQUET = (".parquet", ".pq")


def read_tables(schema: Schema, folder: Path) -> dict[str, File]:
    """The files that a schema names, sought from `folder`. Raises `UserError` for a missing one."""
    files = {}
    for table in TABLES:
        described = schema.table(table)
        if described.file:
            paths = [folder / described.file]
            if not paths[0].exists():
                pattern = os.path.join(
                    glob.escape(str(folder)), described.file
                )
                paths = sorted(glob.glob(pattern)) or paths
            files[table] = _together([read_file(Path(path)) for path in paths])
        elif described.roles or described.columns:
            raise UserError(
                f"schema {schema.name}: {table} names no file; add file: ..."
            )
    return files


def read_file(path: Path) -> File:
    """One table. Values of CSV are text as it stands there. Raises `UserError`."""
    kind = next(
        (part for part in reversed(path.suffixes) if part != ".gz"), ""
    )
    with named_errors(path):
        if kind in PARQUET:
            return File(pd.read_parquet(path), str(path))
        if kind in JSON_LINES:
            frame = pd.read_json(
                path, lines=True, convert_dates=False, dtype=False
            )
            return File(frame, str(path))
        return _read_csv(path)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raise what is wrong with a file as `UserError` naming it, and the line where it is known."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; correct the schema or give --data_dir"
        ) from None
    except (ValueError, TypeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        line = re.search(r"(?:Row #|line )(\d+)", reason)
        where = f"{path}:{line[1]}" if line else path
        raise UserError(f"{where}: {reason}; correct it") from error


def _read_csv(path):
    # RecBole's atomic files are tab-separated with typed names and without quotes.
    atomic = path.suffix in (".inter", ".item", ".user")
    with open_text(path) as file:
        header = file.readline()
        file.seek(0)
        frame = pd.read_csv(
            file,
            sep=max(SEPARATORS, key=header.count),
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE if atomic else csv.QUOTE_MINIMAL,
            index_col=False,
        )
    kinds: dict[str, Kind] = {}
    names = {}
    for field in frame:
        name, _, kind = str(field).rpartition(":")
        if name and kind in RECBOLE:
            names[field], kinds[name] = name, RECBOLE[kind]
    return File(
        frame.rename(columns=names), str(path), first_line=2, kinds=kinds
    )


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked if it is gzipped, without a byte-order mark."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _together(files):
    if len(files) == 1:
        return files[0]
    frame = pd.concat([file.frame for file in files], ignore_index=True)
    return File(frame, f"{files[0].name} and {len(files) - 1} more")
