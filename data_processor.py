"""Raw tables and a schema -> `Dataset`: vocabularies, columns, sequences, split.

    python data_processor.py --dataset ml-1m                          prints the data card
    python data_processor.py --dataset clicks.csv --write_schema data.yaml     writes the schema too

One chronological order: by user, then time, then file order (half of the neighbouring times of
MovieLens 1M are equal, so the rule matters); without times the file order is the order. What
trains and what is asked for is in splits.py.
"""

import hashlib
import operator
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_card import data_card
from dataset import (
    ITEM_ROWS,
    NO_TIME,
    UNKNOWN,
    USER_ROWS,
    Catalogue,
    Dataset,
    Field,
    Table,
)
from readers import read
from readers.raw import RawData, plain_number
from schema import TABLES, Column, Schema
from settings import DataSettings, Settings
from splits import FEWEST, Split, split_interactions
from support.errors import UserError, run_command
from support.memory import release_memory
from support.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

KNOTS = 16  # quantiles of a number's known values
MOST_TAGS = 64  # of one item
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def load(settings: DataSettings, like: Catalogue | None = None) -> Dataset:
    """Read a data set and process it; see `process`. Raises `UserError` for missing or bad
    files."""
    raw = read(settings.dataset, settings.data_dir, settings.columns)
    data = process(raw, settings, like)
    del raw
    release_memory()
    return data


def process(
    raw: RawData, settings: DataSettings, like: Catalogue | None = None
) -> Dataset:
    """Order, filter, index and split raw tables.

    like: a catalogue whose columns keep their codes, knots and sizes, as a model that was trained
    on it needs; values that it does not have are unknown.
    """
    rows, counts = _kept(raw, settings)
    items = _table(raw, "items", rows["item"], like)
    users = _table(raw, "users", rows["user"], like)
    known = like.interaction_fields if like else {}
    fields = {
        name: known.get(name) or _field_of(column, rows[name])
        for name, column in raw.schema.interactions.columns.items()
    }
    catalogue = Catalogue(raw.schema, items, users, fields)

    user = users.index(rows["user"].to_numpy())
    time = np.full(len(rows), NO_TIME)
    if "time" in rows:
        time = rows["time"].to_numpy()
    order = np.lexsort((np.arange(len(rows)), time, user))
    item_rows = items.index(rows["item"].to_numpy())[order]
    columns = {
        name: _stored(entry, rows[name])[order] for name, entry in fields.items()
    }
    lengths = np.bincount(user, minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    time = time[order]
    split = split_interactions(settings, offsets, time)
    digest = _hash(split.description, catalogue, offsets, item_rows, time, columns)
    return Dataset(
        catalogue,
        offsets,
        item_rows,
        time,
        columns,
        split,
        digest,
        (*raw.counts, *counts),
    )


def _kept(
    raw: RawData, settings: DataSettings
) -> tuple[pd.DataFrame, list[tuple[str, int]]]:
    """(interactions that the settings keep, what was dropped)."""
    rows = raw.interactions
    if settings.keep:
        rows = rows[meets(settings.keep, rows, raw.schema.interactions.columns)]
    fewest = max(settings.min_user_count, FEWEST[settings.protocol])
    for role, least in (("item", settings.min_item_count), ("user", fewest)):
        counts = rows[role].value_counts()
        if counts.min() < least:
            rows = rows[rows[role].isin(counts.index[counts >= least])]
    rows = rows.reset_index(drop=True)
    if rows.empty:
        raise UserError(
            f"--min_item_count {settings.min_item_count}, --min_user_count {fewest} and "
            f"--keep {settings.keep!r} leave no interactions; choose smaller ones, or "
            f"give users with more (--protocol {settings.protocol} needs "
            f"{FEWEST[settings.protocol]})"
        )
    everything = raw.interactions
    dropped = [
        (
            f"{role}s dropped by --min_{role}_count and --keep",
            everything[role].nunique() - rows[role].nunique(),
        )
        for role in ("user", "item")
    ]
    return rows, [(what, number) for what, number in dropped if number]


def meets(
    condition: str, rows: pd.DataFrame, columns: Mapping[str, Column]
) -> np.ndarray:
    """Which rows meet a condition such as 'rating>=4' or 'channel=web'. Raises `UserError`."""
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|=|>|<)\s*(.+?)\s*", condition)
    if match is None:
        raise UserError(
            f"condition {condition!r}: write column=value or column>=number"
        )
    name, sign, value = match.groups()
    if name not in columns:
        raise UserError(
            f"condition {condition!r}: {name!r} is none of {', '.join(columns) or '-'}"
        )
    if sign == "=":
        return (rows[name].astype(str) == plain_number(value)).to_numpy()
    try:
        limit = float(value)
    except ValueError:
        raise UserError(f"condition {condition!r}: {value!r} is not a number") from None
    numbers = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float)
    return COMPARISONS[sign](numbers, limit)


def _table(raw: RawData, name: str, used: pd.Series, like: Catalogue | None) -> Table:
    """The table of those ids that are used; ids without a row of their own have unknown columns."""
    columns, found = raw.schema.table(name).columns, getattr(raw, name)
    first = ITEM_ROWS if name == "items" else USER_ROWS
    known = getattr(like, name).fields if like else None
    ids = np.sort(used.unique())
    if ids.dtype != np.int64:
        ids = ids.astype(object)
    blank = np.array([""] * first, dtype=object)
    names = ids.astype(str).astype(object)
    if found is None:
        return Table(ids, first, np.concatenate([blank, names]))
    rows = found.set_index("id").reindex(ids)
    if "name" in rows:
        names = rows["name"].where(rows["name"].notna(), names).to_numpy(dtype=object)
    fields, data = {}, {}
    for name, column in columns.items():
        fields[name] = known[name] if known else _field_of(column, rows[name])
        stored = _stored(fields[name], rows[name])
        unknown = np.broadcast_to(fields[name].unknown, (first, *stored.shape[1:]))
        data[name] = np.concatenate([unknown.astype(stored.dtype), stored])
    return Table(ids, first, np.concatenate([blank, names]), fields, data)


def _field_of(column: Column, values: pd.Series) -> Field:
    """What a column's values say: their vocabulary, their quantiles, their length."""
    known = values.dropna()
    if column.kind in ("category", "tags"):
        if column.kind == "tags":
            known = known.explode().dropna()
        found = set(known.unique())
        declared = list(column.values)
        return Field(column, values=tuple(declared + _in_order(found - set(declared))))
    if column.kind == "number":
        numbers = np.log1p(known.clip(lower=0)) if column.log else known
        knots = (
            np.unique(np.quantile(numbers, np.linspace(0, 1, KNOTS)))
            if len(known)
            else [0.0]
        )
        return Field(column, knots=tuple(np.round(knots, 6).tolist()))
    if column.kind == "vector":
        sizes = set(known.map(len))
        if len(sizes) > 1:
            raise UserError(
                f"{column.name}: vectors of different lengths ({min(sizes)} and "
                f"{max(sizes)}); give all the same"
            )
        return Field(column, size=sizes.pop() if sizes else 1)
    return Field(column)


def _in_order(values: set[str]) -> list[str]:
    """By size if all are numbers, else by letters."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


def _stored(entry: Field, values: pd.Series) -> np.ndarray:
    """(n, ...) a column's values as a table stores them (dataset.py)."""
    kind = entry.column.kind
    code = {value: number for number, value in enumerate(entry.values, start=1)}
    if kind == "category":
        return values.map(code).fillna(UNKNOWN).to_numpy(dtype=np.int64)
    if kind == "tags":
        return _tag_codes(values, code)
    if kind == "number":
        return values.to_numpy(dtype=np.float32)
    if kind == "vector":
        rows = [
            entry.unknown if row is None or isinstance(row, float) else row
            for row in values
        ]
        return np.array(rows, dtype=np.float32).reshape(len(values), entry.size)
    return values.fillna("").to_numpy(dtype=object)


def _tag_codes(values: pd.Series, code: Mapping[str, int]) -> np.ndarray:
    rows = []
    for tags in values:
        tags = tags if isinstance(tags, list) else []
        found = sorted({code[tag] for tag in tags if tag in code})
        rows.append(found[:MOST_TAGS])
    width = max([1, *map(len, rows)])
    table = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _hash(
    description: str,
    catalogue: Catalogue,
    offsets: np.ndarray,
    items: np.ndarray,
    times: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> str:
    """Of everything that a result depends on but texts and names."""
    digest = hashlib.sha256(description.encode())
    arrays = [offsets, items, times, *columns.values()]
    for table in (catalogue.items, catalogue.users):
        arrays += [table.ids, *table.data.values()]
    for array in arrays:
        if array.dtype == object:
            digest.update("\n".join(map(str, array)).encode())
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def from_sequences(
    histories: "Sequence[Sequence[int]]", vocab_size: int, split: bool = True
) -> Dataset:
    """`Dataset` of bare item numbers 1 to vocab_size, without times or columns.

    split: hold interactions out, else everything trains. Raises `UserError` for an item number
    outside that range.
    """
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    if lengths.sum() == 0:
        raise UserError("user_sequences holds no interaction")
    flat = np.concatenate(
        [np.asarray(history) for history in histories if len(history)]
    )
    if flat.dtype.kind not in "iu" or flat.min() < 1 or flat.max() > vocab_size:
        raise UserError(
            f"item numbers must be whole numbers from 1 to vocab_size = {vocab_size}"
        )
    numbers = np.arange(1, vocab_size + 1)
    users = np.arange(1, len(lengths) + 1)
    # Without names: nothing of the size of the catalogue is made but its numbers.
    nameless = np.empty(0, dtype=object)
    catalogue = Catalogue(
        Schema("sequences"),
        Table(numbers, ITEM_ROWS, nameless),
        Table(users, USER_ROWS, nameless),
        {},
    )
    offsets = np.concatenate([[0, 0], np.cumsum(lengths)])
    rows, times = flat + ITEM_ROWS - 1, np.zeros(len(flat), dtype=np.int64)
    parts = Split("none", offsets[1:], {}, "nothing held out")
    if split:
        parts = split_interactions(DataSettings(), offsets, times)
    digest = hashlib.sha256(flat.tobytes() + lengths.tobytes()).hexdigest()[:16]
    return Dataset(catalogue, offsets, rows, times, {}, parts, digest)


def write_schema(schema: Schema, path: Path) -> None:
    """Write a schema as YAML to edit, its files relative to it."""
    from ruamel.yaml import YAML

    content = schema.to_dict()
    for table in TABLES:
        if "file" in content.get(table, {}):
            file = os.path.relpath(content[table]["file"], path.parent)
            content[table]["file"] = Path(file).as_posix()
    with path.open("w", encoding="utf-8") as file:
        file.write(
            "# Written by data_processor.py; datasets/README.md says what may stand here.\n"
        )
        YAML(pure=True).dump(content, file)


def main(argv: list[str]) -> None:
    """Print the data card for the given data flags."""
    from command_line import settings_parser

    parser = settings_parser(__doc__, ("data",))
    parser.add_argument("--write_schema", type=Path, metavar="FILE.yaml")
    flags = vars(parser.parse_args(argv))
    path = flags.pop("write_schema")
    settings = Settings().replace(**flags)
    raw = read(settings.data.dataset, settings.data.data_dir, settings.data.columns)
    data = process(raw, settings.data)
    print_table(
        "Data card", data.name, ["", ""], [list(row) for row in data_card(data)]
    )
    if path:
        write_schema(raw.schema, path)
        print(f"schema: {path}; edit it and give it as --dataset")


if __name__ == "__main__":
    sys.exit(run_command(main))
