"""The items of a data set as a Parquet file: of a built data set, and of a trained model.

A row is an item: `id`, `name`, and `items.NAME` for each column as stored (fields.py). A file of
ids alone has no further columns.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset import ITEM_ROWS, Table
from fields import Field
from support.files import replacing


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file completely or not at all."""
    with replacing(path) as target:
        pq.write_table(table, target, compression="zstd")


def write_items(path: Path, items: Table, described: bool = True) -> None:
    """Write the item table. described: with names and columns."""
    ids = items.ids if items.numeric else items.ids.tolist()
    columns = {"id": pa.array(ids)}
    if described:
        names = items.names[ITEM_ROWS:].tolist()
        columns["name"] = pa.array(names, pa.string())
        for name, values in items.data.items():
            columns[f"items.{name}"] = as_arrow(values[ITEM_ROWS:])
    write_table(path, pa.table(columns))


def read_items(path: Path, fields: Mapping[str, Field]) -> Table:
    """The item table that `write_items` wrote; without names and columns if the file has none.

    Raises `OSError`, `LookupError`, `ValueError` or pyarrow's errors for another file.
    """
    rows = pq.read_table(path)
    ids = ids_of(rows["id"])
    if "name" not in rows.column_names:
        nameless = np.empty(0, dtype=object)
        return Table(ids, ITEM_ROWS, nameless, fields)
    names = as_stored(rows["name"])
    if names.dtype != object:
        raise ValueError("names are texts")
    nobody = np.array([""] * ITEM_ROWS, dtype=object)
    data = {
        name: with_unknown(as_stored(rows[f"items.{name}"]), entry, ITEM_ROWS)
        for name, entry in fields.items()
    }
    names = np.concatenate([nobody, names])
    return Table(ids, ITEM_ROWS, names, fields, data)


def as_arrow(values: np.ndarray) -> pa.Array:
    """An array of a table as an Arrow column; rows of several values as lists."""
    if values.dtype == object:
        return pa.array(values.tolist(), pa.string())
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def as_stored(column: pa.ChunkedArray) -> np.ndarray:
    """The array that `as_arrow` wrote. Raises `ValueError` for a column with a gap."""
    column = column.combine_chunks()
    if column.null_count:
        raise ValueError("a column has a gap")
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy()
        return flat.reshape(-1, column.type.list_size)
    return column.to_numpy()


def ids_of(column: pa.ChunkedArray) -> np.ndarray:
    """Ids as in `Table`: whole numbers or texts. Raises `ValueError` for others."""
    ids = as_stored(column)
    if ids.ndim != 1 or ids.dtype not in (np.int64, object):
        raise ValueError("ids are whole numbers or texts")
    return ids


def with_unknown(rows: np.ndarray, entry: Field, first: int) -> np.ndarray:
    """Stored rows of a column with `first` unknown ones before them. Raises `ValueError` if they
    are of another kind than the column."""
    unknown = np.stack([entry.unknown] * first)
    if (rows.dtype, rows.ndim) != (unknown.dtype, unknown.ndim):
        raise ValueError(f"{entry.name} is no {entry.column.kind}")
    return np.concatenate([padded(unknown, rows.shape[-1]), rows])


def padded(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of codes, filled up with 0 to a width; other rows have it already."""
    if rows.ndim == 1 or rows.shape[1] == width:
        return rows
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
