"""Recommendations for many users at once: `python inference.py --users all --output FILE`.

To a folder, `--output FOLDER/`, they are written in parts of PART users, a file each. So memory
does not grow with the number of users, and what was stopped goes on with the same command.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from answers import Id
from engine import RecommendationEngine
from evaluation.lists import top_lists
from evaluation.protocols import Ranker
from queries import check_choices, hides_seen
from reranking import LikedRanker, candidates, varied_lists
from splits import Requests
from support.checkpoint import read_json
from support.devices import uses_bf16
from support.errors import require
from support.files import write_json
from support.tables import write_frame

PART = 100_000  # users
ABOUT = "lists.json"  # what the files of a folder were made with
Spread = Callable[[Callable[[int], None], Sequence[int]], Iterator[None]]


@dataclass(frozen=True)
class Lists:
    """Which lists are asked for.

    until: 'end' ranks from whole histories; 'test' and 'validation' from what comes before that
    target, at its time if the model knows request times; for all users in the very batches that
    the trainer evaluates. precision: 'auto' encodes whole histories in bf16 where that is
    faster, 'fp32' never; what ranks before a target is always encoded in fp32. filter_seen,
    rank_by, diversity: as in `Query`.
    """

    k: int = 10
    until: str = "end"
    filter_seen: bool | None = None
    precision: str = "auto"
    rank_by: str = "next"
    diversity: float = 0.0

    def __post_init__(self) -> None:
        """Raises `UserError` for lists that cannot be made."""
        check_choices(self.k, self.rank_by, self.diversity)


def recommend_all(
    engine: RecommendationEngine,
    user_ids: Sequence[Id] | None = None,
    **options: Any,
) -> Any:
    """Data frame with user_id, item_id, rank (from 1) and score, for these users or for all. Users
    for whom fewer than `k` items are left have fewer rows.

    options: as in `Lists`.
    """
    lists = Lists(**options)
    return _table(engine, _requests(engine, user_ids, lists), lists)


def write_all(
    engine: RecommendationEngine,
    folder: Path,
    user_ids: Sequence[Id] | None = None,
    spread: Spread | None = None,
    users_of_a_file: int = PART,
    **options: Any,
) -> Iterator[tuple[int, int]]:
    """Write the lists of these users, or of all, to a folder, in files that `recommend_all` could
    have made. Yields (files that are there, all files), at first and after each file.

    Files that are there already stay. spread: calls a function with each number elsewhere, in any
    order (support/ray_workers.py). Raises `UserError` if the files are of other lists.
    """
    lists = _decided(Lists(**options), folder)
    place = engine.settings.data.data_dir
    parts = Parts(
        engine.model_path, place, folder, user_ids, lists, users_of_a_file
    )
    without_engine = dataclasses.replace(parts)
    parts.engine = engine
    parts.begin()
    missing = [n for n in range(parts.number) if not parts.path(n).exists()]
    done = parts.number - len(missing)
    yield done, parts.number
    if spread is None:
        written = map(parts.write, missing)
    else:
        # Each worker opens the model for itself.
        written = spread(without_engine.write, missing)
    for _ in written:
        done += 1
        yield done, parts.number


@dataclass
class Parts:
    """The files of a folder of lists, any of which a process can write alone."""

    model_path: Path
    data_dir: str | None
    folder: Path
    user_ids: Sequence[Id] | None
    lists: Lists
    users_of_a_file: int

    @cached_property
    def engine(self) -> RecommendationEngine:
        """The model, opened once in a process."""
        return RecommendationEngine(self.model_path, self.data_dir)

    @cached_property
    def requests(self) -> Requests:
        """Those of all files."""
        return _requests(self.engine, self.user_ids, self.lists)

    @property
    def number(self) -> int:
        """How many files there are."""
        return math.ceil(len(self.requests) / self.users_of_a_file)

    def path(self, number: int) -> Path:
        """A file."""
        return self.folder / f"part-{number:05}.parquet"

    def begin(self) -> None:
        """Say in the folder of what the lists are. Raises `UserError` if it holds others."""
        users = self.requests.users
        about = {
            "weights": self.engine.info["weights"],
            "data": self.engine.data.split_hash,
            "items": len(self.engine.catalogue.items.ids),
            "users": len(users),
            "hash_of_users": hashlib.sha256(users.tobytes()).hexdigest()[:16],
            "users_of_a_file": self.users_of_a_file,
            **dataclasses.asdict(self.lists),
        }
        if (self.folder / ABOUT).exists():
            require(
                read_json(self.folder / ABOUT) == about,
                f"{self.folder} holds other lists; remove it, or give another folder",
            )
        else:
            require(
                not any(self.folder.glob("part-*.parquet")),
                f"{self.folder} holds files that are no lists, or of lists without {ABOUT}; choose "
                f"another folder",
            )
            write_json(self.folder / ABOUT, about)

    def write(self, number: int) -> None:
        """Write a file."""
        start = number * self.users_of_a_file
        requests = self.requests.part(
            slice(start, start + self.users_of_a_file)
        )
        frame = _table(self.engine, requests, self.lists)
        write_frame(self.path(number), frame)


def _table(engine, requests, lists):
    """The lists of some requests as a data frame."""
    import pandas as pd

    # With the items that were added.
    data = engine.data.replace(catalogue=engine.catalogue)
    ranker: Ranker = engine.scorer
    if lists.rank_by == "liked":
        ranker = LikedRanker(engine.scorer, engine.catalogue)
    whole = lists.until == "end"
    bf16 = whole and uses_bf16(lists.precision, torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        rows, values = top_lists(
            ranker,
            data,
            requests,
            engine.seq_length,
            hides_seen(engine.schema, lists.filter_seen),
            candidates(lists.k, lists.diversity),
            engine.timed if whole else lambda history: history,
        )
    # Similarities in fp32, as for one user.
    rows, values = varied_lists(
        rows, values, engine.scorer.table, lists.k, lists.diversity
    )
    return pd.DataFrame(_columns(data, requests.users, rows, values))


def _columns(data, users, rows, values):
    """The columns of the table, from lists (Q, K) and their scores."""
    width = rows.shape[1]
    # Where fewer items are left the rest is -inf.
    there = np.isfinite(values).ravel()
    ids = data.catalogue.users.id_array(users)
    return {
        "user_id": np.repeat(ids, width)[there],
        "item_id": data.catalogue.items.id_array(rows.ravel()[there]),
        "rank": np.tile(np.arange(1, width + 1), len(rows))[there],
        "score": values.ravel()[there],
    }


def _decided(lists, folder):
    """The lists with the precision that all files of the folder have."""
    if lists.precision != "auto":
        return lists
    bf16 = uses_bf16("auto", torch.device("cpu"))
    precision = "bf16" if bf16 else "fp32"
    if (folder / ABOUT).exists():
        precision = read_json(folder / ABOUT).get("precision", precision)
    return dataclasses.replace(lists, precision=precision)


def _requests(engine, user_ids, lists):
    require(lists.k >= 1, f"--k {lists.k}: must be at least 1")
    return engine.requests(user_ids, lists.until)
