"""`RawData`: the checked tables of every reader, with the names of the schema."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pandas as pd

from readers.numbers import whole_numbers
from readers.times import Refuse, seconds_of
from schema import (
    TABLES,
    Column,
    Kind,
    Schema,
    TableSchema,
    plain_number,
)
from support.errors import UserError

# How ids are written, if that is known of the whole table.
WHOLE_IDS, TEXT_IDS = "whole", "text"
NO_FORMS: Mapping[str, str] = {}
STRANGE = "{} without a row in their table"
IDLE = "{} without an interaction, left out"
ALIKE = "{} ids that differ from another in case alone"
MISSING = (
    "",
    "NULL",
    "null",
    "NaN",
    "nan",
    "NaT",
    "NA",
    "N/A",
    "\\N",
    "None",
    "<NA>",
)


@dataclass(frozen=True)
class File:
    """A table of a file: fields by name, row i being line `first_line` + i."""

    frame: pd.DataFrame
    name: str
    first_line: int = 1
    # Kinds that the file itself names.
    kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    # What the data card must say of how it was read: what, how many.
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    # Where a table is in several files: name and number of rows of each.
    parts: Sequence[tuple[str, int]] = ()
    # Of some rows of a file alone: which they are.
    rows: np.ndarray | None = None

    def fault(self, row: int, message: str) -> NoReturn:
        """Raise `UserError` naming file and line of a row."""
        if self.rows is not None:
            row = int(self.rows[row])
        parts = list(self.parts) or [(self.name, row + 1)]
        while row >= parts[0][1]:
            row -= parts.pop(0)[1]
        line = self.first_line + row
        raise UserError(f"{parts[0][0]}:{line}: {message}; correct the line")

    def refusing(self, field: str) -> Refuse:
        """`fault` of a field's values; without a row it names the file alone."""

        def refuse(row: int | None, message: str) -> NoReturn:
            if row is None:
                raise UserError(f"{self.name}: {field} {message}")
            self.fault(row, f"{field} {message}")

        return refuse


Files = Mapping[str, File]  # table -> file


@dataclass(frozen=True)
class RawData:
    """Tables with the names of the schema, rows in file order.

    interactions: user, item, time (seconds since 1970, if known) and the columns; items, users:
    id, name (items) and the columns, or None if there is no such table. Ids are whole numbers
    if all of them are, else text. Categories and text are text, None where unknown; tags are
    lists of text; numbers are floats, NaN where unknown; vectors are lists of floats. counts:
    changes made in reading, as (what, how many), for the data card.
    """

    schema: Schema
    interactions: pd.DataFrame
    items: pd.DataFrame | None
    users: pd.DataFrame | None
    counts: dict[str, int]  # what was changed on the way here

    def replace(self, interactions: pd.DataFrame) -> "RawData":
        """The same data with other interactions."""
        return dataclasses.replace(self, interactions=interactions)


def assemble(schema: Schema, files: Files) -> RawData:
    """Give the fields of files the names of the schema and check them.

    Raises `UserError` naming file, line and value if something cannot be read.
    """
    counts: dict[str, int] = {}
    tables = {}
    for table in TABLES:
        described = schema.table(table)
        if table in files and described.roles:
            file = files[table]
            if table == "interactions":
                file = one_a_row(file, described.item, described.user)
            tables[table] = named_table(table, file, described, counts)
            require_rows(tables[table], file)
            counts |= file.notes
    match_ids(tables, files, counts)
    interactions = tables["interactions"]
    check_times(interactions, files["interactions"])
    for role in ("user", "item"):
        ids = pd.Series(interactions[role].unique())
        counts[ALIKE.format(role)] = alike_ids(ids)
    return RawData(
        schema,
        without_duplicates(interactions, schema, counts),
        tables.get("items"),
        tables.get("users"),
        counts,
    )


def require_rows(frame: pd.DataFrame, file: File) -> None:
    """Raise `UserError` for a table without rows."""
    if frame.empty:
        raise UserError(f"{file.name} is empty; give a file with data")


def check_times(interactions: pd.DataFrame, file: File) -> None:
    """Raises `UserError` for a time before 1970."""
    if "time" in interactions:
        times = interactions["time"]
        for row in times.index[times < 0]:
            file.fault(row, f"time {times[row]} is before 1970")


def alike_ids(ids: pd.Series) -> int:
    """How many of different ids differ from another in case alone."""
    if ids.dtype == np.int64:
        return 0
    return len(ids) - ids.str.casefold().nunique()


def without_duplicates(
    interactions: pd.DataFrame, schema: Schema, counts: dict[str, int]
) -> pd.DataFrame:
    """Each item once a user, or with repeats once at each time; the first row stays."""
    key = ["user", "item", "time"] if schema.repeats else ["user", "item"]
    if set(key) <= set(interactions):
        twice = interactions.duplicated(key)
        counts[f"rows dropped: the same {', '.join(key)}"] = int(twice.sum())
        interactions = interactions[~twice]
    return interactions.reset_index(drop=True)


SESSION = "session"  # field of the number of a line that holds a whole one


def one_a_row(file: File, item: str, user: str) -> File:
    """Interactions of a file whose rows are whole sessions: `item`, and any other list of the same
    length. If there is no user field, each row is its own SESSION."""
    frame = file.frame
    if item not in frame or not _is_list(frame[item]):
        return file
    lengths = frame[item].map(len)
    lists = [item]
    for field in frame.columns.drop(item):
        if _is_list(frame[field]) and (frame[field].map(len) == lengths).all():
            lists.append(field)
    frame = frame[lengths > 0]
    if user in ("", SESSION) and SESSION not in frame:
        frame = frame.assign(**{SESSION: np.arange(1, len(frame) + 1)})
    return dataclasses.replace(
        file, frame=frame.explode(lists, ignore_index=True)
    )


def _is_list(values):
    return values.dtype == object and all(
        isinstance(cell, list | tuple | np.ndarray) for cell in values
    )


def match_ids(
    tables: dict[str, pd.DataFrame], files: Files, counts: dict[str, int]
) -> None:
    """Check the ids of items and users; count those without a row, and those without an
    interaction."""
    interactions = tables["interactions"]
    for role, table in (("item", "items"), ("user", "users")):
        if table not in tables:
            continue
        listed = tables[table]
        if interactions[role].dtype != listed["id"].dtype:
            # Text on both sides where one side has ids that are no whole numbers.
            interactions[role] = interactions[role].astype(str).astype(object)
            listed["id"] = listed["id"].astype(str).astype(object)
        for row in listed.index[listed["id"].duplicated()]:
            files[table].fault(row, f"{listed['id'][row]} is listed twice")
        strange = interactions.loc[
            ~interactions[role].isin(listed["id"]), role
        ]
        counts[STRANGE.format(table)] = strange.nunique()
        idle = ~listed["id"].isin(interactions[role])
        counts[IDLE.format(table)] = int(idle.sum())


def named_table(
    table: str,
    file: File,
    described: TableSchema,
    counts: dict[str, int],
    forms: Mapping[str, str] = NO_FORMS,
) -> pd.DataFrame:
    """One table with the names of the schema, without rows that lack an id or a time. The index is
    the row of the file.

    forms: role -> how its values are written (WHOLE_IDS, TEXT_IDS, or as in `time_form`), for a
    part of a table of which it is known.
    """
    columns = described.columns
    of_columns = [column.field for column in columns.values()]
    for field in (*of_columns, *described.roles.values()):
        if field not in file.frame:
            raise UserError(
                f"{file.name} has no field {field!r}; it has "
                f"{', '.join(map(str, file.frame.columns))}: correct the schema"
            )
    frame = file.frame.reset_index(drop=True)
    blank = {
        role: is_blank(frame[field])
        for role, field in described.roles.items()
        if role != "name"
    }
    missing = pd.DataFrame(blank).any(axis=1)
    counts[f"rows of {table} dropped: no {' or '.join(blank)}"] = int(
        missing.sum()
    )
    if missing.any():
        frame = frame[~missing]
    named: dict[str, pd.Series] = {}
    for role, field in described.roles.items():
        if role == "time":
            refuse = file.refusing(field)
            form = forms.get(role, "")
            named[role] = seconds_of(frame[field], refuse, form)
        elif role == "name":
            named[role] = _values(file, Column(role, "text"), frame[field])
        else:
            named[role] = _ids(file, frame[field], forms.get(role, ""))
    for name, column in columns.items():
        named[name] = _values(file, column, frame[column.field])
    return pd.DataFrame(named)


def _values(file, column, values):
    """A column's values in the form of `RawData`."""
    known = values[~is_blank(values)]
    if column.decimal == ",":
        known = known.astype(str).str.replace(",", ".", regex=False)
    if column.kind == "number":
        found = _numbers(file, column, known)
    elif column.kind == "vector":
        found = _vectors(file, column, known)
    elif column.kind == "tags":
        found = known.map(lambda value: tags_of(value, column.separator))
    elif column.kind == "category":
        found = _category(known, column.ordered)
    else:
        found = known.astype(str).str.strip().astype(object)
    if column.values:
        each = found.explode() if column.kind == "tags" else found
        each = each.dropna()
        declared = ", ".join(column.values)
        for row, value in each[~each.isin(list(column.values))].items():
            problem = f"{value!r} is none of the declared values {declared}"
            file.fault(row, f"{column.field} {problem}")
    return found.reindex(values.index)


def _numbers(file, column, known):
    """Numbers unchanged, dates as days since 1970."""
    found = pd.to_numeric(known.astype(object), errors="coerce").astype(float)
    if found.isna().all():
        with contextlib.suppress(UserError):
            days = seconds_of(known, file.refusing(column.field))
            found = days / 86_400
    for row in found.index[~np.isfinite(found)]:
        problem = f"{column.field} {known[row]!r} is not a number or date"
        file.fault(row, problem)
    return found


def _vectors(file, column, known):
    """Lists of numbers of one length."""
    vectors: list[np.ndarray] = []
    for row, value in known.items():
        if isinstance(value, str):
            value = re.findall(r"[^\s,;|\[\]()]+", value)
        try:
            vector = np.atleast_1d(np.array(value, dtype=float))
        except (TypeError, ValueError):
            vector = np.full(1, np.nan)
        vectors.append(vector)
        length = max(1, len(vectors[0]))
        if vector.shape != (length,) or not np.isfinite(vector).all():
            problem = f"is not a list of {length} finite numbers"
            file.fault(row, f"{column.field} {known[row]!r} {problem}")
    return pd.Series(vectors, known.index, dtype=object)


def _category(known, ordered):
    """Values as text; numbers, and the values of a scale, in their shortest form."""
    # Each different value once: there may be many rows.
    codes, different = pd.factorize(known)
    text = pd.Series(different).astype(str).str.strip().astype(object)
    if pd.api.types.is_numeric_dtype(known) or ordered:
        text = text.map(plain_number)
    return pd.Series(text.to_numpy()[codes], known.index, dtype=object)


def tags_of(value: object, separator: str) -> list[str]:
    """Tags of a cell: a list, or text with separators; a text in parentheses means none."""
    if isinstance(value, list | tuple | np.ndarray):
        return [str(tag).strip() for tag in value]
    text = str(value).strip()
    if text in MISSING or re.fullmatch(r"\(no .* listed\)", text):
        return []
    return [
        tag for tag in (part.strip() for part in text.split(separator)) if tag
    ]


def is_blank(values: pd.Series) -> pd.Series:
    """Which cells are empty."""
    if pd.api.types.is_numeric_dtype(values):
        return values.isna()
    return values.isna() | values.astype(str).str.strip().isin(MISSING)


def check_ids(file: File, values: pd.Series) -> None:
    """Raises `UserError` for a list, a record or a fraction among ids."""
    if values.dtype == object:
        for row, value in values.items():
            if isinstance(value, list | dict | tuple | np.ndarray):
                file.fault(row, f"{values.name} {value!r} is no id")
    if pd.api.types.is_float_dtype(values):
        for row in values.index[values % 1 > 0]:
            file.fault(row, f"{values.name} {values[row]} is no id")


def _ids(file, values, form):
    """Whole numbers if all are, else text."""
    check_ids(file, values)
    if form != TEXT_IDS:
        numbers = _whole_ids(values)
        if numbers is not None:
            return numbers
    return values.astype(str).str.strip().astype(object)


def _whole_ids(values):
    if pd.api.types.is_signed_integer_dtype(values):
        return values.astype(np.int64, copy=False)
    whole = whole_numbers(values)
    if whole is not None:
        return whole
    text = values.astype(str).str.strip()
    # What pandas writes of whole numbers beside a missing one: 12.0.
    return whole_numbers(
        text.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    )
