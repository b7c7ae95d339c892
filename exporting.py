"""A data set as RecBole's atomic files, so that another program can be run on the very same
interactions, order and split.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html, tab-separated, with
`name:type` in the header.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from dataset import Dataset, Table
from fields import UNKNOWN, Field
from support.errors import UserError, require
from support.files import replacing, write_text

TYPES = {
    "category": "token",
    "tags": "token_seq",
    "number": "float",
    "text": "token_seq",
    "vector": "float_seq",
}
# Fields of interactions that RecBole reads by these names.
RESERVED = ("user_id", "item_id", "timestamp", "order")
SUFFIXES = (".inter", ".item", ".user")
MARK = "# Written by data_processor.py for RecBole"
# Settings of RecBole for the same split: the position in our order stands for the time, as
# RecBole sorts by it and equal times would fall in any order.
CONFIG = """\
# Written by data_processor.py for RecBole: {name}, {split}.
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
TIME_FIELD: order
load_col: {{inter: [user_id, item_id, order]}}
eval_args: {{split: {{LS: valid_and_test}}, order: TO, group_by: user, mode: full}}
"""


def write_atomic(data: Dataset, folder: Path) -> list[Path]:
    """Write NAME.inter, .item, .user and a NAME.yaml for RecBole into a folder; returns them.

    NAME is the folder's, as RecBole wants it. Interactions are in our order; the field `order`
    numbers them. Raises `UserError` if RecBole cannot make the split.
    """
    _check(data)
    name, catalogue = folder.name, data.catalogue
    config = folder / f"{name}.yaml"
    _require_own(config, [folder / f"{name}{suffix}" for suffix in SUFFIXES])
    items, users = catalogue.items, catalogue.users
    text = CONFIG.format(name=data.name, split=data.split.description)
    # Written first: it says that the others are of this command.
    write_text(config, text)
    table = {
        "user_id:token": users.id_array(data.user_of),
        "item_id:token": items.id_array(data.items),
    }
    if data.has_times:
        table["timestamp:float"] = data.times
    table["order:float"] = np.arange(len(data.items))
    for entry in catalogue.interaction_fields.values():
        table[_header(entry)] = _cells(entry, data.columns[entry.name])
    item_table = {"item_id:token": items.ids}
    item_table["item_name:token_seq"] = _each(
        items.names[items.first :], _flat
    )
    written = []
    for suffix, content in (
        (".inter", table),
        (".item", item_table | _columns(items)),
        (".user", {"user_id:token": users.ids, **_columns(users)}),
    ):
        path = folder / f"{name}{suffix}"
        frame = pd.DataFrame(content)
        with replacing(path) as part:
            frame.to_csv(
                part, sep="\t", index=False, quoting=3, escapechar="\\"
            )
        written.append(path)
    return [*written, config]


def _check(data):
    """Raise `UserError` for data that RecBole cannot read as we do."""
    if data.split.protocol != "leave_one_out":
        raise UserError(
            f"--to recbole: RecBole makes no split such as --protocol {data.split.protocol}; give "
            f"--protocol leave_one_out"
        )
    for column in data.catalogue.interaction_fields:
        require(
            column not in RESERVED,
            f"--to recbole: the column {column} would be taken for RecBole's; give it another "
            f"name in the schema, with source",
        )


def _require_own(config, files):
    """Raise `UserError` if there are such files that were not written here."""
    if config.exists() and config.read_text("utf-8").startswith(MARK):
        return
    for path in (config, *files):
        require(
            not path.exists(),
            f"--to recbole: {path} exists and was not written by this command; choose another "
            f"folder",
        )


def _header(entry: Field) -> str:
    return f"{entry.name}:{TYPES[entry.column.kind]}"


def _columns(table: Table) -> dict[str, list[str]]:
    return {
        _header(entry): _cells(entry, table.data[name][table.first :])
        for name, entry in table.fields.items()
    }


def _cells(entry, values):
    """A column's cells as text, '' where unknown; no tab, and no blank inside a tag."""
    kind = entry.column.kind
    if kind == "category":
        named = ("", *map(_flat, entry.values))
        return [named[code] for code in values]
    if kind == "tags":
        named = [_flat(value).replace(" ", "_") for value in entry.values]
        return [
            " ".join(named[code - 1] for code in row if code != UNKNOWN)
            for row in values
        ]
    if kind == "text":
        return _each(values, _flat)
    if kind == "vector":
        return _each(values, lambda row: " ".join(map(_number, row)))
    return _each(values, _number)


def _each(values, shown: Callable) -> list[str]:
    return [shown(value) for value in values]


def _number(value):
    return "" if np.isnan(value) else f"{value:.9g}"


def _flat(text):
    return re.sub(r"\s+", " ", str(text)).strip()
