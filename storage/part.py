"""The steps of a build for one part of the interactions: all rows of some users.

    clean    checked values with the names of the schema, without duplicates
    keep     without rare items and users with few interactions
    found    what the vocabulary needs to know of them
    encoded  one user a row, with items and values as in a `Dataset`

The vocabulary and the numbers of interactions of each item are those of all parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from dataset import USER_ROWS, Table
from fields import Field
from readers.raw import (
    File,
    check_times,
    named_table,
    without_duplicates,
)
from schema import Column, Schema
from storage.item_table import as_arrow
from vocabulary import stored, table_of


def clean(
    file: File,
    schema: Schema,
    forms: Mapping[str, str],
    counts: dict[str, int],
) -> pd.DataFrame:
    """Interactions as in `RawData`, in the order of the file. counts: changes are added to it."""
    table = schema.interactions
    rows = named_table("interactions", file, table, counts, forms)
    check_times(rows, file)
    return without_duplicates(rows, schema, counts)


def keep(
    rows: pd.DataFrame, frequent: np.ndarray | None, fewest: int
) -> pd.DataFrame:
    """Interactions with frequent items, of users who then have at least `fewest`.

    frequent: ids of items, sorted; None for all.
    """
    if frequent is not None:
        rows = rows[rows["item"].isin(frequent)]
    number = rows["user"].value_counts()
    return rows[rows["user"].isin(number.index[number >= fewest])]


@dataclass(frozen=True)
class Found:
    """What the vocabulary needs to know of a part."""

    items: pd.Series  # different ids
    users: pd.Series  # different ids
    values: dict[str, pd.Series]  # by column: some of them, or each different one


def found(
    rows: pd.DataFrame, columns: Mapping[str, Column], numbers: int
) -> Found:
    """What the vocabulary needs. numbers: values of a number's column, at most."""
    values = {}
    for name, column in columns.items():
        known = rows[name].dropna()
        if column.kind == "category":
            known = pd.Series(known.unique())
        step = max(1, -(-len(known) // numbers))
        values[name] = known.iloc[::step]
    return Found(
        pd.Series(rows["item"].unique()),
        pd.Series(rows["user"].unique()),
        values,
    )


def encoded(
    rows: pd.DataFrame,
    schema: Schema,
    users: pd.DataFrame | None,
    items: Table,
    fields: Mapping[str, Mapping[str, Field]],
) -> pa.Table:
    """(users, ...) one user a row, sorted by id: `user_id`, `items`, `times`, and columns by name
    as 'interactions.rating' and 'users.age'.

    users: their table, or None. fields: of all tables, by table and column.
    """
    columns = schema.users.columns
    known = fields["users"]
    table = table_of(users, columns, rows["user"], USER_ROWS, known)
    user = table.index(rows["user"].to_numpy()) - USER_ROWS
    times = rows["time"].to_numpy() if "time" in rows else None
    keys = [user] if times is None else [times, user]
    # Of equal times the first in the file comes first.
    order = np.lexsort(keys)
    rows = rows.iloc[order]
    number = np.bincount(user, minlength=len(table.ids))
    offsets = np.append(0, number.cumsum()).astype(np.int64)

    def lists(values):
        return pa.LargeListArray.from_arrays(offsets, pa.array(values))

    ids = table.ids if table.numeric else table.ids.tolist()
    columns = {"user_id": pa.array(ids)}
    item = items.index(rows["item"].to_numpy())
    columns["items"] = lists(item.astype(np.int32))
    if times is not None:
        columns["times"] = lists(times[order].astype(np.int64))
    for name, entry in fields["interactions"].items():
        values = np.asarray(stored(entry, rows[name]))
        columns[f"interactions.{name}"] = lists(values)
    for name, values in table.data.items():
        columns[f"users.{name}"] = as_arrow(values[USER_ROWS:])
    return pa.table(columns)
