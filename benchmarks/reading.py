"""Time and memory of reading a large file:
`python -m benchmarks.reading --rows 20000000`

Writes a CSV file of that many interactions (user_id, item_id, rating, timestamp), with users and
items as unequally active as in a shop. Reads it in its own process as every program does, with an
inferred schema, and prints seconds and peak memory.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_processor import load
from settings import DataSettings
from support.arguments import ArgumentParser, whole
from support.errors import run_command
from support.memory import peak_memory_mb

USERS, ITEMS = 200_000, 50_000
READ_HERE = "--read"  # in the process that is measured


def write_interactions(path: Path, rows: int) -> None:
    """A CSV file of `rows` interactions, the same for the same number."""
    import pyarrow as pa
    from pyarrow import csv

    draw = np.random.default_rng(0)
    columns = {
        "user_id": _unequal(draw, rows, USERS, 1.1, 2000),
        "item_id": _unequal(draw, rows, ITEMS, 0.9, 500),
        "rating": draw.integers(1, 11, rows) / 2,
        "timestamp": 1_400_000_000
        + np.sort(draw.integers(0, 200_000_000, rows)),
    }
    csv.write_csv(pa.table(columns), path)


def _unequal(draw, rows, count, shape, scale):
    """Numbers from 1 to `count` that follow Pareto's law."""
    drawn = (draw.pareto(shape, rows) * scale).astype(np.int64)
    return np.minimum(drawn, count - 1) + 1


def read_here(path: str) -> None:
    """Read a file and print time and memory as JSON."""
    began = time.perf_counter()
    data = load(DataSettings(dataset=path))
    figures = {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mb": peak_memory_mb(),
        "interactions": len(data.items),
        "users": data.num_users,
        "items": len(data.catalogue.items.ids),
    }
    print(json.dumps(figures))


def main(argv: list[str]) -> None:
    """See the module's head."""
    if argv[:1] == [READ_HERE]:
        read_here(argv[1])
        return
    parser = ArgumentParser(__doc__)
    parser.add_argument("--rows", type=whole(100), default=20_000_000)
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.csv"
        write_interactions(path, flags.rows)
        size = path.stat().st_size / 1e6
        print(f"{flags.rows:,} rows, {size:,.0f} MB", flush=True)
        command = [sys.executable, "-m", "benchmarks.reading", READ_HERE]
        done = subprocess.run(
            [*command, str(path)],
            cwd=Path(__file__).parent.parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    print(
        "{interactions:,} interactions of {users:,} users with {items:,} items in {seconds} s, "
        "peak memory {peak_memory_mb:,} MB".format(**figures)
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
