"""`RawData`: the tables that every reader ends in, checked, under the names of the schema."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from readers.times import seconds_of
from schema import Column, Kind, Schema, check_roles
from support.errors import UserError

WHOLE = r"0|-?[1-9]\d{0,17}"
LARGEST_ID = 10**18  # larger ones are text
MISSING = ("", "NULL", "null", "NaN", "nan", "NaT", "NA", "N/A", "\\N", "None", "<NA>")


@dataclass(frozen=True)
class File:
    """A table as it stands in a file: fields by name, row i being line `first_line` + i."""

    frame: pd.DataFrame
    name: str
    first_line: int = 1
    # Kinds that the file itself names.
    kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)


Files = Mapping[str, File]  # table -> file


@dataclass(frozen=True)
class RawData:
    """Tables under the names of the schema, rows in file order.

    interactions: user, item, time (seconds since 1970, if known) and the columns; items, users:
    id, name (items) and the columns, or None where there is no such table. Ids are whole numbers
    if all of them are, else text. Categories and text are text, None where unknown; tags are
    lists of text; numbers are floats, NaN where unknown; vectors are lists of floats. counts:
    what was changed in reading, as (what, how many), for the data card.
    """

    schema: Schema
    interactions: pd.DataFrame
    items: pd.DataFrame | None
    users: pd.DataFrame | None
    counts: tuple[tuple[str, int], ...] = ()

    def replace(self, interactions: pd.DataFrame) -> "RawData":
        """The same with other interactions."""
        return dataclasses.replace(self, interactions=interactions)


def assemble(schema: Schema, files: Files, note: str = "") -> RawData:
    """Give the fields of files the names of the schema and check them.

    note: what must stand beside numbers measured on these files. Raises `UserError` naming file,
    line and value for what cannot be read.
    """
    check_roles(schema)
    if note:
        schema = dataclasses.replace(schema, note=note)
    counts: list[tuple[str, int]] = []
    tables = {}
    files = dict(files)
    for table in ("interactions", "items", "users"):
        described = schema.table(table)
        if table in files and described.roles:
            files[table] = _without_missing_ids(
                table, files[table], described.roles, counts
            )
            tables[table] = _named(files[table], described.roles, described.columns)
    if "interactions" not in tables:
        raise UserError(f"data set {schema.name} has no interactions")
    interactions = tables["interactions"]
    _same_ids(interactions, "user", tables.get("users"))
    _same_ids(interactions, "item", tables.get("items"))
    for table in ("items", "users"):
        if table in tables:
            tables[table] = _one_row_each(tables[table], files[table])
    for role, table in (("item", "items"), ("user", "users")):
        if table in tables:
            strange = ~interactions[role].isin(tables[table]["id"])
            if strange.any():
                number = interactions.loc[strange, role].nunique()
                counts.append((f"{table} without a row in their table", number))
    if "time" in interactions and (interactions["time"] < 0).any():
        row = int(np.flatnonzero(interactions["time"] < 0)[0])
        _fault(
            files["interactions"],
            row,
            f"time {interactions['time'].iloc[row]} is before 1970",
        )
    interactions = _without_duplicates(interactions, schema.repeats, counts)
    return RawData(
        schema, interactions, tables.get("items"), tables.get("users"), tuple(counts)
    )


def _without_missing_ids(
    table: str, file: File, roles: Mapping[str, str], counts: list[tuple[str, int]]
) -> File:
    """The file without the rows that lack an id or a time; the others keep their line numbers."""
    missing = np.zeros(len(file.frame), dtype=bool)
    needed = [role for role in ("user", "item", "time", "id") if role in roles]
    for role in needed:
        if roles[role] in file.frame:
            missing |= is_blank(file.frame[roles[role]]).to_numpy()
    if not missing.any():
        return file
    what = " or ".join(needed)
    counts.append((f"rows of {table} dropped: no {what}", int(missing.sum())))
    return dataclasses.replace(file, frame=file.frame[~missing])


def _named(
    file: File, roles: Mapping[str, str], columns: Mapping[str, Column]
) -> pd.DataFrame:
    """One table under the names of the schema."""
    if file.frame.empty:
        raise UserError(f"{file.name} is empty; give a file with data")
    named: dict[str, pd.Series] = {}
    for role, field in roles.items():
        values = _field(file, field)
        if role == "time":
            named[role] = seconds_of(
                values, f"{file.name}, field {field}", file.first_line
            )
        elif role == "name":
            named[role] = _text(values)
        else:
            named[role] = _ids(values)
    for name, column in columns.items():
        named[name] = _values(file, column, _field(file, column.field))
    return pd.DataFrame(named)


def _field(file: File, field: str) -> pd.Series:
    if field not in file.frame:
        raise UserError(
            f"{file.name} has no field {field!r}; it has "
            f"{', '.join(map(str, file.frame.columns))}: correct the schema"
        )
    return file.frame[field].reset_index(drop=True)


def _values(file: File, column: Column, values: pd.Series) -> pd.Series:
    """A column's values as `RawData` has them."""
    if column.kind == "category":
        return _category(file, column, values)
    if column.kind == "text":
        return _text(values)
    if column.kind == "tags":
        tags = values.map(lambda value: tags_of(value, column.separator))
        if column.values:
            _only_declared(file, column, tags)
        return tags
    if column.kind == "vector":
        return _vectors(file, column, values)
    return _numbers(file, column, values)


def _numbers(file: File, column: Column, values: pd.Series) -> pd.Series:
    """Numbers as they are, dates as days since 1970."""
    known = values[~is_blank(values)]
    numbers = pd.Series(np.nan, index=values.index)
    if pd.api.types.is_datetime64_any_dtype(values):
        numbers[known.index] = seconds_of(known, file.name, file.first_line) / 86_400
        return numbers
    found = pd.to_numeric(known, errors="coerce").astype(float)
    if len(known) and found.isna().all():
        with contextlib.suppress(UserError):
            found = seconds_of(known, file.name, file.first_line) / 86_400
    wrong = found[~np.isfinite(found)]
    if len(wrong):
        row = wrong.index[0]
        _fault(file, row, f"{column.field} {values[row]!r} is not a number or date")
    numbers[known.index] = found
    return numbers


def _vectors(file: File, column: Column, values: pd.Series) -> pd.Series:
    """Lists of numbers of one length, None where one is missing."""
    absent, vectors = is_blank(values), []
    for row, value in enumerate(values):
        if absent[row]:
            vectors.append(None)
            continue
        parts = value
        if isinstance(value, str):
            parts = re.split(r"[\s,;|]+", value.strip("[]() \t"))
        try:
            vector = [float(part) for part in parts]
        except (TypeError, ValueError):
            vector = [np.nan]
        length = len(next(filter(None, vectors), vector))
        if not np.isfinite(vector).all() or len(vector) != length:
            problem = (
                f"{column.field} {value!r} is not a list of {length} finite numbers"
            )
            _fault(file, row, problem)
        vectors.append(vector)
    return pd.Series(vectors, index=values.index, dtype=object)


def _category(file: File, column: Column, values: pd.Series) -> pd.Series:
    # Each different value once: there may be many rows.
    codes, different = pd.factorize(values)
    text = _text(pd.Series(different))
    if pd.api.types.is_numeric_dtype(values) or column.ordered:
        text = text.map(plain_number, na_action="ignore")
    if column.values:
        wrong = text.notna() & ~text.isin(list(column.values))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            row = int(np.argmax(codes == first))
            declared = ", ".join(column.values)
            problem = f"{column.field} {text[first]!r} is none of the declared values {declared}"
            _fault(file, row, problem)
    return pd.Series(np.append(text.to_numpy(dtype=object), None)[codes], values.index)


def _only_declared(file: File, column: Column, tags: pd.Series) -> None:
    """Raise `UserError` for a tag that is none of the declared values."""
    for row, found in enumerate(tags):
        for tag in found:
            if tag not in column.values:
                _fault(
                    file,
                    row,
                    f"{column.field} {tag!r} is none of the declared values "
                    f"{', '.join(column.values)}",
                )


def plain_number(text: str) -> str:
    """'4.0' as '4' and '3.50' as '3.5'; other text as it is."""
    try:
        return f"{float(text):.10g}"
    except ValueError:
        return text


def tags_of(value: object, separator: str) -> list[str]:
    """Tags of a cell: a list, or text with separators; a text in parentheses means none."""
    if isinstance(value, list | tuple | np.ndarray):
        return [str(tag).strip() for tag in value]
    text = str(value).strip()
    if text in MISSING or re.fullmatch(r"\(no .* listed\)", text):
        return []
    return [tag for tag in (part.strip() for part in text.split(separator)) if tag]


def _text(values: pd.Series) -> pd.Series:
    text = values.astype(str).str.strip().astype(object)
    return text.where(~is_blank(values), None)


def is_blank(values: pd.Series) -> pd.Series:
    """Which cells say nothing."""
    if pd.api.types.is_numeric_dtype(values):
        return values.isna()
    return values.isna() | values.astype(str).str.strip().isin(MISSING)


def _ids(values: pd.Series) -> pd.Series:
    """Whole numbers if all are, else text as it is."""
    if pd.api.types.is_integer_dtype(values) and values.abs().max() < LARGEST_ID:
        return values.astype(np.int64, copy=False)
    text = values.astype(str).str.strip()
    # What pandas writes of whole numbers beside a missing one: 12.0.
    plain = text.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    if plain.str.fullmatch(WHOLE).all():
        return plain.astype(np.int64)
    return (plain if pd.api.types.is_float_dtype(values) else text).astype(object)


def _same_ids(
    interactions: pd.DataFrame, role: str, table: pd.DataFrame | None
) -> None:
    """Text on both sides where one side has ids that are no whole numbers."""
    if table is None or interactions[role].dtype == table["id"].dtype:
        return
    interactions[role] = interactions[role].astype(str).astype(object)
    table["id"] = table["id"].astype(str).astype(object)


def _one_row_each(table: pd.DataFrame, file: File) -> pd.DataFrame:
    twice = table["id"].duplicated()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        _fault(file, row, f"{table['id'].iloc[row]} is listed twice")
    return table


def _without_duplicates(
    interactions: pd.DataFrame, repeats: bool, counts: list[tuple[str, int]]
) -> pd.DataFrame:
    """Each item once a user, or with `repeats` once at each time; the first row stays."""
    key = ["user", "item"]
    if repeats and "time" in interactions:
        key.append("time")
    if repeats and "time" not in interactions:
        return interactions
    twice = interactions.duplicated(key)
    if twice.any():
        again = "at the same time" if repeats else "(the schema allows no repeats)"
        counts.append(
            (f"rows dropped: the same user and item {again}", int(twice.sum()))
        )
        return interactions[~twice].reset_index(drop=True)
    return interactions


def _fault(file: File, row: int, message: str) -> None:
    line = file.first_line + file.frame.index[row]
    raise UserError(f"{file.name}:{line}: {message}; correct the line")
