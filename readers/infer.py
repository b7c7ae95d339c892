"""Infers the schema of data without one: roles from usual names, kinds from values."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from readers.folders import files_in
from readers.raw import (
    SESSION,
    File,
    Files,
    check_ids,
    is_blank,
    one_a_row,
    tags_of,
)
from readers.sequences import is_sequences, read_sequences
from readers.tables import read_files
from readers.times import EARLIEST, seconds_of
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
        SESSION,
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
        "items",
        "itemids",
    ),
    "time": (
        "timestamp",
        "timestamps",
        "time",
        "times",
        "datetime",
        "date",
        "unixreviewtime",
        "ts",
        "createdat",
    ),
    "name": ("name", "title", "productname", "itemname", "movietitle"),
}
# Of the first fields of a file without a header.
NAMELESS = {
    "interactions": ("user", "item"),
    "items": ("item", "name"),
    "users": ("user",),
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
FEW = 20  # different whole numbers that still look like a list of values
MOST_VALUES = 1000  # of a category
MOST_PREDICTED = 200  # values of tags that a head learns
SAMPLE = 20_000  # rows by which a kind is chosen, users by which repeats are


def inferred(path: Path, columns: str) -> tuple[Schema, Files]:
    """(schema, files) of a file, a folder, or a pattern such as 'orders/*.parquet'.

    columns: roles of fields, as in 'user=A,item=B'. Raises `UserError` naming the fields and the
    flag that resolves an ambiguity.
    """
    given = given_roles(columns)
    if is_sequences(path):
        files, reader = read_sequences(path), "sequences"
    else:
        files, reader = _files_of(path, given.values()), "tables"
    return schema_for(name_of(path), files, given, reader)


def name_of(path: Path) -> str:
    """The name of data without a schema: 'orders/*.csv' are orders."""
    return path.stem.strip("*") or path.absolute().parent.name or "data"


def of_frames(
    frames: Mapping[str, Any], columns: str = "", name: str = "frames"
) -> tuple[Schema, Files]:
    """(schema, files) of tables in memory: data frames of pandas, or tables of Arrow, by name."""
    files = {}
    for table, frame in frames.items():
        frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
        frame = frame.rename(columns=str)
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise UserError(f"{table} has two columns {twice[0]!r}; rename one")
        files[table] = File(frame.reset_index(drop=True), f"{table} of {name}")
    schema, files = schema_for(name, files, given_roles(columns))
    in_memory = {
        table: dataclasses.replace(schema.table(table), file="")
        for table in files
    }
    return dataclasses.replace(schema, **in_memory), files


def given_roles(columns: str) -> dict[str, str]:
    """Role -> field of --columns."""
    return dict(part.partition("=")[::2] for part in names_of(columns))


def schema_for(
    name: str, files: Files, given: Mapping[str, str], reader: str = "tables"
) -> tuple[Schema, Files]:
    """(schema, files) of tables that were read. given: role -> field."""
    files = dict(files)
    interactions = files["interactions"]
    roles = _roles_by_name(interactions) | given
    item, user = roles.get("item", ""), roles.get("user", "")
    files["interactions"] = one_a_row(interactions, item, user)
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
    for field in pair:
        check_ids(files["interactions"], files["interactions"].frame[field])
    repeats = _share_of_repeats(files["interactions"].frame[pair]) > 0.01
    schema = Schema(
        re.sub(r"[^\w .-]", "_", name),
        verb="chose",
        repeats=bool(repeats),
        reader=reader,
        **tables,
    )
    return schema, files


def _share_of_repeats(pairs):
    """Share of the rows whose user has the item in an earlier row; estimated on some users if there
    are many."""
    users = pairs.iloc[:, 0]
    different = users.unique()
    if len(different) > SAMPLE:
        some = different[:: 1 + len(different) // SAMPLE]
        pairs = pairs[users.isin(some)]
    return pairs.duplicated().mean()


def _files_of(path, wanted):
    files = {}
    for table, (name, paths) in files_in(path).items():
        file = read_files(paths, wanted)
        # Of several files the schema names what finds them.
        files[table] = dataclasses.replace(file, name=name)
    return files


def _names_of_fields(table, file):
    """Field -> its name for people: its name, or its place in a file without a header."""
    fields = [str(field) for field in file.frame]
    names = dict(zip(fields, fields, strict=True))
    if fields != [str(number + 1) for number in range(len(fields))]:
        return names
    names |= zip(fields, NAMELESS[table], strict=False)
    if table == "interactions":
        for field in fields[2:]:
            values = file.frame[field].iloc[:SAMPLE]
            if _are_times(values[~is_blank(values)]):
                names[field] = "time"
            elif field == fields[2]:
                names[field] = "rating"
    return names


def _roles_by_name(file, table="interactions"):
    """Role -> the field whose name fits it."""
    by_name = {}
    for field, name in _names_of_fields(table, file).items():
        by_name.setdefault(_plain(name), field)
    roles = {}
    for role in ROLES[table]:
        meaning = table.removesuffix("s") if role == "id" else role
        found = [
            by_name[name] for name in ROLE_NAMES[meaning] if name in by_name
        ]
        if found:
            roles[role] = found[0]
    return roles


def _table(table, file, given):
    """Roles and columns of one table."""
    names = _names_of_fields(table, file)
    roles = _roles_by_name(file, table)
    for role in ROLES[table]:
        meaning = table.removesuffix("s") if role == "id" else role
        if given.get(meaning) in names:
            roles[role] = given[meaning]
        if role not in roles and role not in OPTIONAL:
            raise UserError(
                f"{file.name}: which of {', '.join(names)} is the {meaning}? "
                f"Give --columns {meaning}=FIELD; if the first line is data already, "
                f"--columns user=1,item=2"
            )
    if table == "interactions" and "time" not in roles:
        typed = file.frame.select_dtypes(["datetime", "datetimetz"]).columns
        if len(typed) == 1:
            roles["time"] = str(typed[0])
    columns: dict[str, Column] = {}
    named = roles.get("name")
    for field, meant in names.items():
        if field in roles.values() and field != named:
            continue
        # Names are unique, and none of them is that of a role.
        name = re.sub(r"\W+", "_", meant).strip("_") or "column"
        while name in columns or (name in ROLES[table] and field != named):
            name += "_2"
        kind = "text" if field == named else file.kinds.get(field)
        found = _column(table, name, field, file, kind)
        if isinstance(found, Column):
            columns[name] = found
            if table == "interactions" and "time" not in roles:
                _note_dates(file, field)
        else:
            file.notes[f"cells of {table}.{name} not used: {found}"] = len(
                file.frame
            )
    return TableSchema(
        str(Path(file.name).resolve()), columns=columns, **roles
    )


def _note_dates(file, field):
    """Print a note if a field without a role may be the time."""
    values = file.frame[field]
    values = values[~is_blank(values)].iloc[:SAMPLE]
    numbers = pd.to_numeric(values, errors="coerce").notna().any()
    if not numbers and _are_dates(values.astype(str).str.strip()):
        note = f"dates in {field}, a number now; if they are the times: --columns time={field}"
        file.notes[note] = len(file.frame)


def _plain(field):
    return re.sub(r"[^a-z0-9]", "", field.lower())


def _column(table, name, field, file, kind):
    """A column from its values, or the reason why it is not used."""
    rows = file.frame[field]
    values = rows.iloc[:: 1 + len(rows) // SAMPLE]
    values = values[~is_blank(values)].reset_index(drop=True)
    text = values.astype(str).str.strip()
    different = text.nunique()
    if different < 2:
        return "one value" if different else "empty"
    if isinstance(values[0], dict):
        return "records"
    decimal = "," if _has_decimal_commas(text) else "."
    if decimal == ",":
        values = text = text.str.replace(",", ".", regex=False)
    elif _may_have_thousands(text):
        return "its commas may separate thousands; write 1234 or 1.234 for 1,234"
    scale = _plain(name) in SCALES and different <= FEW
    separators = [sign for sign in "|;>" if _splits(text, sign)]
    if kind == "tags" and isinstance(values[0], str):
        separators = [" "]  # RecBole's
    if scale:
        kind = "category"
    elif kind is None:
        kind = _kind(field, values, text, bool(separators))
    if kind is None:
        return "another value in nearly every row"
    if table == "interactions" and kind not in ("category", "number"):
        return f"{kind} is for items and users"
    column = Column(name, kind, field, decimal=decimal)
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
    """The kind from the values; None if nearly every row has another value."""
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


def _has_decimal_commas(text):
    """Whether numbers are written as 3,5. The comma of 1,234 may separate thousands."""
    numbers = text.str.fullmatch(r"[-+]?\d+(,\d+)?").all()
    return numbers and text.str.contains(r",(?:\d{1,2}|\d{4,})$").any()


def _may_have_thousands(text):
    numbers = text.str.fullmatch(r"[-+]?\d{1,3}(,\d{3})*(\.\d+)?").all()
    return numbers and text.str.contains(",", regex=False).any()


def _splits(text, separator):
    return text.str.contains(separator, regex=False).mean() > 0.05


def _are_times(values):
    """Whether values may be times: dates, or seconds or smaller units since 1970."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        return len(numbers) > 0 and numbers.median() >= EARLIEST
    return _are_dates(values.astype(str).str.strip())


def _refused(_row, problem):
    raise UserError(problem)


def _are_dates(text):
    try:
        seconds_of(text, _refused)
    except UserError:
        return False
    return True
