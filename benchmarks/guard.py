"""Whether this code is slower than that of an earlier commit, measured in turns on one machine.

    python -m benchmarks.guard         (.ci/run does it)

Absolute times depend on the machine, so only ratios of one run are compared. In each round both
trees train and recommend in a process of their own (`benchmarks.ours`, synthetic data, one thread).
Processor time is measured, because other processes change it less than the time of the clock. The
best round of each tree counts. A loss of speed of a fifth or more fails.

After a change that is slower on purpose, set BASELINE to its commit and say why in
`benchmarks/LOG.md`.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from support.arguments import ArgumentParser, whole
from support.errors import UserError, run_command
from support.tables import print_table

ROOT = Path(__file__).parent.parent
BASELINE = "ac504d1"
WORST = 0.8  # speed now, divided by speed of the baseline
# Seconds of `benchmarks.side` -> what they are of
FIGURES = {
    "training_cpu": "training",
    "batch_cpu": "recommending to all users",
    "single_cpu": "recommending to one user",
}


def unpack(commit: str, folder: Path) -> bool:
    """Write the files of a commit to `folder`. False if git does not have this commit, as in a
    shallow clone or a copy without git."""
    done = subprocess.run(
        ["git", "archive", commit, "*.py", "configs", "datasets"],
        cwd=ROOT,
        capture_output=True,
    )
    if done.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")
    return True


def measure(tree: Path, kind: str) -> dict[str, float]:
    """Figures of one process that runs the code in `tree`. Raises `UserError` if it dies."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ours", kind, "synthetic"],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"benchmarks.ours died in {tree}; its log ends: {done.stderr[-1000:]}"
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    return {name: figures[name] for name in FIGURES}


def speeds(
    before: list[dict[str, float]], now: list[dict[str, float]]
) -> dict[str, float]:
    """Figure -> speed now, divided by the speed before, of the best round of each."""
    ratios = {}
    for name in FIGURES:
        old = min(figures[name] for figures in before)
        ratios[name] = old / min(figures[name] for figures in now)
    return ratios


def main(argv: list[str]) -> None:
    """See the module's head. Raises `UserError` for a loss of a fifth."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--baseline", default=BASELINE, help="a commit")
    parser.add_argument("--rounds", type=whole(1, 100), default=3)
    parser.add_argument(
        "--model",
        default="enhanced",
        choices=("vanilla", "causal", "enhanced"),
    )
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if not unpack(flags.baseline, Path(folder)):
            print(f"git does not have commit {flags.baseline}: not measured")
            return
        before, now = [], []
        for _ in range(flags.rounds):
            before.append(measure(Path(folder), flags.model))
            now.append(measure(ROOT, flags.model))
    ratios = speeds(before, now)
    rows = [[FIGURES[name], f"{ratio:.2f}"] for name, ratio in ratios.items()]
    print_table(
        "Speed, relative to an earlier commit",
        f"{flags.model} on synthetic data, one thread; best of {flags.rounds} processes, in turns",
        ["", f"times as fast as {flags.baseline}"],
        rows,
    )
    slow = [FIGURES[name] for name, ratio in ratios.items() if ratio < WORST]
    if slow:
        raise UserError(
            f"slower than {flags.baseline} by a fifth or more: {', '.join(slow)}. If this is "
            f"intended, set BASELINE in benchmarks/guard.py and say why in benchmarks/LOG.md"
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
