"""The files of a built data set, and the `Dataset` that they hold.

    manifest.json                   schema, counts, parts; written last
    vocabulary/items.parquet        items with their columns as stored (fields.py)
    vocabulary/fields.json          values and quantiles of the columns of all tables
    sequences/part-00000.parquet    one user a row, sorted by id (part.py)
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset import ITEM_ROWS, NO_TIME, USER_ROWS, Catalogue, Dataset, Table
from fields import Field
from schema import TABLES, schema_of
from settings import DataSettings
from splits import FEWEST, split_interactions
from storage import MANIFEST
from support.checkpoint import read_json
from support.errors import require
from support.files import replacing, write_json

FORMAT = 1
ITEMS = "vocabulary/items.parquet"
FIELDS = "vocabulary/fields.json"
Fields = Mapping[str, Mapping[str, Field]]  # by table and column


def part_path(folder: Path, part: int) -> Path:
    """The file of a part."""
    return folder / "sequences" / f"part-{part:05}.parquet"


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file completely or not at all."""
    with replacing(path) as target:
        pq.write_table(table, target, compression="zstd")


def write_vocabulary(folder: Path, items: Table, fields: Fields) -> None:
    """Write the item table, and the fields of all tables."""
    ids = items.ids if items.numeric else items.ids.tolist()
    columns = {
        "id": pa.array(ids),
        "name": pa.array(items.names[ITEM_ROWS:].tolist(), pa.string()),
    }
    for name, values in items.data.items():
        columns[f"items.{name}"] = as_arrow(values[ITEM_ROWS:])
    write_table(folder / ITEMS, pa.table(columns))
    content = {}
    for table, entries in fields.items():
        content[table] = {
            name: {
                "values": list(entry.values),
                "knots": list(entry.knots),
                "size": entry.size,
            }
            for name, entry in entries.items()
        }
    write_json(folder / FIELDS, content)


def as_arrow(values: np.ndarray) -> pa.Array:
    """An array of a table as an Arrow column; rows of several values as lists."""
    if values.dtype == object:
        return pa.array(values.tolist(), pa.string())
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def as_stored(column: pa.ChunkedArray) -> np.ndarray:
    """The array that `as_arrow` wrote."""
    column = column.combine_chunks()
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy()
        return flat.reshape(-1, column.type.list_size)
    return column.to_numpy()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises `UserError` if it is of another format."""
    manifest = read_json(folder / MANIFEST)
    require(
        manifest.get("format") == FORMAT,
        f"{folder / MANIFEST} is of another version of this program; build again (--build)",
    )
    return manifest


@dataclass(frozen=True)
class Sequences:
    """The interactions of some users, end to end, and the columns of these users."""

    ids: np.ndarray  # (users,)
    lengths: np.ndarray  # (users,)
    items: np.ndarray  # (N,)
    times: np.ndarray | None  # (N,)
    columns: Mapping[str, np.ndarray]  # (N,) each
    user_columns: Mapping[str, np.ndarray]  # (users, ...) each

    def select(self, users: np.ndarray) -> "Sequences":
        """Some of the users, by index."""
        starts = self.lengths.cumsum() - self.lengths
        lengths = self.lengths[users]
        # Positions of the interactions: each user's run, one after the other.
        first = np.repeat(starts[users] - lengths.cumsum() + lengths, lengths)
        chosen = first + np.arange(lengths.sum())
        return Sequences(
            self.ids[users],
            lengths,
            self.items[chosen],
            None if self.times is None else self.times[chosen],
            {name: flat[chosen] for name, flat in self.columns.items()},
            {name: rows[users] for name, rows in self.user_columns.items()},
        )


    def ties(self) -> int:
        """Neighbouring interactions of a user at the same time."""
        if self.times is None:
            return 0
        user = np.repeat(np.arange(len(self.ids)), self.lengths)
        same = self.times[1:] == self.times[:-1]
        return int((same & (user[1:] == user[:-1])).sum())

    def digest(self) -> str:
        """Hash of all these values."""
        found = hashlib.sha256()
        arrays = [self.ids, self.lengths, self.items]
        arrays += [] if self.times is None else [self.times]
        arrays += [*self.columns.values(), *self.user_columns.values()]
        for array in arrays:
            if array.dtype == object:
                found.update("\n".join(map(str, array)).encode())
            else:
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


def read_part(path: Path, fields: Fields) -> Sequences:
    """The users of one part."""
    table = pq.read_table(path)
    lengths = pc.list_value_length(table["items"]).to_numpy()

    def flat(name: str) -> np.ndarray | None:
        if name not in table.column_names:
            return None
        return table[name].combine_chunks().flatten().to_numpy()

    return Sequences(
        _ids(table["user_id"]),
        lengths.astype(np.int64),
        flat("items").astype(np.int64),
        flat("times"),
        {name: flat(f"interactions.{name}") for name in fields["interactions"]},
        {name: as_stored(table[f"users.{name}"]) for name in fields["users"]},
    )


def joined(parts: Sequence[Sequences]) -> Sequences:
    """The users of all parts, sorted by id."""
    first, *_ = parts

    def all_of(get: Callable[[Sequences], np.ndarray]) -> np.ndarray:
        return np.concatenate([get(part) for part in parts])

    user_columns = {}
    for name in first.user_columns:
        arrays = [part.user_columns[name] for part in parts]
        user_columns[name] = np.concatenate(as_wide(arrays))
    whole = Sequences(
        all_of(lambda part: part.ids),
        all_of(lambda part: part.lengths),
        all_of(lambda part: part.items),
        None if first.times is None else all_of(lambda part: part.times),
        {
            name: np.concatenate([part.columns[name] for part in parts])
            for name in first.columns
        },
        user_columns,
    )
    return whole.select(np.argsort(whole.ids, kind="stable"))


def built_line(manifest: Mapping[str, Any], folder: Path) -> str:
    """What a built folder holds, in words."""
    lengths = np.repeat(*np.array(manifest["lengths"]).T)
    low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95], method="lower")
    lines = [
        f"{folder}: {manifest['interactions']:,} interactions of {manifest['users']:,} users "
        f"with {manifest['items']:,} items, {len(manifest['parts'])} parts",
        f"  interactions of a user: {low} / {middle} / {high} (5 %, median, 95 %)",
        f"  neighbours at the same time: {manifest['ties']:,}",
    ]
    lines += [f"  {what}: {n:,}" for what, n in manifest["counts"].items()]
    return "\n".join([*lines, f"train on it: --dataset {folder}"])


def load_built(settings: DataSettings) -> Dataset:
    """The data set of a built folder, all parts in memory.

    It is equal to the one that `data_processor.load` makes of the same files. Raises `UserError`
    if the settings ask for other interactions than those that were built.
    """
    folder = Path(settings.dataset)
    manifest = read_manifest(folder)
    _check(settings, manifest, folder)
    schema = schema_of(manifest["schema"], folder / MANIFEST, {})
    fields = _read_fields(folder, schema)
    items = _item_table(pq.read_table(folder / ITEMS), fields["items"])
    users = joined(
        [
            read_part(folder / "sequences" / part["file"], fields)
            for part in manifest["parts"]
        ]
    )
    users = users.select(
        np.flatnonzero(users.lengths >= FEWEST[settings.protocol])
    )
    # Row 0 is nobody's.
    offsets = np.concatenate([[0, 0], users.lengths.cumsum()])
    times = users.times
    if times is None:
        times = np.full(len(users.items), NO_TIME, dtype=np.int64)
    catalogue = Catalogue(
        schema,
        items,
        _user_table(users, fields["users"]),
        fields["interactions"],
    )
    return Dataset.of(
        catalogue,
        offsets,
        users.items,
        times,
        users.columns,
        split_interactions(settings, offsets, times),
        manifest["counts"],
    )


def _user_table(users, fields):
    names = np.array([""] * USER_ROWS + users.ids.astype(str).tolist(), dtype=object)
    data = {
        name: _with_unknown(users.user_columns[name], entry, USER_ROWS)
        for name, entry in fields.items()
    }
    return Table(users.ids, USER_ROWS, names, fields, data)


def _check(settings, manifest, folder):
    """Raises `UserError` where the settings differ from those that were built with."""
    built = manifest["settings"]
    for name, value in built.items():
        given = getattr(settings, name)
        require(
            given == value,
            f"{folder} was built with --{name} {value}; give that, or build again with "
            f"--{name} {given}",
        )
    require(
        not (settings.keep or settings.columns),
        f"--keep and --columns are for files; {folder} is built already",
    )


def _read_fields(folder, schema):
    """Table -> column -> `Field`."""
    content = read_json(folder / FIELDS)
    fields = {}
    for table in TABLES:
        columns = schema.table(table).columns
        fields[table] = {
            name: Field(
                columns[name],
                tuple(entry["values"]),
                tuple(entry["knots"]),
                entry["size"],
            )
            for name, entry in content[table].items()
        }
    return fields


def _item_table(rows, fields):
    ids = _ids(rows["id"])
    names = np.array([""] * ITEM_ROWS + rows["name"].to_pylist(), dtype=object)
    data = {
        name: _with_unknown(as_stored(rows[f"items.{name}"]), entry, ITEM_ROWS)
        for name, entry in fields.items()
    }
    return Table(ids, ITEM_ROWS, names, fields, data)


def _ids(column):
    """Ids as in `Table`."""
    column = column.combine_chunks()
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    return np.array(column.to_pylist(), dtype=object)


def _with_unknown(rows, entry, first):
    """Stored rows of a column with `first` unknown ones before them."""
    unknown = np.stack([entry.unknown] * first)
    return np.concatenate(as_wide([unknown, rows]))


def as_wide(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays of rows, those of codes filled up with 0 to the width of the widest."""
    if arrays[0].ndim == 1:
        return list(arrays)
    width = max(array.shape[1] for array in arrays)
    return [
        np.pad(array, ((0, 0), (0, width - array.shape[1])))
        for array in arrays
    ]
