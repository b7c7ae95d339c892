"""The schema of a data set: which columns its tables have, of which kind, and the words for them.

A data set is up to three tables: interactions (who had what, when), items and users. Each column
besides the ids is of one of five kinds, and everything after the readers speaks of columns by
name:

    category   one value of a list: text, whole numbers, booleans; `ordered` for a scale
    tags       any number of values of a list, as in 'a|b|c'
    number     numbers and dates; `log` where they span several sizes
    text       free text
    vector     a list of numbers of one length

A schema is a YAML file (`datasets/` has examples and a page about them) or is inferred from the
data (readers/infer.py). This module knows nothing of arrays or models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from support.errors import UserError
from support.yaml_file import read_yaml, refuse

Kind = Literal["category", "tags", "number", "text", "vector"]
KINDS: tuple[str, ...] = get_args(Kind)
TABLES = ("interactions", "items", "users")
# What a table may say of its columns beside `columns`: the field of the file that plays a role.
ROLES = {
    "interactions": ("user", "item", "time"),
    "items": ("id", "name"),
    "users": ("id",),
}
REQUIRED = {"interactions": ("user", "item"), "items": ("id",), "users": ("id",)}
WORDS = ("name", "noun", "plural", "verb", "note", "reader")
Lines = Mapping[tuple[str, ...], int]


@dataclass(frozen=True)
class Column:
    """One column beside the ids.

    label: how sentences and the page call it. values: declared values (as text) and their names,
    in order; without them the values that occur. predict: a head learns it, of an interaction
    before it is given, of items for what comes next. counterfactual: 'how would it rank for
    another ...?'.
    """

    name: str
    kind: Kind
    source: str = ""
    label: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    separator: str = "|"
    ordered: bool = False
    log: bool = False
    predict: bool = False
    counterfactual: bool = False

    @property
    def title(self) -> str:
        """How people call it."""
        return self.label or self.name.replace("_", " ")

    @property
    def field(self) -> str:
        """Its name in the file."""
        return self.source or self.name


@dataclass(frozen=True)
class TableSchema:
    """One table: its file, which fields of the file play a role, and its columns by name."""

    file: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)


@dataclass(frozen=True)
class Schema:
    """See the module's head.

    verb: in the past tense, as in 'because you watched A'. repeats: may a user have an item
    twice. note: what must stand beside every number measured on these data. publish_items:
    whether a checkpoint may hold names and columns of the items; False where the data's licence
    forbids it.
    """

    name: str
    noun: str = "item"
    plural: str = ""
    verb: str = "had"
    repeats: bool = False
    note: str = ""
    reader: str = "tables"
    publish_items: bool = True
    interactions: TableSchema = field(default_factory=TableSchema)
    items: TableSchema = field(default_factory=TableSchema)
    users: TableSchema = field(default_factory=TableSchema)

    @property
    def nouns(self) -> str:
        """The plural of the noun."""
        return self.plural or f"{self.noun}s"

    def table(self, name: str) -> TableSchema:
        """One of TABLES."""
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """As YAML has it; what is as by default is left out."""
        default = Schema(self.name)
        content: dict[str, Any] = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in TABLES:
                value = _table_dict(value)
                if value:
                    content[entry.name] = value
            elif entry.name == "name" or value != getattr(default, entry.name):
                content[entry.name] = value
        return content


def read_schema(path: Path) -> Schema:
    """The schema in a YAML file. Raises `UserError` naming file and line."""
    content, lines = read_yaml(path)
    return schema_of(content, path, lines)


def schema_of(content: Mapping[str, Any], path: Path, lines: Lines) -> Schema:
    """The schema that a mapping describes, as `Schema.to_dict` or YAML has it.

    path, lines: where it was read, for `UserError`.
    """
    known = {entry.name for entry in dataclasses.fields(Schema)}
    _refuse_unknown(path, lines, (), content, known)
    if not isinstance(content.get("name"), str):
        refuse(
            path, lines.get(("name",), 1), "a schema needs a name, as in name: my-shop"
        )
    for word in WORDS:
        if not isinstance(content.get(word, ""), str):
            refuse(path, lines.get((word,), 1), f"{word}: expected text; quote it")
    for flag in ("repeats", "publish_items"):
        if not isinstance(content.get(flag, False), bool):
            refuse(path, lines.get((flag,), 1), f"{flag}: expected true or false")
    values = dict(content)
    for table in TABLES:
        if table in values:
            values[table] = _table_of(table, values[table], path, lines)
    return Schema(**values)


def _table_of(table: str, content: Any, path: Path, lines: Lines) -> TableSchema:
    if not isinstance(content, Mapping):
        refuse(
            path, lines.get((table,), 1), f"{table}: expected lines of 'name: value'"
        )
    _refuse_unknown(path, lines, (table,), content, {"file", "columns", *ROLES[table]})
    for name, value in content.items():
        if name != "columns" and not isinstance(value, str):
            refuse(
                path,
                lines.get((table, name), 1),
                f"{table}.{name}: expected text; quote it",
            )
    columns = content.get("columns") or {}
    if not isinstance(columns, Mapping):
        refuse(
            path,
            lines.get((table, "columns"), 1),
            f"{table}.columns: expected 'name: kind'",
        )
    roles = {role: content[role] for role in ROLES[table] if role in content}
    found = {
        name: _column_of((table, "columns", name), value, path, lines)
        for name, value in columns.items()
    }
    return TableSchema(content.get("file", ""), roles, found)


def _column_of(
    place: tuple[str, ...], content: Any, path: Path, lines: Lines
) -> Column:
    line, name = lines.get(place, 1), place[-1]
    if isinstance(content, str):
        content = {"kind": content}
    if not isinstance(content, Mapping):
        refuse(path, line, f"{name}: expected a kind, or {{kind: ..., ...}}")
    known = {entry.name for entry in dataclasses.fields(Column)} - {"name"}
    _refuse_unknown(path, lines, place, content, known)
    kind = content.get("kind")
    if kind not in KINDS:
        refuse(path, line, f"{name}: kind {kind!r} is none of {', '.join(KINDS)}")
    if place[0] == "interactions" and kind not in ("category", "number"):
        refuse(
            path,
            line,
            f"{name}: an interaction's column is a category or a number; put {kind} "
            f"into the table of items or users",
        )
    predictable = {
        "interactions": ("category",),
        "items": ("category", "tags"),
        "users": (),
    }
    if content.get("predict") and kind not in predictable[place[0]]:
        refuse(
            path,
            line,
            f"{name}: a {kind} of {place[0]} cannot be predicted; drop predict, or "
            f"declare it as a category",
        )
    if content.get("counterfactual") and (place[0], kind) != ("users", "category"):
        refuse(path, line, f"{name}: counterfactual is for categories of users")
    for flag in ("ordered", "log", "predict", "counterfactual"):
        if not isinstance(content.get(flag, False), bool):
            refuse(path, line, f"{name}.{flag}: expected true or false")
    for word in ("source", "label", "separator"):
        if not isinstance(content.get(word, ""), str):
            refuse(path, line, f"{name}.{word}: expected text; quote it")
    values = content.get("values", {})
    if isinstance(values, list):
        values = {str(value): str(value) for value in values}
    if not isinstance(values, Mapping):
        refuse(path, line, f"{name}.values: expected a list, or lines of 'value: name'")
    values = {str(value): str(title) for value, title in values.items()}
    return Column(name, **{**content, "values": values})


def _table_dict(table: TableSchema) -> dict[str, Any]:
    content: dict[str, Any] = {"file": table.file} if table.file else {}
    content |= table.roles
    columns = {}
    for name, column in table.columns.items():
        default = Column(name, column.kind)
        told = {"kind": column.kind}
        for entry in dataclasses.fields(Column):
            value = getattr(column, entry.name)
            if value != getattr(default, entry.name):
                told[entry.name] = dict(value) if entry.name == "values" else value
        columns[name] = told if len(told) > 1 else column.kind
    if columns:
        content["columns"] = columns
    return content


def _refuse_unknown(
    path: Path,
    lines: Lines,
    place: tuple[str, ...],
    content: Mapping[str, Any],
    known: set[str],
) -> None:
    for name in content:
        if name not in known:
            where = ".".join(place) or "a schema"
            refuse(
                path,
                lines.get((*place, name), 1),
                f"unknown key {name!r}; {where} has {', '.join(sorted(known))}",
            )


def check_roles(schema: Schema) -> None:
    """Raises `UserError` for a table that lacks what it must say."""
    for table in TABLES:
        given = schema.table(table)
        if table != "interactions" and not (given.roles or given.columns):
            continue
        for role in REQUIRED[table]:
            if role not in given.roles:
                raise UserError(
                    f"schema {schema.name}: {table} lacks its {role}: say which field of "
                    f"the file it is, as in {table}: {{{role}: ...}}"
                )
