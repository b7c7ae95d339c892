"""How time and memory grow with the catalogue, the people and the length of histories.

    python -m benchmarks.growth        (or: make bench)

Synthetic histories (items drawn by a power law, lengths as stated), our causal model, 128 wide, 2
blocks, 2 heads, default precision, a process of its own for each point. Seconds a step are the
median of `--steps` after two warm-up steps, seconds to start what passes before the first step.
Ends in a plot and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import MODELS, SHARED
from benchmarks.serve import claim_stdout
from evaluation.report import print_table
from support.checkpoint import write_json
from support.devices import peak_memory_mb
from support.errors import UserError, run_command
from support.tracking import git_commit

BASE = {
    "items": 4_000,
    "people": 10_000,
    "length": 50,
    "sequences": 128,
    "loss": "softmax",
}
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "items": [
        {"items": items, "loss": loss}
        for loss in ("softmax", "sampled_softmax")
        for items in (4_000, 40_000, 400_000)
    ],
    "people": [{"people": people} for people in (10_000, 100_000, 1_000_000)],
    "length": [
        {"length": length, "sequences": 32} for length in (50, 100, 200, 400, 800)
    ],
}
PROTOCOL = (
    "synthetic histories, causal model 128 wide, 2 blocks, 2 heads, 4,000 items, 10,000 people, length 50, 128 "
    "sequences a step (32 in the sweep of length), 512 negatives, unless a column says otherwise"
)


def point(
    items: int, people: int, length: int, sequences: int, loss: str, steps: int
) -> dict[str, Any]:
    """Time and memory of one setting, measured in this process."""
    import torch

    from data_processor import from_sequences
    from model_io import new_model
    from settings import Settings
    from support.tracking import Tracker
    from training_loop import Run, seed_everything

    draw = np.random.default_rng(0)
    # Power law over the catalogue; everybody fills the window, held-out interactions beside it.
    catalogue = np.minimum(
        items,
        np.ceil(draw.pareto(1.0, (people, length + 3)) * items / 50).astype(np.int64)
        + 1,
    )
    began = time.perf_counter()
    data = from_sequences(catalogue, items)
    settings = Settings().replace(
        **SHARED
        | MODELS["causal"]
        | dict(seq_length=length, batch_size=sequences, loss=loss, max_epochs=1)
    )
    seed_everything(0)
    model = new_model(data, settings.model)
    run = Run(model, data, settings, False, None, Tracker(None, {}), None, True)
    model.train()
    batches, seconds, tokens = run.batches.epoch(0), [], 0
    first = next(batches)
    started = time.perf_counter() - began
    for number, batch in enumerate([first, *(next(batches) for _ in range(steps + 1))]):
        began = time.perf_counter()
        run.train_step(batch)
        run.progress.step_in_epoch += 1
        if number >= 2:
            seconds.append(time.perf_counter() - began)
            tokens += batch.tokens
    return {
        "items": items,
        "people": people,
        "length": length,
        "sequences": sequences,
        "loss": loss,
        "seconds_to_start": started,
        "seconds_per_step": statistics.median(seconds),
        "tokens_per_second": tokens / sum(seconds),
        "peak_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
    }


def plot(points: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time and memory over each sweep, as SVG and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2,
        len(points),
        figsize=(4 * len(points), 6),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    labels = {
        "items": "items in the catalogue",
        "people": "people",
        "length": "length of histories",
    }
    for column, (sweep, rows) in enumerate(points.items()):
        for loss, marker in (("softmax", "o-"), ("sampled_softmax", "s--")):
            chosen = [row for row in rows if row["loss"] == loss]
            for line, figures in enumerate(
                (("seconds_per_step", 1.0), ("peak_mb", 1e-3))
            ):
                if chosen:
                    axes[line, column].loglog(
                        [row[sweep] for row in chosen],
                        [row[figures[0]] * figures[1] for row in chosen],
                        marker,
                        label="full softmax" if loss == "softmax" else "512 samples",
                    )
        values = sorted({row[sweep] for row in rows})
        axes[1, column].set_xticks(values, [f"{value:,}" for value in values])
        axes[1, column].set_xlabel(labels[sweep])
        for line in (0, 1):
            axes[line, column].minorticks_off()
            axes[line, column].grid(True, alpha=0.3)
            axes[line, column].yaxis.set_major_formatter("{x:g}")
    axes[1, 0].set_yscale("linear")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("peak memory, GB")
    axes[0, 0].legend()
    for suffix in (".svg", ".png"):
        figure.savefig(path.with_suffix(suffix), dpi=110)
    pyplot.close(figure)


def main(argv: list[str]) -> int:
    """See the module's head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of every size, for a quick look"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/growth.json")
    )
    parser.add_argument("--point", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.point:
        answers = claim_stdout()
        print(
            json.dumps(point(**json.loads(flags.point), steps=flags.steps)),
            file=answers,
        )
        return 0
    if (
        flags.scale != 1.0 or len(flags.sweeps) < len(SWEEPS)
    ) and flags.output == parser.get_default("output"):
        raise UserError(
            f"--scale and --sweeps measure a part only: give --output, so that {flags.output} stays whole"
        )
    points: dict[str, list[dict[str, Any]]] = {}
    # the base point belongs to several sweeps and is measured once
    measured: dict[str, dict[str, Any]] = {}
    for sweep in flags.sweeps:
        for change in SWEEPS[sweep]:
            sizes = BASE | change
            sizes |= {
                name: max(8, int(size * flags.scale))
                for name, size in sizes.items()
                if name != "loss"
            }
            key = json.dumps(sizes)
            if key not in measured:
                done = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks.growth",
                        "--steps",
                        str(flags.steps),
                        "--point",
                        key,
                    ],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                measured[key] = json.loads(done.stdout)
            points.setdefault(sweep, []).append(measured[key])
            print(
                f"{sweep} {change}: {points[sweep][-1]['seconds_per_step']:.3f} s a step",
                file=sys.stderr,
            )
    rows = [
        [
            sweep,
            f"{row['items']:,}",
            f"{row['people']:,}",
            str(row["length"]),
            row["loss"],
            f"{row['seconds_per_step']:.3f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['peak_mb']:,}",
            f"{row['seconds_to_start']:.1f}",
        ]
        for sweep, found in points.items()
        for row in found
    ]
    threads = next(iter(points.values()))[0]["threads"]
    protocol = f"{PROTOCOL}; {threads} threads" + (
        f"; every size times {flags.scale:g}" if flags.scale != 1 else ""
    )
    print_table(
        "Growth",
        protocol,
        [
            "sweep",
            "items",
            "people",
            "length",
            "loss",
            "s/step",
            "tokens/s",
            "peak MB",
            "s to start",
        ],
        rows,
    )
    record = {
        "protocol": protocol,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_commit(),
        "threads": threads,
        "points": points,
    }
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    plot(points, flags.output)
    write_json(flags.output, record)
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
