"""Which items a model knows: `items.parquet` beside its weights.

A row is an item, in the order of the item table: its id, and its name and columns where the schema
lets them be passed on (`publish_items`). Else names and columns come from the data set.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset import Table
from description import damaged
from fields import Field
from support.checkpoint import check_file

FILE = "items.parquet"


def keep_items(old: Path, new: Path, info: dict[str, Any]) -> None:
    """Copy the file of a checkpoint. Raises `UserError` if it is damaged."""
    check_file(old, info, FILE)
    shutil.copyfile(old / FILE, new / FILE)


def read_items(
    folder: Path, info: dict[str, Any], fields: Mapping[str, Field]
) -> Table:
    """The item table of a checkpoint, perhaps without names and columns. Raises `UserError` if it
    is damaged."""
    import pyarrow as pa

    from storage.item_table import read_items as read

    check_file(folder, info, FILE)
    try:
        items = read(folder / FILE, fields)
        for name, values in items.data.items():
            _check_values(fields[name], values)
    except (OSError, LookupError, ValueError, pa.ArrowException) as error:
        raise damaged(folder, f"{FILE}: {error}") from error
    if len(items.ids) != info["num_items"]:
        raise damaged(folder, f"{FILE} has {len(items.ids)} items")
    if len(pd.unique(items.ids)) < len(items.ids):
        raise damaged(folder, f"{FILE} holds an id twice")
    return items


def _check_values(entry, values):
    """Raise `ValueError` for impossible values: codes without a value, infinite numbers."""
    kind = entry.column.kind
    wrong = np.zeros(1, dtype=bool)
    if kind in ("category", "tags"):
        wrong = (values < 0) | (values > len(entry.values))
    elif kind in ("number", "vector"):
        wrong = np.isinf(values)
    if np.any(wrong):
        raise ValueError(f"a value of {entry.name} that cannot be")
