"""Logs of any size to measure with: `python -m benchmarks.logs FOLDER --rows 10_000_000`.

Users have as many interactions as those of MovieLens 1M. Items are drawn by a Zipf law. In a share
PLANTED of the cases what follows an item is its one successor, so it is known how well the best
model could rank: PLANTED is its HR@1, about.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from support.arguments import ArgumentParser, whole
from support.errors import run_command
from support.files import replacing

# Interactions of a user at the quantiles 0, .05, ..., 1.
LENGTHS = (20, 23, 27, 32, 38, 44, 51, 60, 70, 81, 96, 109, 126, 148, 173, 208)
LENGTHS += (253, 309, 400, 556, 2314)
MEAN_LENGTH = 205  # as they are drawn between these quantiles
PLANTED = 0.3
SHIFT = 100  # of the ranks in the Zipf law, so that users seldom draw an item again
USERS_OF_A_FILE = 20_000
FIRST, YEAR, HOUR = 1_600_000_000, 365 * 86_400, 3600


class World:
    """The popularity of items, and what follows each."""

    def __init__(self, items: int, draw: np.random.Generator) -> None:
        popularity = 1 / (np.arange(items) + SHIFT)
        self.bounds = popularity.cumsum() / popularity.sum()
        self.successor = draw.permutation(items)

    def sequences(
        self, users: int, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(items of the users, one user after the other; lengths (users,))."""
        places = np.linspace(0, 1, len(LENGTHS))
        lengths = np.interp(draw.random(users), places, LENGTHS).astype(int)
        # Longest first: those who are still there at a place are the first ones.
        lengths = np.sort(lengths)[::-1]
        grid = np.zeros((users, lengths[0]), dtype=np.int32)
        for place in range(lengths[0]):
            there = int((lengths > place).sum())
            drawn = self.bounds.searchsorted(draw.random(there))
            if place:
                follows = draw.random(there) < PLANTED
                next_items = self.successor[grid[:there, place - 1]]
                drawn = np.where(follows, next_items, drawn)
            grid[:there, place] = drawn
        filled = np.arange(lengths[0]) < lengths[:, None]
        return grid[filled], lengths


def tables(
    rows: int, items: int, seed: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of interactions of some thousand users each, until there are about `rows`."""
    draw = np.random.default_rng(seed)
    world = World(items, draw)
    users = max(1, rows // MEAN_LENGTH)
    for first in range(0, users, USERS_OF_A_FILE):
        number = min(USERS_OF_A_FILE, users - first)
        sequence, lengths = world.sequences(number, draw)
        user = np.repeat(first + draw.permutation(number), lengths)
        start = FIRST + draw.integers(0, YEAR, number)
        gaps = draw.exponential(HOUR, len(sequence)).astype(np.int64) + 1
        time = gaps.cumsum()
        begin = np.append(0, lengths.cumsum()[:-1])
        time += np.repeat(start - time[begin], lengths)
        yield {"user_id": user, "item_id": sequence, "timestamp": time}


def write_log(folder: Path, rows: int, items: int, seed: int = 0) -> None:
    """Write the tables as Parquet files of a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables(rows, items, seed)):
        with replacing(folder / f"interactions-{number:05}.parquet") as path:
            pq.write_table(pa.table(table), path)


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("folder", type=Path)
    add("--rows", type=whole(1000, 10**12), default=1_000_000)
    add("--items", type=whole(2), default=100_000)
    flags = parser.parse_args(argv)
    write_log(flags.folder, flags.rows, flags.items)


if __name__ == "__main__":
    sys.exit(run_command(main))
