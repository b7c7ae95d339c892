"""Checked interactions in parts, all rows of a user in one part, and the tables beside them.

`Streamed` reads files that do not fit into memory, `InMemory` those of any other format.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from readers.raw import (
    ALIKE,
    TEXT_IDS,
    RawData,
    is_blank,
    named_table,
    require_rows,
)
from readers.times import time_form
from schema import Schema
from storage import part
from storage.source import Source
from storage.stage import Staged, groups_of, stage
from storage.workers import Map

Counts = dict[str, int]


def part_of(user: object, parts: int) -> int:
    """The part of a user, from the id as text; as `stage` has it."""
    digest = hashlib.md5(str(user).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little") % parts


class InMemory:
    """The raw tables of a data set that was read as a whole."""

    def __init__(self, raw: RawData, parts: int) -> None:
        self.schema: Schema = raw.schema
        self.items, self.users = raw.items, raw.users
        self.parts, self.counts = parts, raw.counts
        rows = raw.interactions
        users = rows["user"].drop_duplicates()
        number = pd.Series([part_of(user, parts) for user in users], users)
        self.groups = dict(list(rows.groupby(rows["user"].map(number))))
        self.nothing = rows.iloc[:0]

    def clean(self, number: int) -> tuple[pd.DataFrame, Counts]:
        """The interactions of a part, and what was changed in it."""
        return self.groups.get(number, self.nothing), {}


class Streamed:
    """Interactions of files, staged in `folder`, where they stay until the build is done."""

    def __init__(
        self,
        source: Source,
        spread: Map,
        folder: Path,
        parts: int,
        memory: str,
    ) -> None:
        self.parts, self.schema = parts, source.schema
        small = source.without_sample()
        step = functools.partial(stage, small, folder, parts, memory)
        groups = range(len(groups_of(source.paths)))
        for _ in tqdm(spread(step, groups), "read", len(groups), disable=None):
            pass
        self.staged = Staged.of(small, folder)
        self.forms = self.staged.id_forms()
        self.counts: Counts = dict(source.sample.notes)
        tables = self._tables(source.others)
        self.items, self.users = tables.get("items"), tables.get("users")
        if source.schema.interactions.time:
            self.forms["time"] = _time_form(source)
        if self.forms["user"] == TEXT_IDS:
            found = self.staged.alike_users(memory)
            self.counts[ALIKE.format("user")] = found

    def _tables(self, files):
        """The tables of items and users, with ids of the type of the interactions'."""
        tables = {}
        for table, role in (("items", "item"), ("users", "user")):
            described = self.schema.table(table)
            if table not in files or not described.roles:
                continue
            file = files[table]
            rows = named_table(table, file, described, self.counts)
            require_rows(rows, file)
            self.counts |= file.notes
            for row in rows.index[rows["id"].duplicated()]:
                file.fault(row, f"{rows['id'][row]} is listed twice")
            # Text on both sides where one side has ids that are no whole numbers.
            if rows["id"].dtype != np.int64:
                self.forms[role] = TEXT_IDS
            elif self.forms[role] == TEXT_IDS:
                rows["id"] = rows["id"].astype(str).astype(object)
            tables[table] = rows
        return tables

    def clean(self, number: int) -> tuple[pd.DataFrame, Counts]:
        """The interactions of a part, and what was changed in it. Raises `UserError` naming file
        and line."""
        counts: Counts = {}
        file = self.staged.part(number)
        rows = part.clean(file, self.schema, self.forms, counts)
        return rows, counts


def _time_form(source):
    """How the times are written, by the first rows."""
    field = source.schema.interactions.time
    times = source.sample.frame[field]
    known = times[~is_blank(times)]
    return time_form(known, source.sample.refusing(field))
