"""The data in memory: `Table`, `Catalogue` and `Dataset`.

Ids, as they stand in the files, become rows of a table. Row 0 of every table is 'unknown'; in the
item table it is also the padding of sequences, and row 1 is MASK. All columns of a table
have these R rows, so no index needs shifting; only `Table.ids` lacks the rows without an id. What
a column's array holds: fields.py.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from fields import UNKNOWN, Field
from schema import Schema
from splits import Requests, Split
from support.errors import UserError, require

PAD = 0
MASK = 1
NO_TIME = 0
ITEM_ROWS = 2  # PAD and MASK
USER_ROWS = 1  # UNKNOWN
CHUNK = 5_000_000  # interactions
WHOLE = r"\s*[+-]?[0-9]+\s*"  # an id as text, where ids are whole numbers
HASHED = 1 << 20  # rows of an array at once, which may be on disk
MOST_VALUES = 1000  # of a column that similarity is measured by
Id = int | str


@dataclass(frozen=True)
class Table:
    """Items or users: names and columns with R rows, ids of the rows from `first` on."""

    ids: np.ndarray  # (n,), n = R - first
    first: int  # rows that stand for nobody: unknown, MASK
    names: np.ndarray  # (R,) str
    fields: Mapping[str, Field] = field(default_factory=dict)
    data: Mapping[str, np.ndarray] = field(default_factory=dict)  # (R, ...)

    def __len__(self) -> int:
        """R."""
        return len(self.ids) + self.first

    @property
    def rows(self) -> np.ndarray:
        """(n,) the rows with an id."""
        return np.arange(self.first, len(self))

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.ids)

    @property
    def numeric(self) -> bool:
        """Whether ids are whole numbers."""
        return self.ids.dtype != object

    def parse_id(self, text: Any) -> Id:
        """An id in the form of this table. Raises `UserError` if it cannot be one."""
        if text is None or isinstance(text, bool | float | np.floating):
            raise UserError(f"{text!r} is not an id")
        if not self.numeric:
            return str(text)
        try:
            # int() also takes '1_0', and digits of other scripts.
            if isinstance(text, str) and not re.fullmatch(WHOLE, text):
                raise ValueError
            return int(text)
        except (TypeError, ValueError):
            problem = f"{text!r} is not an id: ids are whole numbers here"
            raise UserError(problem) from None

    def index(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Rows of ids; 0 for unknown ids."""
        if not isinstance(ids, np.ndarray):
            ids = [self.parse_id(one) for one in ids]
        if len(ids) == 1 and ids[0] in self._index:  # faster for one
            return np.array([self._index.get_loc(ids[0]) + self.first])
        place = self._index.get_indexer(ids)
        return np.where(place >= 0, place + self.first, UNKNOWN)

    def id(self, row: int) -> Id:
        """Id of a row."""
        return self.ids[[row - self.first]].tolist()[0]

    def id_array(self, rows: np.ndarray) -> np.ndarray:
        """Ids of rows."""
        return self.ids[np.asarray(rows) - self.first]

    def readable(self, row: int) -> dict[str, Any]:
        """A row's columns in readable form."""
        return {
            name: self.fields[name].readable(values[row])
            for name, values in self.data.items()
        }

    def shares(
        self, name: str, rows: np.ndarray | slice = slice(None)
    ) -> np.ndarray:
        """(n, F) values of a category or of tags of n rows, in shares that sum to 1, or to 0."""
        codes = self.data[name][rows]
        codes = codes.reshape(len(codes), -1)
        count = len(self.fields[name].values)
        flags = np.zeros((len(codes), count + 1), dtype=np.float32)
        np.put_along_axis(flags, codes, 1.0, axis=1)
        flags = flags[:, 1:]
        return flags / np.maximum(flags.sum(1, keepdims=True), 1)

    def small_shares(self) -> np.ndarray:
        """(R, F) `shares` of all categories and tags of at most MOST_VALUES values."""
        found = [np.zeros((len(self), 1), dtype=np.float32)]
        for name, entry in self.fields.items():
            if 0 < len(entry.values) <= MOST_VALUES:
                found.append(self.shares(name))
        return np.concatenate(found, axis=1)

    def rows_in(self, larger: "Table") -> np.ndarray:
        """(n,) rows of these ids in a larger table. Raises `UserError` if some are missing."""
        missing = "the data lack {id!r}, which the model was trained on"
        return larger.known(self.ids.tolist(), missing)

    def known(self, ids: list, message: str, **words: Any) -> np.ndarray:
        """(n,) rows of ids. Raises `UserError` with the message, in which `id` is an unknown id."""
        rows = self.index(ids)
        if not rows.all():
            unknown = ids[int(rows.argmin())]
            raise UserError(message.format(id=unknown, **words))
        return rows

    def stored(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Stored form of values given by column, None for unknown. Raises `UserError` for an
        unknown column or value."""
        columns = {}
        for name, value in values.items():
            if name not in self.fields:
                there = ", ".join(self.fields) or "(there are none)"
                raise UserError(f"no column {name!r}; the columns: {there}")
            columns[name] = self.fields[name].stored(value)
        return columns

    def with_row(
        self, one: Id, name: str, values: Mapping[str, Any]
    ) -> "Table":
        """One more row at the end. Raises `UserError` for a taken id or unknown column or value."""
        one = self.parse_id(one)
        small = not self.numeric or abs(one) < 1 << 63
        require(small, f"{one!r} is too large for an id")
        require(not self.index([one])[0], f"id {one!r} is taken")
        given, data = self.stored(values), {}
        for column, known in self.data.items():
            new = given.get(column, self.fields[column].unknown)
            data[column] = _appended(known, new)
        ids = np.append(self.ids, np.array([one], dtype=self.ids.dtype))
        names = np.append(self.names, np.array([name], dtype=object))
        return dataclasses.replace(self, ids=ids, names=names, data=data)


def _appended(known: np.ndarray, new: np.ndarray) -> np.ndarray:
    """One more row; lists of codes are filled up with 0 to the longer of both."""
    if known.ndim == 2 and known.dtype == np.int64:
        more = len(new) - known.shape[1]
        known = np.pad(known, ((0, 0), (0, max(more, 0))))
        new = np.pad(new, (0, max(-more, 0)))
    return np.concatenate([known, new[None].astype(known.dtype)])


@dataclass(frozen=True)
class Catalogue:
    """What a model knows of a data set: items, users, and the columns of interactions."""

    schema: Schema
    items: Table
    users: Table
    interaction_fields: Mapping[str, Field]

    @property
    def fields(self) -> dict[str, Mapping[str, Field]]:
        """Table -> column -> field."""
        return {
            "interactions": self.interaction_fields,
            "items": self.items.fields,
            "users": self.users.fields,
        }


@dataclass(frozen=True)
class Dataset:
    """The interactions of all users in chronological order, end to end, with their columns.

    N interactions. User row u has the interactions offsets[u] to offsets[u + 1]; row 0 has none.
    """

    catalogue: Catalogue
    offsets: np.ndarray  # (rows of users + 1,)
    items: np.ndarray  # (N,) rows of items
    times: np.ndarray  # (N,) seconds since 1970, or NO_TIME
    columns: Mapping[str, np.ndarray]  # (N,) each, as in a table
    split: Split
    split_hash: str
    # what was changed on the way here
    counts: dict[str, int] = field(default_factory=dict)
    left_out: "LeftOut | None" = None

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        offsets: np.ndarray,
        items: np.ndarray,
        times: np.ndarray,
        columns: Mapping[str, np.ndarray],
        split: Split,
        counts: dict[str, int] | None = None,
        left_out: "LeftOut | None" = None,
    ) -> "Dataset":
        """A data set with the hash of these data."""
        flat = (offsets, items, times, columns)
        data = cls(catalogue, *flat, split, "", counts or {}, left_out)
        return data.replace(split_hash=_hash(data))

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.catalogue.schema.name

    @property
    def note(self) -> str:
        """A note for every number measured on these data; '' if there is none."""
        return self.catalogue.schema.note

    @property
    def num_users(self) -> int:
        """Users with an id."""
        return len(self.catalogue.users.ids)

    @property
    def has_times(self) -> bool:
        """Whether interactions have times."""
        return bool(self.times.any())

    @property
    def user_of(self) -> np.ndarray:
        """(N,) user row of each interaction."""
        return np.repeat(
            np.arange(len(self.offsets) - 1), np.diff(self.offsets)
        )

    @property
    def train_lengths(self) -> np.ndarray:
        """(users,) interactions in each user's training part."""
        return self.split.train_ends - self.offsets[:-1]

    def training_rows(self) -> np.ndarray:
        """Positions of the interactions that training may see."""
        ends = self.split.train_ends[self.user_of]
        return np.flatnonzero(np.arange(len(self.items)) < ends)

    def chunks(self) -> "Iterator[Dataset]":
        """The interactions of some users after the other, about CHUNK at once.

        So what is computed of all interactions, which may be on disk, needs little memory. The
        user table stays whole.
        """
        total = len(self.items)
        if total <= CHUNK:
            yield self
            return
        ends = np.searchsorted(self.offsets, np.arange(CHUNK, total, CHUNK))
        users = np.unique([0, *ends, len(self.offsets) - 1])
        for first, last in itertools.pairwise(users.tolist()):
            start, end = self.offsets[[first, last]].tolist()
            train_ends = self.split.train_ends[first:last] - start
            yield self.replace(
                offsets=self.offsets[first : last + 1] - start,
                items=self.items[start:end],
                times=self.times[start:end],
                columns={
                    name: flat[start:end]
                    for name, flat in self.columns.items()
                },
                split=dataclasses.replace(
                    self.split, train_ends=train_ends, requests={}
                ),
                left_out=None,
            )

    def item_counts(self) -> np.ndarray:
        """(rows of items,) training interactions of each item."""
        counts = np.zeros(len(self.catalogue.items), dtype=np.int64)
        for part in self.chunks():
            rows = part.training_rows()
            counts += np.bincount(part.items[rows], minlength=len(counts))
        return counts

    def user_items(self) -> sparse.csr_matrix:
        """(users, rows of items) 1 if training has the pair, once or more."""
        rows = self.training_rows()
        shape = (len(self.offsets) - 1, len(self.catalogue.items))
        pairs = (self.user_of[rows], self.items[rows])
        matrix = sparse.csr_matrix((np.ones(len(rows)), pairs), shape=shape)
        matrix.data[:] = 1.0
        return matrix

    def histories(self, requests: Requests) -> list[np.ndarray]:
        """Items of the history of each request, oldest first."""
        starts = self.offsets[requests.users]
        return [
            self.items[start:end]
            for start, end in zip(starts, requests.ends, strict=True)
        ]

    def seen(self, user: int, end: int | None = None) -> np.ndarray:
        """Items that a user had before position `end`, or ever, also those that --keep left out."""
        start, last = self.offsets[user : user + 2]
        items = self.items[start : last if end is None else end]
        if self.left_out is None:
            return items
        rows = slice(*self.left_out.offsets[user : user + 2])
        others = self.left_out.items[rows]
        if end is not None and end < last:
            others = others[self.left_out.after[rows] <= end - start]
        return np.append(items, others)

    def replace(self, **changes: Any) -> "Dataset":
        """Copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class LeftOut:
    """Interactions that --keep left out, by user as in `Dataset`. They are neither trained on nor
    targets, but their users have had these items."""

    offsets: np.ndarray  # (rows of users + 1,)
    items: np.ndarray  # (M,) rows of items
    after: np.ndarray  # (M,) how many interactions of the user came before


def _hash(data):
    """Hash of the interactions and of the split, with the columns, without texts and names."""
    digest = hashlib.sha256(data.split.description.encode())
    arrays = [data.offsets, data.items, data.times, *data.columns.values()]
    if data.left_out is not None:
        left_out = data.left_out
        arrays += [left_out.offsets, left_out.items, left_out.after]
    for table in (data.catalogue.items, data.catalogue.users):
        arrays += [table.ids, *table.data.values()]
    for array in arrays:
        if array.dtype == object:
            digest.update("\n".join(map(str, array)).encode())
        else:
            for start in range(0, max(1, len(array)), HASHED):
                rows = np.ascontiguousarray(array[start : start + HASHED])
                digest.update(rows.tobytes())
    return digest.hexdigest()[:16]
