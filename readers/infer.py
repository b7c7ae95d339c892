"""The schema of data that have none: roles by the names people use, kinds by the values."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd

from readers.raw import Files, is_blank, tags_of
from readers.sequences import is_sequences, read_sequences
from readers.tables import read_file
from readers.times import seconds_of
from schema import OPTIONAL, ROLES, Column, Schema, TableSchema
from support.arguments import names_of
from support.errors import UserError

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
# Names of files in a folder, and the ending of RecBole's.
FILES = {
    "interactions": {"interactions", "ratings", ".inter"},
    "items": {"items", "movies", ".item"},
    "users": {"users", ".user"},
}
FEW = 20  # different whole numbers that still look like a list of values
MOST_VALUES = 1000  # of a category
MOST_PREDICTED = 200  # values of tags that a head learns
SAMPLE = 20_000  # rows by which a kind is chosen


def inferred(path: Path, columns: str) -> tuple[Schema, Files]:
    """(schema, files) of a file or folder. columns: roles of fields, as in 'user=A,item=B'.

    Raises `UserError` naming the fields and the flag that settles what is not clear.
    """
    given = dict(part.partition("=")[::2] for part in names_of(columns))
    sequences = is_sequences(path)
    files = read_sequences(path) if sequences else _files_of(path)
    fields = [str(field) for file in files.values() for field in file.frame]
    for role, field in given.items():
        if role not in ROLE_NAMES or field not in fields:
            raise UserError(
                f"--columns {role}={field}: write role=field, with the roles "
                f"{', '.join(ROLE_NAMES)} and the fields {', '.join(fields)}"
            )
    tables = {
        table: _table(table, file, given) for table, file in files.items()
    }
    roles = tables["interactions"].roles
    pair = [roles["user"], roles["item"]]
    repeats = files["interactions"].frame.duplicated(pair).mean() > 0.01
    schema = Schema(
        path.stem,
        verb="chose",
        repeats=bool(repeats),
        reader="sequences" if sequences else "tables",
        **tables,
    )
    return schema, files


def _files_of(path):
    """The tables of a file alone, or of a folder by the names of its files."""
    if path.is_file():
        return {"interactions": read_file(path)}
    files = {}
    for table, names in FILES.items():
        found = []
        for file in sorted(path.iterdir()):
            if {file.suffix, file.name.partition(".")[0]} & names:
                found.append(file)
        if len(found) > 1 or (table == "interactions" and not found):
            raise UserError(
                f"{path} has {[file.name for file in found]} as files of {table} "
                f"({', '.join(sorted(names))}); name the file itself, or write a schema "
                f"(datasets/README.md)"
            )
        if found:
            files[table] = read_file(found[0])
    return files


def _table(table, file, given):
    """Roles and columns of one table."""
    fields = [str(field) for field in file.frame]
    by_name = {_plain(field): field for field in reversed(fields)}
    by_name |= zip(fields, fields, strict=True)
    roles = {}
    for role in ROLES[table]:
        meaning = table.removesuffix("s") if role == "id" else role
        wanted = [given.get(meaning), *ROLE_NAMES[meaning]]
        found = [by_name[name] for name in wanted if name in by_name]
        if found:
            roles[role] = found[0]
        elif role not in OPTIONAL:
            raise UserError(
                f"{file.name}: which of {', '.join(fields)} is the {meaning}? "
                f"Give --columns {meaning}=FIELD"
            )
    columns: dict[str, Column] = {}
    named = roles.get("name")
    for field in fields:
        if field in roles.values() and field != named:
            continue
        # Names are unique, and none of them is that of a role.
        name = re.sub(r"\W+", "_", field).strip("_") or "column"
        while name in columns or (name in ROLES[table] and field != named):
            name += "_2"
        kind = "text" if field == named else file.kinds.get(field)
        column = _column(table, name, field, file, kind)
        if column is not None:
            columns[name] = column
    return TableSchema(
        str(Path(file.name).resolve()), columns=columns, **roles
    )


def _plain(field):
    return re.sub(r"[^a-z0-9]", "", field.lower())


def _column(table, name, field, file, kind):
    """A column by its values, None for one that says nothing: empty, constant, or ids of
    its own."""
    values = file.frame[field].iloc[:SAMPLE]
    values = values[~is_blank(values)].reset_index(drop=True)
    text = values.astype(str).str.strip()
    different = text.nunique()
    if different < 2 or isinstance(values[0], dict):
        return None
    scale = _plain(field) in SCALES and different <= FEW
    separators = [sign for sign in "|;>" if _splits(text, sign)]
    if kind == "tags" and isinstance(values[0], str):
        separators = [" "]  # RecBole's
    if scale:
        kind = "category"
    elif kind is None:
        kind = _kind(field, values, text, bool(separators))
    if kind is None or (
        table == "interactions" and kind not in ("category", "number")
    ):
        return None
    column = Column(name, kind, field)
    if kind == "number":
        numbers = pd.to_numeric(text, errors="coerce").dropna()
        wide = len(numbers) > 0 and numbers.min() >= 0
        log = wide and numbers.quantile(0.99) > 50 * (numbers.median() + 1)
        return dataclasses.replace(column, log=bool(log))
    if kind == "tags":
        separator = (separators or ["|"])[0]
        tags = values.map(lambda cell: tags_of(cell, separator)).explode()
        predict = table == "items" and tags.nunique() <= MOST_PREDICTED
        return dataclasses.replace(
            column, separator=separator, predict=predict
        )
    few = kind == "category" and different <= FEW
    return dataclasses.replace(
        column,
        ordered=scale,
        predict=scale and table == "interactions",
        counterfactual=few and not scale and table == "users",
    )


def _kind(field, values, text, separated):
    """The kind by the values; None for what is different in nearly every row."""
    different = text.nunique()
    numbers = pd.to_numeric(text, errors="coerce")
    if isinstance(values[0], list | tuple | np.ndarray):
        parts = values.explode().dropna()
        real = any(isinstance(part, float | np.floating) for part in parts)
        return "vector" if real else "tags"
    if text.str.fullmatch(r"\[[-+\d.eE, ]+\]").all():
        return "vector"
    if numbers.notna().all():
        few = (numbers % 1 == 0).all() and different <= FEW
        quantity = _plain(field).endswith(QUANTITIES)
        return "category" if few and not quantity else "number"
    if separated:
        return "tags"
    if _are_dates(text):
        return "number"
    if different > max(50, len(text) / 5):
        return "text" if text.str.count(" ").mean() >= 1 else None
    return "category" if different <= MOST_VALUES else None


def _splits(text, separator):
    return text.str.contains(separator, regex=False).mean() > 0.05


def _are_dates(text):
    try:
        seconds_of(text, "", 1)
    except UserError:
        return False
    return True
