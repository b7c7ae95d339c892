"""Ours against RecTools, in turns on one machine: seconds an epoch, memory, users a second,
latency.

    python -m benchmarks.compare --peers .venv-peers/bin/python       (or: make bench)

MovieLens 1M, leave-one-out training part; equal width, inner width, depth, heads, length,
sequences and optimizer steps an epoch, share of masked positions, dropout (on embeddings and
sub-layers' outputs; where the peers have more, it is set to 0) and loss (full softmax over the
catalogue); each side at its own default precision. One process a model; each round lets every one
of them train one epoch in turn, so that a machine that grows slower slows all of them. Nobody is
warmed up: with three rounds the median passes over the first epoch's costs. Ours in fp32 runs in
the first round only, for information. For batch recommendation and single requests every side has
its data and model in memory. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import MODELS, SHARED, USERS, training_part
from benchmarks.serve import Worker
from data_processor import load
from dataset import Dataset
from evaluation.report import print_table
from settings import DataSettings
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

PAIRS = {"vanilla": "BERT4RecModel", "causal": "SASRecModel", "enhanced": "HSTUModel"}
PROTOCOL = (
    "ML-1M leave-one-out training part; {hidden_size} wide, {num_layers} blocks, {num_heads} heads, length "
    "{seq_length}, {batch_size} sequences a step, inner width 4 x (causal: 1 x), full softmax, dropout "
    "{dropout}; median of {rounds} epochs taken in turns; {threads} threads"
)


def epoch_flops(kind: str, data: Dataset) -> float:
    """Floating-point operations of the matrix products that an epoch needs, forward and backward,
    on real positions.

    Per position and block 8 D^2 forward for the maps of attention and 4 m D^2 for the
    position-wise network m times as wide, 4 L D for attention (half of it where it is causal);
    for each predicted position 2 D V for the logits; three times that with the backward pass.
    What the enhanced model has beyond its blocks is not counted, nor is padding.
    """
    width, blocks, most = (
        SHARED["hidden_size"],
        SHARED["num_layers"],
        SHARED["seq_length"],
    )
    causal = kind != "vanilla"
    history = np.diff(data.offsets)[1:] - 2 - causal  # inputs of the training part
    lengths = np.minimum(history, most).astype(float)
    tokens, pairs = lengths.sum(), (lengths**2).sum() / (2 if causal else 1)
    cloze = {
        "vanilla": 1.0,
        "causal": 0.0,
        "enhanced": MODELS["enhanced"]["masked_batch_share"],
    }[kind]
    targets = tokens * (1 - cloze + cloze * SHARED["mask_prob"])
    maps = 8 + 4 * MODELS[kind].get("ffn_multiplier", 4)
    logits = 2 * width * len(data.catalogue.items.ids)
    return 3 * (
        blocks * (maps * width**2 * tokens + 4 * width * pairs) + targets * logits
    )


def measure(
    peers: str | None, dataset: str, kinds: list[str], rounds: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Every figure of every model, by its name."""
    data = load(DataSettings(dataset=dataset))
    train = str(training_part(data, folder))
    workers: dict[str, Worker] = {}

    def start(name: str, python: str, *arguments: str) -> None:
        workers[name] = Worker(
            python, list(arguments), folder / f"{name.replace(' ', '_')}.log"
        )

    for kind in kinds:
        start(f"ours {kind}", sys.executable, "benchmarks.ours", kind, "auto", dataset)
        start(
            f"ours {kind} fp32",
            sys.executable,
            "benchmarks.ours",
            kind,
            "fp32",
            dataset,
        )
        if peers:
            start(
                f"RecTools {PAIRS[kind]}", peers, "benchmarks.peers", PAIRS[kind], train
            )
    results: dict[str, dict[str, Any]] = {
        name: {"epochs": [], "recommend": []} for name in workers
    }
    try:
        # from here on they wait: only the one that is asked runs
        for worker in workers.values():
            worker.ask("ready")
        peaks = next(iter(workers.values())).ask("peak")
        for number in range(rounds):
            for name, worker in workers.items():
                # beside the others for information: once
                if number and name.endswith("fp32"):
                    continue
                answer = worker.ask("epoch")
                results[name]["epochs"].append(answer["seconds"])
                results[name] |= {
                    "training_peak_mb": answer["peak_mb"],
                    **{key: answer[key] for key in ("steps", "precision", "threads")},
                }
                print(
                    f"round {number + 1}: {name} {answer['seconds']:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
        for worker in workers.values():
            worker.ask("prepare")
            worker.ask("recommend")
        for _ in range(3):
            for name, worker in workers.items():
                answer = worker.ask("recommend")
                assert answer["rows"] == answer["users"] * 10
                results[name]["recommend"].append(answer["users"] / answer["seconds"])
        for name, worker in workers.items():
            results[name] |= worker.ask("latency")
    finally:
        for worker in workers.values():
            worker.close()
    if len({result["steps"] for result in results.values()}) > 1:
        raise RuntimeError(
            f"optimizer steps an epoch differ: { ({n: r['steps'] for n, r in results.items()}) }"
        )
    for name, result in results.items():
        summarise(name, result, data, peaks)
    return results


def summarise(
    name: str, result: dict[str, Any], data: Dataset, peaks: dict[str, float]
) -> None:
    """Add medians, throughput and the share of the peak to one model's figures."""
    kind = next(
        kind for kind, peer in PAIRS.items() if kind in name.split() or peer in name
    )
    history = np.minimum(
        np.diff(data.offsets)[1:] - 2 - (kind != "vanilla"), SHARED["seq_length"]
    )
    seconds = statistics.median(result["epochs"])
    result |= {
        "kind": kind,
        "seconds": seconds,
        "tokens_per_second": history.sum() / seconds,
        "users_per_second": statistics.median(result["recommend"]),
        "peak_share": None
        if "HSTU" in name
        else epoch_flops(kind, data) / seconds / peaks[result["precision"]],
    }


def ratio(results: dict[str, dict[str, Any]], name: str, figure: str) -> float | None:
    """How many times as fast as its peer; None without one."""
    peer = results.get(f"RecTools {PAIRS[results[name]['kind']]}")
    if peer is None or name.startswith("RecTools"):
        return None
    return (
        peer["seconds"] / results[name]["seconds"]
        if figure == "seconds"
        else results[name][figure] / peer[figure]
    )


def report(results: dict[str, dict[str, Any]], protocol: str) -> None:
    """The table."""

    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}x"

    rows = []
    for name, result in results.items():
        share = result["peak_share"]
        rows.append(
            [
                name,
                result["precision"],
                f"{result['seconds']:.1f}",
                times(ratio(results, name, "seconds")),
                f"{result['tokens_per_second']:,.0f}",
                f"{result['training_peak_mb']:,}",
                "" if share is None else f"{share:.0%}",
                f"{result['users_per_second']:,.0f}",
                times(ratio(results, name, "users_per_second")),
                f"{result['p50_ms']:.1f}",
                f"{result['p99_ms']:.1f}",
            ]
        )
    print_table(
        "Training an epoch, recommending, answering",
        protocol,
        [
            "model",
            "type",
            "s/epoch",
            "ratio",
            "tokens/s",
            "MB",
            "of peak",
            "users/s",
            "ratio",
            "p50 ms",
            "p99 ms",
        ],
        rows,
    )


def main(argv: list[str]) -> int:
    """See the module's head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        help="python of the environment with benchmarks/requirements-peers.txt",
    )
    parser.add_argument("--dataset", default="ml-1m", choices=("ml-1m", "synthetic"))
    parser.add_argument("--models", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/compare.json")
    )
    flags = parser.parse_args(argv)
    if flags.peers and not Path(flags.peers).exists():
        raise UserError(
            f"--peers {flags.peers}: no such file; `make bench` builds that environment"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = measure(
                flags.peers, flags.dataset, flags.models, flags.rounds, Path(folder)
            )
        except RuntimeError as error:  # a worker died; nothing was written
            raise UserError(str(error)) from error
    threads = "/".join(sorted({str(result["threads"]) for result in results.values()}))
    protocol = PROTOCOL.format(**SHARED, rounds=flags.rounds, threads=threads).replace(
        "ML-1M", flags.dataset.upper()
    )
    report(results, protocol)
    record = {
        "protocol": protocol,
        "users": USERS,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": platform.processor() or platform.machine(),
        "commit": git_commit(),
        "results": results,
        "speed_up": {
            name: {
                figure: ratio(results, name, figure)
                for figure in ("seconds", "users_per_second")
            }
            for name in results
            if name.startswith("ours")
        },
    }
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(flags.output, record)
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
