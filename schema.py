"""The schema of a data set: the columns of its tables, their kinds, and words for output.

A data set has up to three tables: interactions (user, item, time), items and users. Each column
besides the ids has one of five kinds; the rest of the code knows columns by name:

    category   one value of a list: text, whole numbers, booleans; `ordered` for a scale
    tags       any number of values of a list, as in 'a|b|c'
    number     numbers and dates; `log` where they span several sizes
    text       free text
    vector     a list of numbers of one length

A schema is a YAML file (`datasets/` has examples and a page about them) or is inferred from the
data (readers/infer.py). This module does not depend on arrays or models.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Strict,
    StringConstraints,
    TypeAdapter,
)
from pydantic.dataclasses import dataclass

from support.yaml_file import Lines, read_yaml, refuse_at, validated

Kind = Literal["category", "tags", "number", "text", "vector"]
TABLES = ("interactions", "items", "users")
# The fields of a table that are no columns, and those of them that must be there.
ROLES = {
    "interactions": ("user", "item", "time"),
    "items": ("id", "name"),
    "users": ("id",),
}
OPTIONAL = ("time", "name")
# Kinds that a head can predict, and those that an explanation can vary.
FLAGS = {
    ("interactions", "predict"): ("category",),
    ("items", "predict"): ("category", "tags"),
    ("users", "counterfactual"): ("category",),
}
EXACT = 2**53  # below it a float holds every whole number
STRICT = ConfigDict(extra="forbid")
Flag = Annotated[bool, Strict()]
Name = Annotated[str, StringConstraints(pattern=r"^\w+$")]


def _named_values(values):
    """Declared values with their names; in a list, each value is its own name."""
    if isinstance(values, list):
        values = dict.fromkeys(map(str, values))
    if isinstance(values, dict):
        return {
            str(value): str(value if title is None else title)
            for value, title in values.items()
        }
    return values


def _named_columns(columns):
    """Columns by name, 'name: kind' as 'name: {kind: kind}'."""
    if not isinstance(columns, dict):
        return columns or {}
    named = {}
    for name, column in columns.items():
        if isinstance(column, str):
            column = {"kind": column}
        named[name] = (
            {"name": name, **column} if isinstance(column, dict) else column
        )
    return named


@dataclass(frozen=True, config=STRICT)
class Column:
    """One column beside the ids.

    label: its name in sentences and on the page. values: declared values (as text) and their names,
    in order; without them the values that occur. decimal: the sign before the fraction of a number,
    as in 3.5 or 3,5. predict: a head learns it: the value of an interaction before it is given, or
    the values of later items.
    counterfactual: explanations show the rank for other values.
    """

    name: Name
    kind: Kind
    source: str = ""
    label: str = ""
    values: Annotated[dict[str, str], BeforeValidator(_named_values)] = field(
        default_factory=dict
    )
    separator: Annotated[str, StringConstraints(min_length=1)] = "|"
    decimal: Literal[".", ","] = "."
    ordered: Flag = False
    log: Flag = False
    predict: Flag = False
    counterfactual: Flag = False

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.label or self.name.replace("_", " ")

    @property
    def field(self) -> str:
        """Its name in the file."""
        return self.source or self.name


@dataclass(frozen=True, config=STRICT)
class TableSchema:
    """One table: its file, the roles of its fields, and its columns by name."""

    file: str = ""
    user: str = ""
    item: str = ""
    time: str = ""
    id: str = ""
    name: str = ""
    columns: Annotated[dict[str, Column], BeforeValidator(_named_columns)] = (
        field(default_factory=dict)
    )

    @property
    def roles(self) -> dict[str, str]:
        """Role -> field of the file."""
        return {
            role: getattr(self, role)
            for role in ("user", "item", "time", "id", "name")
            if getattr(self, role)
        }


@dataclass(frozen=True, config=STRICT)
class Schema:
    """See the module's head.

    verb: in the past tense, as in 'because you watched A'. repeats: may a user have an item
    twice. note: stands beside every number measured on these data. publish_items: whether a
    checkpoint may contain names and columns of the items; False if the licence forbids it.
    """

    name: Annotated[str, StringConstraints(pattern=r"^\w[\w .-]*$")]
    noun: str = "item"
    plural: str = ""
    verb: str = "had"
    repeats: Flag = False
    note: str = ""
    reader: Literal["tables", "sequences", "movielens"] = "tables"
    publish_items: Flag = True
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
        """In the form of YAML, without default values."""
        content = TypeAdapter(Schema).dump_python(self, exclude_defaults=True)
        for table in TABLES:
            for column in content.get(table, {}).get("columns", {}).values():
                del column["name"]
        return content


def read_schema(path: Path) -> Schema:
    """The schema in a YAML file. Raises `UserError` naming file and line."""
    content, lines = read_yaml(path)
    return schema_of(content, path, lines)


def schema_of(content: Mapping[str, Any], path: Path, lines: Lines) -> Schema:
    """The schema of a mapping as in `Schema.to_dict` or YAML.

    path, lines: where it was read, for `UserError`.
    """
    keys = "datasets/README.md says what may stand there"
    schema = validated(Schema, content, path, lines, keys)
    for place, message in _faults(schema):
        refuse_at(path, lines, place, message)
    return schema


def _faults(schema):
    """(place, message) of errors that concern several columns or tables."""
    for table in TABLES:
        described = schema.table(table)
        for role in described.roles:
            if role not in ROLES[table]:
                yield (table, role), f"{table} have {', '.join(ROLES[table])}"
        needed = described != TableSchema() or table == "interactions"
        required = ROLES[table] if needed else ()
        for role in required:
            if role not in (*described.roles, *OPTIONAL):
                yield (
                    (table,),
                    f"lacks its {role}: say which field of the file it is",
                )
        for name, column in described.columns.items():
            place = (table, "columns", name)
            if name in ROLES[table] and name != "name":
                yield (
                    place,
                    f"{name} is a role; give the column another name, with source",
                )
            if name == "name" and described.name not in ("", column.field):
                yield (
                    place,
                    f"the role name is {described.name}; give the column another name",
                )
            if table == "interactions" and column.kind not in (
                "category",
                "number",
            ):
                yield (
                    place,
                    f"an interaction's column is a category or a number; put {column.kind} into "
                    f"the table of items or users",
                )
            if column.values and column.kind not in ("category", "tags"):
                yield place, "values are for a category or tags; drop them"
            for flag in ("predict", "counterfactual"):
                kinds = FLAGS.get((table, flag), ())
                if getattr(column, flag) and column.kind not in kinds:
                    problem = f"{flag} is not for a {column.kind} of {table}"
                    yield place, f"{problem}; drop it, or change the kind"


def plain_number(text: str) -> str:
    """'4.0' as '4' and '3.50' as '3.5'; other text as it is."""
    try:
        if re.fullmatch(r"[+-]?\d+", text):
            # Of any length: ids with many digits stay different.
            return str(int(text))
        number = float(text)
    except ValueError:
        return text
    if number.is_integer() and abs(number) < EXACT:
        return str(int(number))
    return f"{number:.10g}"
