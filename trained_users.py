"""Which users trained a model: `users.parquet` beside its weights.

A row is a user, in the order of the data: id, number of interactions in the training part, and a
hash of their items and times. A model with a vector for each user needs the ids to find it.
`--start_from` needs all, to see that nothing that is held out now has trained the model.

Writing takes no more memory for more users. P users, N interactions.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset import ITEM_ROWS, USER_ROWS, Dataset
from description import damaged
from support.checkpoint import INFO, check_file, read_json
from support.errors import UserError

FILE = "users.parquet"
# Constants and steps of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def write_users(folder: Path, data: Dataset) -> None:
    """Write the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as opened:
        writer = None
        for ids, lengths, hashes in _parts(data):
            columns = {"id": pa.array(ids), "length": lengths, "hash": hashes}
            table = pa.table(columns)
            if writer is None:
                writer = opened.enter_context(
                    pq.ParquetWriter(
                        folder / FILE, table.schema, compression="zstd"
                    )
                )
            writer.write_table(table)


def keep_users(old: Path, new: Path, split: str) -> bool:
    """Copy the file of an older checkpoint of the same split; False if there is no sound one."""
    try:
        info = read_json(old / INFO)
        check_file(old, info, FILE)
    except (UserError, KeyError):
        return False
    if info.get("split_hash") != split:
        return False
    shutil.copyfile(old / FILE, new / FILE)
    return True


def read_users(
    folder: Path, info: dict[str, Any], columns: Sequence[str]
) -> list[np.ndarray]:
    """Columns of the file, (P,) each, the first of them `id`. Raises `UserError` if it is
    damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(folder, info, FILE)
    try:
        table = pq.read_table(folder / FILE, columns=list(columns))
        found = [table[name].to_numpy() for name in columns]
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise damaged(folder, f"{FILE}: {error}") from error
    if len(pd.unique(found[0])) < table.num_rows:
        raise damaged(folder, f"{FILE} holds an id twice")
    return found


def training_hashes(data: Dataset, ends: np.ndarray) -> np.ndarray:
    """(users,) hash of each user's interactions up to `ends`, row 0 of the users among them."""
    split = dataclasses.replace(data.split, train_ends=ends)
    parts = _parts(data.replace(split=split))
    hashes = [hashes for _, _, hashes in parts]
    nobody = np.zeros(USER_ROWS, dtype=np.uint32)
    return np.concatenate([nobody, *hashes])


def _parts(
    data: Dataset,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(ids, lengths, hashes) of some users after the other."""
    of_items = pd.util.hash_array(data.catalogue.items.ids)
    first = 0
    for part in data.chunks():
        rows = np.arange(first, first + len(part.offsets) - 1)
        first += len(rows)
        own = rows >= USER_ROWS
        ids = data.catalogue.users.id_array(rows[own])
        lengths = part.train_lengths[own].astype(np.int32)
        yield ids, lengths, _hashes(part, of_items)[own]


def _hashes(part, of_items):
    """(users,) hash of each user's training part."""
    starts = part.offsets[:-1]
    place = np.arange(len(part.items)) - np.repeat(
        starts, np.diff(part.offsets)
    )
    when = _mixed(
        part.times.astype(np.uint64) + GOLDEN * place.astype(np.uint64)
    )
    mixed = _mixed(of_items[part.items - ITEM_ROWS] + when)
    sums = np.append(np.uint64(0), np.cumsum(mixed, dtype=np.uint64))
    ends = np.maximum(part.split.train_ends, starts)
    # 32 bits a user are enough to notice a difference.
    return (sums[ends] - sums[starts]).astype(np.uint32)


def _mixed(values):
    """Whole numbers (N,) of 64 bits, each bit of which depends on all bits of the given one."""
    first, second, third = SHIFTS
    values = (values ^ (values >> first)) * FACTORS[0]
    values = (values ^ (values >> second)) * FACTORS[1]
    return values ^ (values >> third)
