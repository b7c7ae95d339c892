"""Tables in files: CSV and TSV (any separator, a header or none), Parquet, JSON lines, TFRecord,
RecBole's atomic files. Text may be packed by gzip or Zstandard.
"""

import csv
import dataclasses
import io
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd

from readers.folders import matching
from readers.raw import File
from readers.tfrecord import read_tfrecord
from schema import TABLES, Kind, Schema
from support.errors import UserError
from support.files import check_regular

SEPARATORS = ("::", ",", "\t", ";", "|")
BLANKS = r"\s+"
# No text holds it; several characters between fields are one of these for the reader.
FIELD_END = "\x1f"
PACKED = (".gz", ".zst")
JSON_LINES = (".json", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
TFRECORD = (".tfrecord", ".tfrecords", ".tfrec")
ATOMIC = (".inter", ".item", ".user")
# Types in the header of RecBole's atomic files.
RECBOLE: dict[str, Kind] = {
    "token": "category",
    "token_seq": "tags",
    "float": "number",
    "float_seq": "vector",
}
# Text that is not UTF-8 is what Windows or the older Unix wrote.
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")
LOOK = 1000  # bytes that are looked at
BLOCK = 1 << 24  # bytes that are searched at once
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_tables(
    schema: Schema, folder: Path, tables: Iterable[str] = TABLES
) -> dict[str, File]:
    """The files that a schema names, relative to `folder`. Raises `UserError` if one is missing."""
    files = {}
    for table in tables:
        described = schema.table(table)
        if described.file:
            place = os.path.join(folder, described.file)
            wanted = [column.field for column in described.columns.values()]
            wanted += described.roles.values()
            files[table] = read_files(matching(place), wanted)
        elif described.roles or described.columns:
            raise UserError(
                f"schema {schema.name}: {table} names no file; add file: ..."
            )
    return files


def read_files(paths: Iterable[Path], wanted: Collection[str] = ()) -> File:
    """One table in one file or several, one after the other: see `read_file`."""
    files = [read_file(path, wanted) for path in paths]
    if len(files) == 1:
        return files[0]
    frame = pd.concat([file.frame for file in files], ignore_index=True)
    name = f"{files[0].name} and {len(files) - 1} more"
    parts = [(file.name, len(file.frame)) for file in files]
    return dataclasses.replace(files[0], frame=frame, name=name, parts=parts)


def kind_of(path: Path) -> str:
    """The suffix of a file that says how it is written: .csv of log.csv.gz; '' without one."""
    kinds = [part for part in path.suffixes if part not in PACKED]
    return kinds[-1] if kinds else ""


def read_file(path: Path, wanted: Collection[str] = ()) -> File:
    """One table. Values of CSV are text, unchanged.

    The fields of a file without a header are '1', '2' and so on. A file has no header if there is a
    number in its first line, or if such fields are asked for. Raises `UserError`.
    """
    kind = kind_of(path)
    with named_errors(path):
        if kind in PARQUET:
            return File(pd.read_parquet(path), str(path))
        if kind in TFRECORD:
            return File(read_tfrecord(path), str(path))
        if kind in JSON_LINES:
            return File(_read_json(path), str(path))
        for encoding in ENCODINGS:
            try:
                file = _read_csv(path, encoding, wanted)
            except UnicodeDecodeError:
                continue
            if encoding != ENCODINGS[0]:
                what = f"rows of {path.name} read as {encoding}, as it is not UTF-8"
                file.notes[what] = len(file.frame)
            return file
    raise UserError(
        f"{path}: it is text of no known encoding; write it as UTF-8"
    )


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raise errors of reading as `UserError` naming the file, and the line if it is known."""
    check_regular(path)
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; correct the schema or give --data_dir"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error.reason}; write it as UTF-8") from None
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        pd.errors.ParserWarning,
    ) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, pd.errors.ParserWarning):
            reason = "its rows have more fields than its header"
        line = re.search(r"(?:Row #|line )(\d+)", reason)
        where = f"{path}:{line[1]}" if line else path
        raise UserError(
            f"{where}: {reason}; correct it, or give another file"
        ) from error


def _read_json(path):
    """An object a line, or a list of objects."""
    with open_text(path) as file:
        lines = not file.read(1).startswith("[")
    with open_text(path) as file:
        frame = pd.read_json(
            file, lines=lines, convert_dates=False, dtype=False
        )
    if not all(isinstance(field, str) for field in frame):
        raise ValueError("its lines are no objects such as {...}")
    return frame


@dataclass(frozen=True)
class Layout:
    """How a text file has its fields. header: its first line, None if that is data."""

    separator: str  # BLANKS for any number of blanks
    header: str | None
    quoted: bool  # whether fields may stand in quotes
    fields: list[str]  # as in the header; '1', '2' and so on without one

    @property
    def quoting(self) -> int:
        """In the words of `csv`."""
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE

    @property
    def first_line(self) -> int:
        """Number of the first line with data."""
        return 1 if self.header is None else 2


def typed_fields(
    fields: Iterable[str],
) -> tuple[dict[str, str], dict[str, Kind]]:
    """(field -> name, name -> kind) of the fields that say their type, as RecBole's do."""
    names, kinds = {}, {}
    for field in map(str, fields):
        name, _, kind = field.rpartition(":")
        if name and kind in RECBOLE:
            names[field], kinds[name] = name, RECBOLE[kind]
    return names, kinds


def layout_of(
    path: Path, encoding: str = ENCODINGS[0], wanted: Collection[str] = ()
) -> Layout:
    """The layout of a text file. wanted: as in `read_file`."""
    with open_text(path, encoding) as file:
        first = file.readline().strip("\r\n")
    separator = max(SEPARATORS, key=first.count)
    if separator not in first:
        separator = BLANKS
    # Neither RecBole's atomic files nor those with several characters between fields have quotes.
    atomic = path.suffix in ATOMIC
    quoted = not atomic and separator != "::"
    if separator == BLANKS:
        header = first.split()
    elif quoted:
        header = next(csv.reader([first], delimiter=separator), [])
    else:
        header = first.split(separator)
    if not atomic and _has_no_names(header, wanted):
        fields = [str(number + 1) for number in range(len(header))]
        return Layout(separator, None, quoted, fields)
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"line 1 has two fields {twice[0]!r}")
    return Layout(separator, first, quoted, header)


def _read_csv(path, encoding, wanted):
    layout = layout_of(path, encoding, wanted)
    frame = None
    if len(layout.separator) == 1 and encoding == ENCODINGS[0]:
        frame = _read_plain(path, layout)
    if frame is None:
        frame = _read_any(path, encoding, layout)
    names, kinds = typed_fields(frame)
    return File(
        frame.rename(columns=names),
        str(path),
        first_line=layout.first_line,
        kinds=kinds,
    )


def _read_any(path, encoding, layout):
    """The fields of any text file, as text."""
    with open_text(path, encoding) as file, warnings.catch_warnings():
        # More fields than the header has: what is too much would be lost.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        separator = layout.separator
        if separator == "::":
            separator = FIELD_END
            file = io.StringIO(file.read().replace("::", FIELD_END))
        return pd.read_csv(
            file,
            sep=separator,
            header=None if layout.header is None else 0,
            names=layout.fields if layout.header is None else None,
            dtype=str,
            keep_default_na=False,
            quoting=layout.quoting,
            index_col=False,
            # So that each row stands in the line that its number says.
            skip_blank_lines=False,
        )


def _read_plain(path, layout):
    """The same, several times faster. None if the file is compressed, has quotes below its header,
    or rows with different numbers of fields."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    if path.suffix in PACKED or _has_any(path, (b'"', b"\0"), layout.header):
        return None
    names = layout.fields
    if layout.header is not None:
        named = io.StringIO(layout.header + "\n")
        separator, quoting = layout.separator, layout.quoting
        names = pd.read_csv(named, sep=separator, quoting=quoting)
        names = names.columns.tolist()
    reading = arrow_csv.ReadOptions(
        column_names=names, skip_rows=layout.first_line - 1
    )
    parsing = arrow_csv.ParseOptions(
        delimiter=layout.separator, quote_char=False, ignore_empty_lines=False
    )
    as_text = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.large_string()),
        strings_can_be_null=False,
    )
    try:
        table = arrow_csv.read_csv(str(path), reading, parsing, as_text)
    except pa.ArrowInvalid:  # what is wrong is said by the other reader
        return None
    if len(names) < 2 or not len(table):
        return None
    return table.combine_chunks().to_pandas()


def _has_any(path, signs, header):
    """Whether one of the characters occurs below the header of a file. Also true if the quotes of
    the header are not closed."""
    header = header or ""
    if header.count('"') % 2:
        return True
    with path.open("rb") as file:
        file.seek(len(header.encode()))
        while block := file.read(BLOCK):
            if any(sign in block for sign in signs):
                return True
    return False


def _has_no_names(header, wanted):
    """Whether a first line is data, not a header."""
    if any(_is_number(cell) for cell in header):
        return True
    digits = [field for field in wanted if field.isdigit()]
    return bool(digits) and not set(digits) & set(header)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def open_text(path: Path, encoding: str = ENCODINGS[0]) -> IO[str]:
    """A text file, decompressed if need be, without a byte-order mark."""
    import pyarrow as pa

    packing = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    file = io.BufferedReader(pa.input_stream(str(path), compression=packing))
    start = file.peek(LOOK)[:LOOK]
    if start[:2] in UTF_16:
        encoding = "utf-16"
    elif b"\0" in start:
        file.close()
        raise ValueError("it is binary")
    return io.TextIOWrapper(file, encoding, newline="")
