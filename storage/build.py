"""Builds sequences on disk from events: `python data_processor.py --dataset EVENTS --build DIR`.

Each step takes one part after the other and leaves a file of each. So memory does not grow with
the number of rows. A build that was stopped goes on where it was. The steps:

    staged       the rows of the files, by user       (stage.py)
    clean        checked, without duplicates          (part.py)
    kept         without rare items and short histories
    sequences    one user a row, with the vocabulary of all parts
"""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset import ITEM_ROWS, Table
from readers import files_behind, read
from readers.raw import ALIKE, IDLE, STRANGE, alike_ids
from settings import DataSettings
from splits import HELD_OUT
from storage import MANIFEST
from storage import part as part_steps
from storage.arrays import write_arrays
from storage.item_table import write_table
from storage.merged import Merged
from storage.remote import Remote, is_remote
from storage.rows import InMemory, Streamed
from storage.sequences import (
    FORMAT,
    Fields,
    part_path,
    read_manifest,
    read_part,
    write_vocabulary,
)
from storage.source import source_of
from storage.stage import connect
from storage.workers import Map, Step, here
from support.errors import UserError, require
from support.files import write_json
from support.processes import lock_or_refuse
from vocabulary import field_of, fields_of, table_of

ROWS = 2_000_000  # of a part, about
NUMBERS = 8_000_000  # values of a column by which its quantiles are found, at most
DAY = 86_400
DROPPED = "{0}s dropped by --min_{0}_count and --keep"
KEPT = ("min_item_count", "min_user_count")  # settings that say what is kept
WORK = ".build-work"  # in the folder, until all is done


def build(
    settings: DataSettings,
    folder: Path,
    memory: str = "2GB",
    rows_of_part: int = ROWS,
    spread: Map = here,
) -> dict[str, Any]:
    """Build a data set in `folder`, or go on with it; returns its manifest.

    memory: limit of DuckDB. spread: where the steps run, as in workers.py. Raises `UserError` for
    data that cannot be read, or for a folder in which other data are built.
    """
    require(
        not settings.keep,
        "--keep does not go with --build; keep the rows when the file is written",
    )
    # Workers may have another current folder.
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / WORK
    work.mkdir(exist_ok=True)
    with lock_or_refuse(work / "lock", f"another process builds {folder}"):
        remote = source = None
        if is_remote(settings.dataset):
            remote = Remote.of(settings.dataset)
            facts = remote.files
        else:
            source = _source(settings, memory, work)
            facts = files_behind(settings.dataset, settings.data_dir)
        key = _key(settings, facts, rows_of_part)
        if (folder / MANIFEST).exists():
            manifest = read_manifest(folder)
            _require_same(manifest["key"], key, folder)
        else:
            _resume(work, key, folder)
            if remote is not None:
                copy = remote.copied(work / "files", spread)
                settings = dataclasses.replace(settings, dataset=copy)
                source = _source(settings, memory, work)
            rows = _rows(settings, source, work, rows_of_part, memory, spread)
            manifest = Build(rows, settings, folder, work).run(key, spread)
        shutil.rmtree(work)
    # Of processes that were killed while they wrote.
    for left in list(folder.rglob(".writing-*")):
        shutil.rmtree(left)
    return manifest


def _source(settings, memory, work):
    connection = connect(memory, work / "duckdb")
    try:
        return source_of(settings, connection)
    finally:
        connection.close()


def _key(settings, facts, rows_of_part):
    """What a build depends on: files with size and time, settings."""
    content = {
        "format": FORMAT,
        "settings": {name: getattr(settings, name) for name in KEPT},
        "dataset": [settings.dataset, settings.data_dir, settings.columns],
        "rows_of_part": rows_of_part,
        "files": facts,
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_same(found, key, folder):
    require(
        found == key,
        f"{folder} holds other data, or those of other settings; remove it, or give another "
        f"folder",
    )


def _resume(work, key, folder):
    """Check that what was begun is this build."""
    begun = work / "key"
    if begun.exists():
        _require_same(begun.read_text(), key, folder)
        return
    for name in ("sequences", "vocabulary"):
        require(
            not (folder / name).exists(),
            f"{folder / name} is of other data or of a build without its {MANIFEST}; remove it, or "
            f"give another --build",
        )
    begun.write_text(key)


def _rows(settings, source, work, rows_of_part, memory, spread):
    """The interactions in parts."""
    if source is None:
        raw = read(settings.dataset, settings.data_dir, settings.columns)
        parts = math.ceil(len(raw.interactions) / rows_of_part)
        return InMemory(raw, parts)
    parts = math.ceil(source.number_of_rows() / rows_of_part)
    return Streamed(source, spread, work / "staged", parts, memory)


def _sum(number):
    return number.groupby(level=0).sum()


class Build:
    """The steps over all parts."""

    def __init__(
        self,
        rows: InMemory | Streamed,
        settings: DataSettings,
        folder: Path,
        work: Path,
    ) -> None:
        self.rows, self.settings = rows, settings
        self.folder, self.work = folder, work
        self.schema = rows.schema
        self.counts = Counter(rows.counts)

    def run(self, key: str, spread: Map) -> dict[str, Any]:
        """All steps; the manifest is written last."""

        def each(what: str, step: Step, parts: Sequence[int]) -> None:
            for _ in tqdm(spread(step, parts), what, len(parts), disable=None):
                pass

        each("checked", self.clean, range(self.rows.parts))
        frequent = self.count()
        keep = functools.partial(self.keep, frequent=frequent)
        each("filtered", keep, self._parts("clean"))
        items, fields = self.vocabulary()
        write_vocabulary(self.folder, items, fields)
        encode = functools.partial(self.encode, items=items, fields=fields)
        each("written", encode, self._parts("kept"))
        paths = [part_path(self.folder, n) for n in self._parts("kept")]
        write_arrays(self.folder, paths, fields)
        manifest = {"key": key, **self.manifest(items, fields)}
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def _path(self, step, number):
        return self.work / f"{step}-{number:05}.parquet"

    def _parts(self, step):
        """The parts that have interactions after a step."""
        every = range(self.rows.parts)
        return [part for part in every if self._path(step, part).exists()]

    def _read(self, step, number, columns=None):
        return pd.read_parquet(self._path(step, number), columns=columns)

    def clean(self, number: int) -> None:
        """Check a part."""
        path = self._path("clean", number)
        if path.exists():
            return
        rows, counts = self.rows.clean(number)
        if not len(rows):
            return
        table = pa.Table.from_pandas(rows, preserve_index=False)
        facts = {**table.schema.metadata, b"counts": json.dumps(counts)}
        write_table(path, table.replace_schema_metadata(facts))

    def count(self) -> np.ndarray | None:
        """The ids of frequent items; None if all are."""
        number, users, different = Merged(_sum), [], 0
        for part in self._parts("clean"):
            facts = pq.read_schema(self._path("clean", part)).metadata
            self.counts.update(json.loads(facts[b"counts"]))
            rows = self._read("clean", part, ["user", "item"])
            number.add(rows["item"].value_counts())
            users.append(rows["user"].drop_duplicates())
            different += len(users[-1])
            if self.rows.users is None:
                users.clear()
        require(different, f"{self.settings.dataset} has no interactions")
        number = number.whole()
        self.different = {"item": len(number), "user": different}
        if isinstance(self.rows, Streamed):
            items = pd.Series(number.index)
            self.counts[ALIKE.format("item")] = alike_ids(items)
            self._count_unmatched("items", items)
            if users:
                self._count_unmatched("users", pd.concat(users))
        least = self.settings.min_item_count
        return None if least <= 1 else number.index[number >= least]

    def keep(self, number: int, frequent: pd.Index | None) -> None:
        """Filter a part."""
        path = self._path("kept", number)
        if path.exists():
            return
        rows = self._read("clean", number)
        rows = part_steps.keep(rows, frequent, self.settings.min_user_count)
        if len(rows):
            write_table(path, pa.Table.from_pandas(rows, preserve_index=False))

    def vocabulary(self) -> tuple[Table, Fields]:
        """The item table, and the fields of all tables, from what all parts have."""
        columns = self.schema.interactions.columns
        parts = self._parts("kept")
        if not parts:
            raise UserError(
                f"--min_item_count {self.settings.min_item_count} and --min_user_count "
                f"{self.settings.min_user_count} leave no interactions; choose smaller ones"
            )
        merged = Merged(pd.Series.drop_duplicates)
        values, users, number_of_users = [], [], 0
        for number in parts:
            rows = self._read("kept", number)
            part = part_steps.found(rows, columns, NUMBERS // len(parts))
            values.append(part.values)
            merged.add(part.items)
            number_of_users += len(part.users)
            # Without a table of users nobody needs their ids.
            if self.rows.users is not None:
                users.append(part.users)
        used = merged.whole()
        self._count_dropped("item", len(used))
        self._count_dropped("user", number_of_users)
        items = table_of(
            self.rows.items, self.schema.items.columns, used, ITEM_ROWS
        )
        fields = {
            "interactions": {
                name: field_of(
                    column, pd.concat([part[name] for part in values])
                )
                for name, column in columns.items()
            },
            "items": items.fields,
            "users": {},
        }
        if self.rows.users is not None:
            known = self.rows.users["id"].isin(pd.concat(users))
            rows = self.rows.users[known]
            fields["users"] = fields_of(self.schema.users.columns, rows)
        return items, fields

    def _count_dropped(self, role, kept):
        """Count the items or users that --min_item_count and --min_user_count left out."""
        dropped = self.different[role] - kept
        self.counts[DROPPED.format(role)] = dropped

    def _count_unmatched(self, table, ids):
        """Count the ids without a row in their table, and the rows without an interaction."""
        listed = getattr(self.rows, table)
        if listed is not None:
            strange = ~ids.isin(listed["id"])
            self.counts[STRANGE.format(table)] = int(strange.sum())
            idle = ~listed["id"].isin(ids)
            self.counts[IDLE.format(table)] = int(idle.sum())

    def encode(self, number: int, items: Table, fields: Fields) -> None:
        """Write the sequences of a part."""
        path = part_path(self.folder, number)
        if path.exists():
            return
        rows = self._read("kept", number)
        users = self.rows.users
        table = part_steps.encoded(rows, self.schema, users, items, fields)
        write_table(path, table)

    def manifest(self, items: Table, fields: Fields) -> dict[str, Any]:
        """What is known of all parts."""
        parts, lengths, ties = [], Counter(), 0
        for number in self._parts("kept"):
            path = part_path(self.folder, number)
            part = read_part(path, fields)
            lengths.update(part.lengths.tolist())
            ties += part.ties()
            parts.append(
                {
                    "file": path.name,
                    "users": len(part.ids),
                    "interactions": len(part.items),
                    "digest": part.digest(),
                }
            )
        return {
            "format": FORMAT,
            "schema": self.schema.to_dict(),
            "settings": {name: getattr(self.settings, name) for name in KEPT},
            "items": len(items.ids),
            "users": sum(part["users"] for part in parts),
            "interactions": sum(part["interactions"] for part in parts),
            "counts": {what: n for what, n in self.counts.items() if n},
            "dates": self.dates(),
            "ties": ties,
            "lengths": [list(pair) for pair in sorted(lengths.items())],
            "parts": parts,
        }

    def dates(self) -> list[int] | None:
        """The times at which --protocol global_time ends training and validation; None without
        times."""
        if "time" not in self.schema.interactions.roles:
            return None
        parts = self._parts("kept")
        days: Counter = Counter()
        for part in parts:
            times = self._read("kept", part, ["time"])["time"].to_numpy()
            found, number = np.unique(times // DAY, return_counts=True)
            days.update(dict(zip(found.tolist(), number.tolist(), strict=True)))
        order = sorted(days)
        ends = np.cumsum([days[day] for day in order])
        dates = []
        for share in (1 - 2 * HELD_OUT, 1 - HELD_OUT):
            # As numpy's quantile of the method 'lower'.
            place = int(share * (ends[-1] - 1))
            day = int(np.searchsorted(ends, place, side="right"))
            place -= int(ends[day - 1]) if day else 0
            times = [self._times_of(part, order[day]) for part in parts]
            dates.append(int(np.sort(np.concatenate(times))[place]))
        return dates

    def _times_of(self, part, day):
        times = self._read("kept", part, ["time"])["time"].to_numpy()
        return times[times // DAY == day]
