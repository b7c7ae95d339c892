"""The schema of data that have none: roles by the names people use, kinds by the values."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from readers.raw import File, Files, is_blank
from readers.sequences import is_sequences, read_sequences
from readers.tables import read_file
from readers.times import seconds_of
from schema import ROLES, TABLES, Column, Kind, Schema, TableSchema
from settings import names_of
from support.errors import UserError, nearest

# Compared without case and punctuation; the first that is there plays the role.
ROLE_NAMES = {
    "user": (
        "user",
        "userid",
        "customer",
        "customerid",
        "member",
        "membernumber",
        "visitor",
        "visitorid",
        "reviewerid",
        "session",
        "sessionid",
    ),
    "item": (
        "item",
        "itemid",
        "movieid",
        "product",
        "productid",
        "sku",
        "asin",
        "parentasin",
        "articleid",
        "isbn",
        "trackid",
        "artistid",
        "itemdescription",
    ),
    "time": (
        "timestamp",
        "time",
        "datetime",
        "date",
        "unixreviewtime",
        "ts",
        "createdat",
    ),
    "name": ("name", "title", "productname", "itemname", "movietitle"),
}
SCALES = ("rating", "ratings", "stars", "overall", "score")
QUANTITIES = (
    "age",
    "year",
    "price",
    "count",
    "quantity",
    "amount",
    "weight",
    "plays",
    "length",
)
FILES = {
    "interactions": ("interactions", "ratings"),
    "items": ("items", "movies"),
    "users": ("users",),
}
FEW = 20  # different whole numbers that still look like a list of values
MOST_VALUES = 1000  # of a category
MOST_PREDICTED = 200  # values of tags that a head learns
SAMPLE = 20_000  # rows by which a kind is chosen


def inferred(path: Path, columns: str) -> tuple[Schema, Files]:
    """(schema, files) of a file or folder. columns: roles of fields, as in 'user=A,item=B'.

    Raises `UserError` naming the fields and the flag that settles what is not clear.
    """
    roles = _given_roles(columns)
    if is_sequences(path):
        files = read_sequences(path)
    else:
        files = _files_of(path)
    tables: dict[str, TableSchema] = {}
    ids = {"interactions": ("user", "item"), "items": ("item",), "users": ("user",)}
    _check_given(roles, files)
    for table, file in files.items():
        tables[table] = _table(table, file, roles, ids[table])
    interactions = tables["interactions"]
    frame = files["interactions"].frame
    pair = [interactions.roles["user"], interactions.roles["item"]]
    share = frame.duplicated(pair).mean()
    reader = "sequences" if is_sequences(path) else "tables"
    return Schema(
        path.stem, verb="chose", repeats=bool(share > 0.01), reader=reader, **tables
    ), files


def _given_roles(columns: str) -> dict[str, str]:
    roles = {}
    for part in names_of(columns):
        role, equals, field = part.partition("=")
        if not equals or role not in ROLE_NAMES:
            raise UserError(
                f"--columns {part!r}: write role=field, with the roles "
                f"{', '.join(ROLE_NAMES)}"
            )
        roles[role] = field
    return roles


def _files_of(path: Path) -> dict[str, File]:
    """The tables of a file alone, or of a folder by the names of its files."""
    if path.is_file():
        return {"interactions": read_file(path)}
    files = {}
    for table in TABLES:
        endings = {"interactions": ".inter", "items": ".item", "users": ".user"}
        found = sorted(
            file
            for file in path.iterdir()
            if file.suffix == endings[table]
            or file.name.partition(".")[0] in FILES[table]
        )
        if len(found) > 1:
            raise UserError(
                f"{path} has several files of {table}: {found[0].name} and "
                f"{found[1].name}; keep one, or give a YAML file that names it"
            )
        if found:
            files[table] = read_file(found[0])
    if "interactions" not in files:
        raise UserError(
            f"{path} has no interactions.csv, ratings.csv or NAME.inter; name the file "
            f"itself, or write a schema (datasets/README.md)"
        )
    return files


def _check_given(roles: Mapping[str, str], files: Files) -> None:
    """Raise `UserError` for a role that is given to a field which no file has."""
    fields = [str(field) for file in files.values() for field in file.frame.columns]
    for role, field in roles.items():
        if field not in fields:
            hint = nearest(field, fields, f"there are {', '.join(fields)}")
            raise UserError(f"--columns {role}={field}: no file has this field; {hint}")


def _table(
    table: str,
    file: File,
    given: Mapping[str, str],
    ids: tuple[str, ...],
) -> TableSchema:
    """Roles and columns of one table."""
    fields = [str(field) for field in file.frame.columns]
    roles = {}
    for role in ids:
        found = given[role] if given.get(role) in fields else _field_named(fields, role)
        if found is None:
            raise UserError(
                f"{file.name}: which of {', '.join(fields)} is the {role}? "
                f"Give --columns {role}=FIELD"
            )
        roles[role if table == "interactions" else "id"] = found
    optional = {"interactions": "time", "items": "name"}.get(table)
    if optional:
        found = (
            given[optional]
            if given.get(optional) in fields
            else _field_named(fields, optional)
        )
        if found is not None:
            roles[optional] = found
    columns: dict[str, Column] = {}
    for field in fields:
        if field in roles.values() and field != roles.get("name"):
            continue
        kind = "text" if field == roles.get("name") else file.kinds.get(field)
        column = _column(table, field, file, kind)
        if column is not None:
            # Names are unique, and none of them is that of a role.
            name = column.name
            while name in columns or (
                name in ROLES[table] and field != roles.get("name")
            ):
                name += "_2"
            columns[name] = dataclasses.replace(column, name=name)
    return TableSchema(str(Path(file.name).resolve()), columns=columns, **roles)


def _field_named(fields: list[str], role: str) -> str | None:
    plain = {field: re.sub(r"[^a-z0-9]", "", field.lower()) for field in fields}
    for name in ROLE_NAMES[role]:
        for field in fields:
            if plain[field] == name:
                return field
    return None


def _column(table: str, field: str, file: File, kind: Kind | None) -> Column | None:
    """A column by its values, None for one that says nothing: empty, constant, or ids of
    its own."""
    values = file.frame[field].iloc[:SAMPLE]
    values = values[~is_blank(values)].reset_index(drop=True)
    text = values.astype(str).str.strip()
    name = re.sub(r"\W+", "_", field).strip("_") or "column"
    source = field
    if text.nunique() < 2 or isinstance(values[0], dict):
        return None
    plain = re.sub(r"[^a-z0-9]", "", field.lower())
    if plain in SCALES and text.nunique() <= FEW:
        predict = table == "interactions"
        return Column(name, "category", source, ordered=True, predict=predict)
    separator = "|"
    if kind == "tags" and isinstance(values[0], str):
        separator = " "
    if kind is None:
        kind, separator = _kind(plain, values, text)
    if kind is None or (table == "interactions" and kind not in ("category", "number")):
        return None
    if kind == "number":
        numbers = pd.to_numeric(text, errors="coerce").dropna()
        wide = len(numbers) > 0 and numbers.min() >= 0
        log = bool(wide and numbers.quantile(0.99) > 50 * (numbers.median() + 1))
        return Column(name, "number", source, log=log)
    if kind == "tags":
        different = {tag for cell in values for tag in _parts(cell, separator)}
        predict = table == "items" and len(different) <= MOST_PREDICTED
        return Column(name, "tags", source, separator=separator, predict=predict)
    counterfactual = table == "users" and kind == "category" and text.nunique() <= FEW
    return Column(name, kind, source, counterfactual=counterfactual)


def _kind(plain: str, values: pd.Series, text: pd.Series) -> tuple[Kind | None, str]:
    """(kind, separator of tags) by the values; None for what is different in nearly every row."""
    if isinstance(values[0], list | tuple | np.ndarray):
        parts = [part for cell in values for part in cell]
        numbers = any(isinstance(part, float) for part in parts)
        return ("vector" if numbers else "tags"), "|"
    if text.str.fullmatch(r"\[[-+\d.eE, ]+\]").all():
        return "vector", "|"
    if pd.api.types.is_datetime64_any_dtype(values):
        return "number", "|"
    numbers = pd.to_numeric(text, errors="coerce")
    if numbers.notna().all():
        whole = (numbers % 1 == 0).all()
        quantity = any(plain.endswith(name) for name in QUANTITIES)
        if whole and text.nunique() <= FEW and not quantity:
            return "category", "|"
        return "number", "|"
    for separator in "|;>":
        if text.str.contains(separator, regex=False).mean() > 0.05:
            return "tags", separator
    if _are_dates(text):
        return "number", "|"
    if text.nunique() > max(50, len(text) / 5):
        words = text.str.count(" ").mean() + 1
        return ("text" if words >= 2 else None), "|"
    return ("category" if text.nunique() <= MOST_VALUES else None), "|"


def _parts(cell: object, separator: str) -> list[str]:
    if isinstance(cell, list | tuple | np.ndarray):
        return [str(part) for part in cell]
    return str(cell).split(separator)


def _are_dates(text: pd.Series) -> bool:
    try:
        seconds_of(text.reset_index(drop=True), "", 1)
    except UserError:
        return False
    return True
