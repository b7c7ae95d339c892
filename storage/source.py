"""The files of a data set that is built, and the SQL that reads their interactions row by row.

CSV and Parquet files are read piece by piece, so the number of their rows does not matter. Tables
of items and of users are read into memory.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from readers import YAML, home, located, require_no_columns
from readers.folders import files_in, matching
from readers.infer import given_roles, name_of, schema_for
from readers.raw import File, Files, require_rows
from readers.sequences import is_sequences
from readers.tables import (
    ATOMIC,
    BLANKS,
    PACKED,
    PARQUET,
    Layout,
    kind_of,
    layout_of,
    named_errors,
    read_files,
    read_tables,
    typed_fields,
)
from schema import Schema, read_schema
from settings import DataSettings
from support.errors import UserError, require

PACKING = 4  # bytes of text in one of a compressed file, about
SAMPLE = 1_000_000  # first rows, by which columns and their forms are found
FILE = "__file"  # the name of the file that a row is from
Result = TypeVar("Result")
TEXT = (".csv", ".tsv", ".txt", ".dat", "", *ATOMIC)


@dataclass(frozen=True)
class Source:
    """The files of interactions, and the other tables.

    layout: of text files, None for Parquet. sample: the first rows of the interactions.
    """

    schema: Schema
    paths: Sequence[Path]
    layout: Layout | None
    sample: File
    others: Files  # items and users

    @property
    def fields(self) -> list[str]:
        """Fields of the interactions that the schema names."""
        table = self.schema.interactions
        named = [column.field for column in table.columns.values()]
        return list(dict.fromkeys([*table.roles.values(), *named]))

    def number_of_rows(self) -> int:
        """Rows of all files, about."""
        if self.layout is None:
            return sum(pq.read_metadata(path).num_rows for path in self.paths)
        frame = self.sample.frame
        if len(frame) < SAMPLE:
            return len(frame)
        # By the bytes that a row of the sample has, its separators among them.
        read = sum(frame[field].str.len().sum() for field in frame)
        each = read / len(frame) + len(frame.columns)
        size = sum(path.stat().st_size for path in self.paths)
        packed = self.paths[0].suffix in PACKED
        return int(size * (PACKING if packed else 1) / each)

    def without_sample(self) -> "Source":
        """The same without rows, which is small."""
        sample = dataclasses.replace(
            self.sample, frame=self.sample.frame.iloc[:0]
        )
        return dataclasses.replace(self, sample=sample, others={})


def source_of(
    settings: DataSettings, connection: duckdb.DuckDBPyConnection
) -> Source | None:
    """The source of a data set; None if its format is only read as a whole. Raises `UserError`."""
    path, data_dir = located(settings.dataset, settings.data_dir)
    if path.suffix in YAML:
        require_no_columns(settings.dataset, settings.columns)
        schema = read_schema(path)
        folder = Path(data_dir or home(settings.dataset))
        place = os.path.join(folder, schema.interactions.file)
        paths = matching(place)
        if schema.reader != "tables" or not _in_pieces(paths):
            return None
        others = read_tables(schema, folder, ("items", "users"))
        table = schema.interactions
        wanted = [column.field for column in table.columns.values()]
        wanted += table.roles.values()
        paths = [each.resolve() for each in paths]
        layout = _layout(paths, wanted)
        sample = _sample(connection, place, paths, layout)
        return Source(schema, paths, layout, sample, others)
    if is_sequences(path):
        return None
    found = files_in(path)
    name, paths = found.pop("interactions")
    if not _in_pieces(paths):
        return None
    given = given_roles(settings.columns)
    others = {
        table: read_files(files, given.values())
        for table, (_, files) in found.items()
    }
    paths = [each.resolve() for each in paths]
    layout = _layout(paths, given.values())
    sample = _sample(connection, name, paths, layout)
    files = {"interactions": sample, **others}
    schema, _ = schema_for(name_of(path), files, given)
    return Source(schema, paths, layout, sample, others)


def _in_pieces(paths):
    """Whether DuckDB can read the files: all text with separators, or all Parquet."""
    kinds = {kind_of(path) for path in paths}
    if kinds <= set(PARQUET):
        return True
    if not kinds <= set(TEXT):
        return False
    for path in paths:
        with named_errors(path):
            try:
                layout = layout_of(path)
            except UnicodeDecodeError:  # of another encoding than UTF-8
                return False
        if layout.separator == BLANKS:
            return False
    return True


def _layout(paths, wanted):
    """How the lines of text files are read; None for Parquet. DuckDB takes fields by their place,
    so a file with others than the first is refused."""
    if paths[0].suffix in PARQUET:
        return None
    layouts = []
    for path in paths:
        with named_errors(path):
            layouts.append(layout_of(path, wanted=wanted))
    first = layouts[0]
    for path, layout in zip(paths, layouts, strict=True):
        same = (layout.separator, layout.fields) == (
            first.separator,
            first.fields,
        )
        require(
            same and (layout.header is None) == (first.header is None),
            f"{path}: its fields are {', '.join(layout.fields)}, those of {paths[0].name} "
            f"{', '.join(first.fields)}; give all files the same fields in the same order, with "
            f"one separator",
        )
    quoted = any(layout.quoted for layout in layouts)
    return dataclasses.replace(first, quoted=quoted)


def scan(
    run: Callable[[str], Result], paths: Sequence[Path], layout: Layout | None
) -> Result:
    """What `run` makes of the SQL for the rows of files. Raises `UserError`."""
    for parallel in (True, False):
        with readable(str(paths[0])):
            try:
                return run(_scan(paths, layout, parallel))
            except duckdb.Error as error:
                # Of a file with line ends in quotes, which one thread alone can read.
                if not parallel or "parallel=false" not in str(error):
                    raise
    raise AssertionError("unreachable")


def _scan(paths, layout, parallel):
    """SQL for the rows of files, with the fields' names of `File`, and FILE."""
    files = ", ".join(text_literal(literal_name(path)) for path in paths)
    named = text_literal(FILE)
    if layout is None:
        return f"SELECT * FROM read_parquet([{files}], filename={named})"
    quote = text_literal('"' if layout.quoted else "")
    columns = ", ".join(
        f"{text_literal(field)}: 'VARCHAR'" for field in layout.fields
    )
    header = "false" if layout.header is None else "true"
    names, _ = typed_fields(layout.fields)
    chosen = ", ".join(
        f"{identifier(field)} AS {identifier(names.get(field, field))}"
        for field in layout.fields
    )
    chosen += f", {identifier(FILE)}"
    return (
        f"SELECT {chosen} FROM read_csv([{files}], delim={text_literal(layout.separator)}, "
        f"header={header}, quote={quote}, escape={quote}, columns={{{columns}}}, "
        f"auto_detect=false, null_padding=true, parallel={parallel}, filename={named})"
    )


def _sample(connection, name, paths, layout):
    def first(rows: str) -> pa.Table:
        return connection.sql(f"{rows} LIMIT {SAMPLE}").to_arrow_table()

    frame = scan(first, paths, layout).to_pandas().drop(columns=FILE)
    require_rows(frame, File(frame, name))
    kinds, first_line = {}, 1
    if layout is not None:
        _, kinds = typed_fields(layout.fields)
        first_line = layout.first_line
    return File(frame, name, first_line, kinds)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise DuckDB's errors as `UserError` naming the file, and the line if it is known."""
    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        file = re.search(r"^\s*file = (.+)$", text, re.MULTILINE)
        line = re.search(r"Line: (\d+)", text)
        where = file[1] if file else name
        if line:
            where += f":{line[1]}"
        reason = " ".join(text.split("Possible")[0].split())
        raise UserError(
            f"{where}: {reason[:300]}; correct it, or give another file"
        ) from error


def literal_name(path: Path) -> str:
    """A path as DuckDB reads it, which takes *, ? and [ for a pattern."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


def text_literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'
