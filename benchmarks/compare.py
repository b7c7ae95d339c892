"""This project against RecTools on one machine: seconds an epoch, memory, users a second, latency.

    python -m benchmarks.compare --peers .venv-peers/bin/python       (or: make bench)

MovieLens 1M, leave-one-out training part; equal width, inner width, depth, heads, length, sequences
and optimizer steps an epoch, share of masked positions, dropout (on embeddings and outputs of
sub-layers; further dropout of the peers is set to 0) and loss (full softmax over the catalogue);
each side at its own default precision. In each round every model has its own process, one after the
other, so a machine that grows slower slows all of them. A process trains the first epoch, then
recommends with data and model in memory. Figures are medians over rounds.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.ours import SHARED, training_part
from benchmarks.side import USERS
from data_processor import load
from settings import DataSettings
from support.arguments import ArgumentParser, whole
from support.errors import UserError, run_command
from support.files import write_json
from support.tables import print_table
from support.tracking import git_commit

PAIRS = {
    "vanilla": "BERT4RecModel",
    "causal": "SASRecModel",
    "enhanced": "HSTUModel",
}
ROOT = Path(__file__).parent.parent
# Title of a column -> figure, how it is shown
COLUMNS = {
    "type": ("precision", "{}"),
    "s/epoch": ("seconds", "{:.1f}"),
    "as fast": ("training_ratio", "{:.1f}x"),
    "MB": ("peak_mb", "{:,.0f}"),
    "users/s": ("users_per_second", "{:,.0f}"),
    "as fast as it": ("users_ratio", "{:.1f}x"),
    "p50 ms": ("p50_ms", "{:.1f}"),
    "p99 ms": ("p99_ms", "{:.1f}"),
}
PROTOCOL = (
    "{dataset} leave-one-out training part; {hidden_size} wide, {num_layers} blocks, "
    "{num_heads} heads, length {seq_length}, {batch_size} sequences a step, inner width 4 x "
    "(causal: 1 x), full softmax, dropout {dropout}; median of the first epochs of {rounds} "
    "processes in turns; "
    "{threads} threads"
)
Figures = dict[str, dict[str, Any]]  # model -> figures


def measure(
    peers: str | None,
    dataset: str,
    kinds: list[str],
    rounds: int,
    folder: Path,
) -> Figures:
    """All figures. Raises `UserError` if a process dies."""
    train = training_part(load(DataSettings(dataset=dataset)), folder)
    commands = {}
    for kind in kinds:
        own = [sys.executable, "-m", "benchmarks.ours", kind, dataset]
        commands[f"ours {kind}"] = own
        if peers:
            peer = [peers, "-m", "benchmarks.peers", PAIRS[kind], str(train)]
            commands[f"RecTools {PAIRS[kind]}"] = peer
    runs = []
    for name, command in [*commands.items()] * rounds:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode:
            raise UserError(
                f"{name} died; its log ends: {done.stderr[-1000:]}"
            )
        figures = json.loads(done.stdout.splitlines()[-1])
        runs.append({"model": name, **figures})
        print(f"{name}: {figures['seconds']:.1f} s", file=sys.stderr)
    groups = pd.DataFrame(runs).groupby(["model", "precision"], sort=False)
    table = groups.median().reset_index("precision")
    if table["steps"].nunique() > 1:
        raise UserError(f"optimizer steps differ: {table['steps'].to_dict()}")
    # How many times as fast as its peer each of ours trains and recommends.
    seconds, speed = table["seconds"], table["users_per_second"]
    for kind, peer in PAIRS.items():
        ours, theirs = f"ours {kind}", f"RecTools {peer}"
        if ours in table.index and theirs in table.index:
            ratio = seconds[theirs] / seconds[ours]
            table.loc[ours, "training_ratio"] = ratio
            table.loc[ours, "users_ratio"] = speed[ours] / speed[theirs]
    return {name: row.dropna().to_dict() for name, row in table.iterrows()}


def _parser():
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--peers",
        help="python of the environment with benchmarks/requirements-peers.txt",
    )
    add("--dataset", default="ml-1m", choices=("ml-1m", "synthetic"))
    add("--models", nargs="+", choices=PAIRS, default=list(PAIRS))
    add("--rounds", type=whole(1, 100), default=3)
    add("--output", type=Path, default=Path("benchmarks/results/compare.json"))
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags = _parser().parse_args(argv)
    if flags.peers and not Path(flags.peers).exists():
        raise UserError(
            f"--peers {flags.peers}: no such file; `make bench` builds that environment"
        )
    with tempfile.TemporaryDirectory() as folder:
        results = measure(
            flags.peers,
            flags.dataset,
            flags.models,
            flags.rounds,
            Path(folder),
        )
    threads = "/".join(
        sorted({f"{result['threads']:.0f}" for result in results.values()})
    )
    protocol = PROTOCOL.format(
        **SHARED,
        dataset=flags.dataset.upper(),
        rounds=flags.rounds,
        threads=threads,
    )
    rows = []
    for name, result in results.items():
        cells = [name]
        for figure, shown in COLUMNS.values():
            cells.append(
                shown.format(result[figure]) if figure in result else ""
            )
        rows.append(cells)
    title = "Training an epoch, recommending, answering"
    print_table(title, protocol, ["model", *COLUMNS], rows)
    record = {
        "protocol": protocol,
        "users": USERS,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_commit(),
        "results": results,
    }
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(flags.output, record)
    print(json.dumps(record))


if __name__ == "__main__":
    sys.exit(run_command(main))
