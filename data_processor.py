"""From raw tables and a schema to a `Dataset`: vocabularies, columns, sequences, split.

    python data_processor.py --dataset ml-1m                          prints the data card
    python data_processor.py --dataset clicks.csv --write_schema data.yaml     writes the schema too
    python data_processor.py --dataset ml-1m --to recbole DIR         writes files for RecBole
    python data_processor.py --dataset clicks.csv --build DIR         sequences on disk, of any size

Interactions are ordered by user, then time, then line in the file; without times, by line. Half of
the neighbouring times of MovieLens 1M are equal, so the rule matters. Splits: splits.py.
"""

import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_card import data_card
from dataset import (
    ITEM_ROWS,
    NO_TIME,
    USER_ROWS,
    Catalogue,
    Dataset,
    LeftOut,
    Table,
)
from exporting import write_atomic
from item_search import rows_where
from readers import home, read
from readers.infer import of_frames
from readers.raw import RawData, assemble
from schema import TABLES, Schema
from settings import DataSettings, Settings
from splits import FEWEST, Split, split_interactions
from storage import is_built
from support.errors import UserError, require, run_command
from support.files import write_text
from support.memory import release_memory
from support.tables import print_table
from vocabulary import fields_of, recoded, stored, table_of

MEMORY = "2GB"  # of the database of a build


def load(settings: DataSettings, like: Catalogue | None = None) -> Dataset:
    """Read a data set and process it; see `process`. Raises `UserError` for missing or bad
    files."""
    if is_built(settings.dataset):
        from storage.sequences import load_built

        data = load_built(settings)
        return _coded_like(data, like) if like else data
    raw = read(settings.dataset, settings.data_dir, settings.columns)
    data = process(raw, settings, like)
    del raw
    release_memory()
    return data


def from_frames(
    interactions: Any,
    items: Any = None,
    users: Any = None,
    columns: str = "",
    settings: DataSettings | None = None,
) -> Dataset:
    """A data set of tables in memory: data frames of pandas or tables of Arrow.

    columns: roles of the fields of the interactions, if their names do not tell, as in
    'user=A,item=B'. Also `Dataset.from_frames`. Raises `UserError` if a table cannot be read.
    """
    frames = {"interactions": interactions, "items": items, "users": users}
    given = {
        name: frame for name, frame in frames.items() if frame is not None
    }
    raw = assemble(*of_frames(given, columns))
    return process(raw, settings or DataSettings())


Dataset.from_frames = staticmethod(from_frames)


def _coded_like(data, like):
    """The data with the columns' codes, knots and sizes of another catalogue; see `process`."""
    catalogue, known = data.catalogue, like.fields
    tables = {}
    for name in ("items", "users"):
        table = getattr(catalogue, name)
        fields, columns = recoded(table.fields, table.data, known[name])
        tables[name] = dataclasses.replace(table, fields=fields, data=columns)
    fields, columns = recoded(
        catalogue.interaction_fields, data.columns, known["interactions"]
    )
    return Dataset.of(
        Catalogue(catalogue.schema, **tables, interaction_fields=fields),
        data.offsets,
        data.items,
        data.times,
        columns,
        data.split,
        data.counts,
    )


def process(
    raw: RawData, settings: DataSettings, like: Catalogue | None = None
) -> Dataset:
    """Order, filter, index and split raw tables.

    like: a catalogue whose columns keep their codes, knots and sizes, as a model that was trained
    on it needs; values that it does not have are unknown.
    """
    rows = kept = _kept(raw, settings)
    counts = dict(raw.counts)
    for role in ("user", "item"):
        dropped = raw.interactions[role].nunique() - rows[role].nunique()
        counts[f"{role}s dropped by --min_{role}_count and --keep"] = dropped
    known = like.fields if like else {}
    items = _table(raw, "items", rows["item"], ITEM_ROWS, known)
    users = _table(raw, "users", rows["user"], USER_ROWS, known)
    fields = fields_of(
        raw.schema.interactions.columns, rows, known.get("interactions")
    )
    user = users.index(rows["user"].to_numpy())
    rows = rows.assign(time=rows.get("time", NO_TIME))
    # equal ones stay in the order of the file
    rows = rows.iloc[np.lexsort([rows["time"], user])]
    times = np.array(rows["time"])
    offsets = _offsets(user, users)
    return Dataset.of(
        Catalogue(raw.schema, items, users, fields),
        offsets,
        items.index(rows["item"].to_numpy()),
        times,
        {
            name: np.array(stored(entry, rows[name]))
            for name, entry in fields.items()
        },
        split_interactions(settings, offsets, times),
        {what: number for what, number in counts.items() if number},
        _left_out(raw, kept, items, users) if settings.keep else None,
    )


def _table(raw, name, used, first, known):
    columns = raw.schema.table(name).columns
    return table_of(getattr(raw, name), columns, used, first, known.get(name))


def _offsets(user, users):
    """(rows of users + 1,) where the interactions of each user begin, from their rows."""
    return np.append(0, np.bincount(user, minlength=len(users)).cumsum())


def _left_out(raw, kept, items, users):
    """Interactions of known users with known items that are not kept."""
    rows = raw.interactions.drop(kept.index)
    user = users.index(rows["user"].to_numpy())
    item = items.index(rows["item"].to_numpy())
    after = _kept_before(rows, user, kept, users)
    order = np.argsort(user, kind="stable")
    order = order[(user[order] > 0) & (item[order] > 0)]
    return LeftOut(_offsets(user[order], users), item[order], after[order])


def _kept_before(rows, user, kept, users):
    """(n,) how many kept interactions of the same user come before each row: earlier ones, or
    without times those above it in the file.

    rows: interactions that are not kept. user: their rows in the table of users.
    """
    user_of_kept = users.index(kept["user"].to_numpy())
    user = np.append(user, user_of_kept)
    if "time" in rows:
        when = np.append(rows["time"], kept["time"])
    else:
        when = np.append(rows.index, kept.index)
    is_kept = np.arange(len(user)) >= len(rows)
    # At the same time, what is not kept comes first.
    order = np.lexsort([is_kept, when, user])
    of_earlier_users = _offsets(user_of_kept, users)[user[order]]
    before = np.empty(len(user), dtype=np.int64)
    before[order] = np.cumsum(is_kept[order]) - of_earlier_users
    return before[: len(rows)]


def _kept(raw, settings):
    """Interactions that the settings keep."""
    rows = raw.interactions
    if settings.keep:
        fields = fields_of(raw.schema.interactions.columns, rows)
        values = {}
        for name, entry in fields.items():
            values[name] = stored(entry, rows[name])
            if entry.column.kind == "number":  # exact, not in fp32
                values[name] = rows[name].to_numpy(dtype=float)
        nobody = np.empty(0, dtype=object)
        table = Table(np.arange(len(rows)), 0, nobody, fields, values)
        rows = rows[rows_where(table, [settings.keep], "--keep")]
    fewest = max(settings.min_user_count, FEWEST[settings.protocol])
    for role, least in (("item", settings.min_item_count), ("user", fewest)):
        counts = rows[role].value_counts()
        if (counts < least).any():
            rows = rows[rows[role].isin(counts.index[counts >= least])]
    if rows.empty:
        raise UserError(
            f"--min_item_count {settings.min_item_count}, --min_user_count {fewest} and "
            f"--keep {settings.keep!r} leave no interactions; choose smaller ones, or "
            f"give users with more (--protocol {settings.protocol} needs "
            f"{FEWEST[settings.protocol]})"
        )
    return rows


def from_sequences(
    histories: Sequence[Sequence[int]], vocab_size: int
) -> Dataset:
    """`Dataset` of bare item numbers 1 to vocab_size, without times or columns, all for training.

    Raises `UserError` for an item number outside that range.
    """
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    flat = np.array(list(itertools.chain(*histories)))
    if (
        flat.dtype.kind not in "iu"
        or flat.min() < 1
        or flat.max() > vocab_size
    ):
        raise UserError(
            f"user_sequences must hold whole numbers from 1 to vocab_size = {vocab_size}"
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
    return Dataset.of(catalogue, offsets, rows, times, {}, parts)


def write_schema(schema: Schema, path: Path, home: Path = Path()) -> None:
    """Write a schema as YAML, with its files relative to it. home: the folder that they are
    relative to now."""
    from ruamel.yaml import YAML

    content = schema.to_dict()
    for table in TABLES:
        if "file" in content.get(table, {}):
            file = os.path.relpath(home / content[table]["file"], path.parent)
            content[table]["file"] = Path(file).as_posix()
    text = io.StringIO()
    text.write(
        "# Written by data_processor.py; datasets/README.md says what may stand here.\n"
    )
    YAML(pure=True).dump(content, text)
    write_text(path, text.getvalue())


def _parser():
    from command_line import settings_parser

    parser = settings_parser(__doc__, ("data",))
    add = parser.add_argument
    add("--write_schema", type=Path, metavar="FILE.yaml")
    add(
        "--to",
        nargs=2,
        metavar=("recbole", "FOLDER"),
        help="write the data and their order for RecBole, as atomic files",
    )
    add(
        "--build",
        type=Path,
        metavar="DIR",
        help="write sequences on disk, for --dataset DIR; what is there already stays",
    )
    add(
        "--memory",
        metavar="SIZE",
        help=f"of the database that sorts the rows by user (default: {MEMORY}; --build)",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="build on a Ray cluster whose machines share DIR: auto or host:port, or local",
    )
    return parser


def main(argv: list[str]) -> None:
    """Print the data card for the given data flags, or build sequences on disk."""
    flags = vars(_parser().parse_args(argv))
    path, to = flags.pop("write_schema"), flags.pop("to")
    folder, memory = flags.pop("build"), flags.pop("memory")
    address = flags.pop("ray")
    if to and to[0] != "recbole":
        raise UserError(
            f"--to {to[0]}: there is recbole, as in --to recbole FOLDER"
        )
    settings = Settings().replace(**flags)
    if folder:
        require(
            not path and not to,
            "--write_schema and --to do not go with --build: give them alone",
        )
        _build(settings.data, folder, memory or MEMORY, address)
        return
    require(
        not memory and not address, "--memory and --ray are for --build DIR"
    )
    data = load(settings.data)
    rows = [list(row) for row in data_card(data)]
    print_table("Data card", data.name, ["", ""], rows)
    if path:
        folder = Path(settings.data.data_dir or home(settings.data.dataset))
        write_schema(data.catalogue.schema, path, folder)
        print(f"schema: {path}; edit it and give it as --dataset")
    if to:
        written = write_atomic(data, Path(to[1]))
        print(f"for RecBole: {', '.join(map(str, written))}")


def _build(settings, folder, memory, address):
    """Write sequences on disk, here or on a cluster."""
    from storage.build import build
    from storage.sequences import built_line
    from storage.workers import on_ray

    if address:
        with on_ray(address) as spread:
            manifest = build(settings, folder, memory, spread=spread)
    else:
        manifest = build(settings, folder, memory)
    print(built_line(manifest, folder))


if __name__ == "__main__":
    sys.exit(run_command(main))
