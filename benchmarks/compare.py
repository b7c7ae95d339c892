"""Ours against RecTools, in turns on one machine: seconds an epoch, memory, users a second,
latency.

    python -m benchmarks.compare --peers .venv-peers/bin/python       (or: make bench)

MovieLens 1M, leave-one-out training part; equal width, inner width, depth, heads, length,
sequences and optimizer steps an epoch, share of masked positions, dropout (on embeddings and
sub-layers' outputs; where the peers have more, it is set to 0) and loss (full softmax over the
catalogue); each side at its own default precision. One process a model; each round lets every one
of them train one epoch in turn, so that a machine that grows slower slows all of them. Nobody is
warmed up: with three rounds the median passes over the first epoch's costs. For batch
recommendation and single requests every side has its data and model in memory. Ends in one JSON
line.
"""

import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.ours import SHARED, training_part
from benchmarks.serve import USERS, Worker
from data_processor import load
from settings import DataSettings
from support.arguments import ArgumentParser
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tables import print_table
from support.tracking import git_commit

PAIRS = {"vanilla": "BERT4RecModel", "causal": "SASRecModel", "enhanced": "HSTUModel"}
HEADER = [
    "model",
    "type",
    "s/epoch",
    "ratio",
    "MB",
    "users/s",
    "ratio",
    "p50 ms",
    "p99 ms",
]
ASKED = 3  # times that batch recommendation is timed
PROTOCOL = (
    "{dataset} leave-one-out training part; {hidden_size} wide, {num_layers} blocks, "
    "{num_heads} heads, length {seq_length}, {batch_size} sequences a step, inner width 4 x "
    "(causal: 1 x), full softmax, dropout {dropout}; median of {rounds} epochs taken in turns; "
    "{threads} threads"
)
Figures = dict[str, dict[str, Any]]  # model -> figures


def start(
    peers: str | None, dataset: str, kinds: list[str], folder: Path
) -> dict[str, Worker]:
    """A process for each model, ours first."""
    train = training_part(load(DataSettings(dataset=dataset)), folder)
    workers = {}
    for kind in kinds:
        ours, theirs = f"ours {kind}", f"RecTools {PAIRS[kind]}"
        log = folder / f"{kind}.log"
        workers[ours] = Worker(sys.executable, ["benchmarks.ours", kind, dataset], log)
        if peers:
            log = folder / f"{PAIRS[kind]}.log"
            arguments = ["benchmarks.peers", PAIRS[kind], str(train)]
            workers[theirs] = Worker(peers, arguments, log)
    return workers


def measure(workers: dict[str, Worker], rounds: int) -> Figures:
    """All figures. Raises `RuntimeError` if a worker dies."""
    epochs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    speeds: dict[str, list[float]] = {name: [] for name in workers}
    # From here on all wait, and only the one that is asked runs.
    for worker in workers.values():
        worker.ask("ready")
    for number in range(rounds):
        for name, worker in workers.items():
            epochs[name].append(worker.ask("epoch"))
            seconds = epochs[name][-1]["seconds"]
            print(
                f"round {number + 1}: {name} {seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    for worker in workers.values():
        worker.ask("prepare")
        worker.ask("recommend")
    for _ in range(ASKED):
        for name, worker in workers.items():
            answer = worker.ask("recommend")
            if answer["rows"] != answer["users"] * 10:
                raise RuntimeError(f"{name} gave {answer['rows']} rows")
            speeds[name].append(answer["users"] / answer["seconds"])
    results = {}
    for name, worker in workers.items():
        seconds = statistics.median(one["seconds"] for one in epochs[name])
        speed = statistics.median(speeds[name])
        measured = {**epochs[name][-1], "seconds": seconds, "users_per_second": speed}
        results[name] = {**measured, **worker.ask("latency")}
    steps = {name: result["steps"] for name, result in results.items()}
    if len(set(steps.values())) > 1:
        raise RuntimeError(f"optimizer steps an epoch differ: {steps}")
    return results


def add_ratios(results: Figures) -> None:
    """How many times as fast as its peer each of ours trains and recommends."""
    for kind, peer in PAIRS.items():
        ours, theirs = results.get(f"ours {kind}"), results.get(f"RecTools {peer}")
        if ours and theirs:
            ours["training_ratio"] = theirs["seconds"] / ours["seconds"]
            ours["users_ratio"] = ours["users_per_second"] / theirs["users_per_second"]


def row(name: str, result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    ratios = [result.get("training_ratio"), result.get("users_ratio")]
    training, users = ("" if ratio is None else f"{ratio:.1f}x" for ratio in ratios)
    return [
        name,
        result["precision"],
        f"{result['seconds']:.1f}",
        training,
        f"{result['peak_mb']:,}",
        f"{result['users_per_second']:,.0f}",
        users,
        f"{result['p50_ms']:.1f}",
        f"{result['p99_ms']:.1f}",
    ]


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--peers",
        help="python of the environment with benchmarks/requirements-peers.txt",
    )
    add("--dataset", default="ml-1m", choices=("ml-1m", "synthetic"))
    add("--models", nargs="+", choices=PAIRS, default=list(PAIRS))
    add("--rounds", type=int, default=3)
    add("--output", type=Path, default=Path("benchmarks/results/compare.json"))
    flags = parser.parse_args(argv)
    if flags.peers and not Path(flags.peers).exists():
        raise UserError(
            f"--peers {flags.peers}: no such file; `make bench` builds that environment"
        )
    with tempfile.TemporaryDirectory() as folder:
        workers = start(flags.peers, flags.dataset, flags.models, Path(folder))
        try:
            results = measure(workers, flags.rounds)
        except RuntimeError as error:  # nothing was written
            raise UserError(str(error)) from error
        finally:
            for worker in workers.values():
                worker.close()
    add_ratios(results)
    threads = "/".join(sorted({str(result["threads"]) for result in results.values()}))
    protocol = PROTOCOL.format(
        **SHARED, dataset=flags.dataset.upper(), rounds=flags.rounds, threads=threads
    )
    rows = [row(name, result) for name, result in results.items()]
    print_table("Training an epoch, recommending, answering", protocol, HEADER, rows)
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
