"""The files of a built data set, and the `Dataset` that they hold.

    manifest.json                   schema, counts, parts; written last
    vocabulary/items.parquet        items with their columns as stored (fields.py)
    vocabulary/fields.json          values and quantiles of the columns of all tables
    sequences/part-00000.parquet    one user a row, sorted by id (part.py)
    arrays/items.npy                the items of all parts, end to end; so are times, columns, ids
                                    of users, and where each user begins. Programs map these
                                    files into memory and load what they read
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset import USER_ROWS, Catalogue, Dataset, Table
from fields import Field
from schema import TABLES, schema_of
from settings import DataSettings
from splits import FEWEST, split_interactions
from storage import MANIFEST
from storage.item_table import (
    as_stored,
    ids_of,
    read_items,
    with_unknown,
    write_items,
)
from support.errors import UserError, require
from support.files import parse_json, write_json

FORMAT = 2
ARRAYS = "arrays"
OFFSETS, USER_ID = "offsets", "user_id"  # of the arrays
ITEMS = "vocabulary/items.parquet"
FIELDS = "vocabulary/fields.json"
Fields = Mapping[str, Mapping[str, Field]]  # by table and column


def part_path(folder: Path, part: int) -> Path:
    """The file of a part."""
    return folder / "sequences" / f"part-{part:05}.parquet"


def write_vocabulary(folder: Path, items: Table, fields: Fields) -> None:
    """Write the item table, and the fields of all tables."""
    write_items(folder / ITEMS, items)
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


@contextlib.contextmanager
def intact(folder: Path) -> Iterator[None]:
    """Raise `UserError` naming the folder if a file of it is missing or damaged."""
    try:
        yield
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        pa.ArrowException,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} is damaged ({reason}); remove it and build again (--build)"
        ) from error


def _json(path):
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no object")
    return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises `UserError` if it is damaged or of another format."""
    with intact(folder):
        manifest = _json(folder / MANIFEST)
    require(
        manifest.get("format") == FORMAT,
        f"{folder} was built by another version of this program; remove it and build again "
        f"(--build)",
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

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays with a row for each interaction or user, by the name of their file. Texts,
        which have no fixed size, are in the parts alone."""
        arrays = {"items": self.items}
        if self.times is not None:
            arrays["times"] = self.times
        for name, values in self.columns.items():
            arrays[f"interactions.{name}"] = values
        arrays[USER_ID] = self.ids
        for name, values in self.user_columns.items():
            arrays[f"users.{name}"] = values
        return {
            name: values
            for name, values in arrays.items()
            if values.dtype != object
        }

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

    def flat(name: str) -> np.ndarray | None:
        if name not in table.column_names:
            return None
        return table[name].combine_chunks().flatten().to_numpy()

    return Sequences(
        ids_of(table[USER_ID]),
        pc.list_value_length(table["items"]).to_numpy().astype(np.int64),
        flat("items").astype(np.int64),
        flat("times"),
        {name: flat(f"interactions.{name}") for name in fields["interactions"]},
        {name: as_stored(table[f"users.{name}"]) for name in fields["users"]},
    )


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
    """The data set of a built folder, whose interactions stay on disk.

    If it has one part, it is equal to the one that `data_processor.load` makes of the same files;
    else its users are in another order. Raises `UserError` if the settings ask for other
    interactions than those that were built.
    """
    folder = Path(settings.dataset)
    manifest = read_manifest(folder)
    with intact(folder):
        _check(settings, manifest, folder)
        return _dataset(settings, manifest, folder)


def _dataset(settings, manifest, folder):
    schema = schema_of(manifest["schema"], folder / MANIFEST, {})
    fields = _read_fields(folder, schema)
    times = "time" in schema.interactions.roles
    names = ["items", *(["times"] if times else [])]
    names += [f"interactions.{name}" for name in fields["interactions"]]
    flat = {name: _mapped(folder, name) for name in names}
    offsets = _mapped(folder, OFFSETS)
    users = _user_table(folder, manifest, fields["users"])
    _check_lengths(offsets, users, flat)
    fewest, _ = manifest["lengths"][0]
    if fewest < FEWEST[settings.protocol]:
        # Only for a protocol that needs more of a user than --min_user_count.
        short = np.diff(offsets)[USER_ROWS:] < FEWEST[settings.protocol]
        users, offsets, flat = _without(users, offsets, flat, short)
    times = flat.get("times")
    if times is None:
        # NO_TIME, in memory that is never filled.
        times = np.zeros(offsets[-1], dtype=np.int64)
    columns = {
        name: flat[f"interactions.{name}"] for name in fields["interactions"]
    }
    items = read_items(folder / ITEMS, fields["items"])
    return Dataset.of(
        Catalogue(schema, items, users, fields["interactions"]),
        offsets,
        flat["items"],
        times,
        columns,
        split_interactions(settings, offsets, times),
        manifest["counts"],
    )


def _without(users, offsets, flat, short):
    """The same without some of the users, in memory."""
    lengths = np.diff(offsets)[USER_ROWS:]
    kept = np.repeat(~short, lengths)
    rows = np.append([True] * USER_ROWS, ~short)
    table = dataclasses.replace(
        users,
        ids=users.ids[~short],
        data={name: values[rows] for name, values in users.data.items()},
    )
    flat = {name: values[kept] for name, values in flat.items()}
    offsets = np.concatenate([[0, 0], lengths[~short].cumsum()])
    return table, offsets, flat


def _mapped(folder, name):
    """An array that stays on disk."""
    # "c": torch wants arrays that could be written; what is written stays in memory.
    path = folder / ARRAYS / f"{name}.npy"
    return np.asarray(np.load(path, mmap_mode="c"))


def _check_lengths(offsets, users, flat):
    """Raises `ValueError` unless the arrays are of the same users and interactions."""
    of_users = {len(users), *map(len, users.data.values())}
    of_interactions = set(map(len, flat.values()))
    if of_users != {len(offsets) - 1} or of_interactions != {offsets[-1]}:
        raise ValueError("its arrays are of different lengths")


def _user_table(folder, manifest, fields):
    parts = folder / "sequences"
    places = [parts / part["file"] for part in manifest["parts"]]

    def texts(name: str) -> np.ndarray:
        tables = (pq.read_table(path, columns=[name]) for path in places)
        return np.concatenate([ids_of(table[name]) for table in tables])

    kind = pq.read_schema(places[0]).field(USER_ID).type
    whole = pa.types.is_integer(kind)
    ids = _mapped(folder, USER_ID) if whole else texts(USER_ID)
    data = {}
    for column, entry in fields.items():
        name = f"users.{column}"
        if entry.unknown.dtype == object:
            data[column] = with_unknown(texts(name), entry, USER_ROWS)
        else:
            data[column] = _mapped(folder, name)
    # Nobody asks for the names of users.
    return Table(ids, USER_ROWS, np.empty(0, dtype=object), fields, data)


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
    content = _json(folder / FIELDS)
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
