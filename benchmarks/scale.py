"""How time and memory grow with the data: `python -m benchmarks.scale --rows 1e6,1e7,1e8`.

For each size a log is made (logs.py) and built. One process and then two train on it for STEPS
steps. A list is written for every user. Memory is the largest that one process had of its own, so
without the pages of files that it maps. One core a process. Run it on an idle machine.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.logs import write_log
from run_folder import newest_run
from support.arguments import ArgumentParser
from support.checkpoint import read_json
from support.errors import UserError, run_command
from support.files import write_json
from support.tables import print_table

STEPS = 300
EVERY = 0.2  # seconds between two looks at the memory
MODEL = "--preset quick --no_user_ids --no_transitions --precision fp32 --max_minutes 0 "
MODEL += "--loss sampled_softmax"
LISTED = "--users all --k 10 --precision fp32"


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    peak_mb: int  # of the largest process


def run(command: list[str], log: Path) -> Cost:
    """Run a command of this project; what it prints goes to a file. Raises `UserError` if it
    fails."""
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peak, done = [0], threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watch.start()
        code = process.wait()
        done.set()
        watch.join()
    if code:
        raise UserError(f"{' '.join(command)} failed; see {log}")
    return Cost(time.monotonic() - start, peak[0])


def _watch(process, peak, done):
    while not done.wait(EVERY):
        for one in _family(process):
            peak[0] = max(peak[0], _own_memory(one))


def _family(process):
    """A process and all that came from it."""
    yield process
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = " ".join((task / "children").read_text() for task in tasks)
    except OSError:  # it has ended
        return
    for child in children.split():
        yield from _family(int(child))


def _own_memory(process):
    """MB that are no pages of files."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else 0


def measure(rows: int, items: int, work: Path) -> dict[str, Any]:
    """Figures of one size. What a former call left in `work` is used again."""
    place = work / f"{rows}-{items}"
    log, built = place / "log", place / "built"
    if not log.exists():
        write_log(log, rows, items)
    figures: dict[str, Any] = {}
    if not (built / "manifest.json").exists():
        build = ["data_processor.py", "--dataset", f"{log}/*.parquet"]
        cost = run([*build, "--build", str(built)], place / "build.txt")
        write_json(place / "build.json", vars(cost))
    manifest = read_json(built / "manifest.json")
    figures |= {name: manifest[name] for name in ("interactions", "users", "items")}
    figures["build"] = read_json(place / "build.json")
    for processes in (1, 2):
        figures[f"train {processes}"] = _train(built, place, processes)
    model = newest_run(place / "train-1") / "best"
    score = ["inference.py", "--model_path", str(model), *LISTED.split()]
    lists = place / f"lists-{time.time():.0f}"
    cost = run([*score, "--output", f"{lists}/"], place / "score.txt")
    figures["score"] = vars(cost)
    return figures


def _train(built, place, processes):
    """Seconds and interactions of the steps alone, and memory of all."""
    folder = place / f"train-{processes}"
    command = ["trainer.py", *MODEL.split(), "--dataset", str(built)]
    command += ["--max_steps", str(STEPS), "--checkpoint_dir", str(folder)]
    command += ["--runs_dir", str(folder / "runs")]
    if processes > 1:
        several = f"-m torch.distributed.run --standalone --nproc_per_node {processes}"
        command = [*several.split(), *command]
    cost = run(command, place / f"train-{processes}.txt")
    results = read_json(newest_run(folder) / "best" / "results.json")
    best = results["best"]
    return {
        "interactions": best["tokens"],
        "seconds": best["step_seconds"],
        "peak_mb": cost.peak_mb,
        "validation": best["NDCG@10"],
    }


def show(found: list[dict[str, Any]]) -> None:
    """Print the table."""
    rows = []
    for figures in found:
        speed = [
            figures[name]["interactions"] / figures[name]["seconds"]
            for name in ("train 1", "train 2")
        ]
        build, score = figures["build"], figures["score"]
        rows.append(
            [
                f"{figures['interactions']:,}",
                f"{figures['users']:,}",
                f"{figures['items']:,}",
                f"{figures['interactions'] / build['seconds']:,.0f}",
                f"{build['peak_mb']:,}",
                *(f"{each:,.0f}" for each in speed),
                f"{speed[1] / speed[0] / 2:.2f}",
                f"{figures['train 1']['peak_mb']:,}",
                f"{figures['users'] / score['seconds']:,.0f}",
                f"{score['peak_mb']:,}",
            ]
        )
    header = ["rows", "users", "items", "rows built a second", "MB"]
    header += ["trained a second, 1 process", "2", "efficiency", "MB"]
    header += ["users listed a second", "MB"]
    print_table(
        "Growth",
        f"{STEPS} steps of {MODEL}; MB: own memory of the largest process",
        header,
        rows,
    )


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--rows", default="1e6,1e7,1e8", help="sizes, as in 1e6,1e7")
    add("--items", default="1e5", help="sizes of the catalogue")
    add("--work", type=Path, default=Path("runs/scale"))
    add("--output", type=Path, default=Path("runs/scale.json"))
    flags = parser.parse_args(argv)
    found = []
    for rows in map(float, flags.rows.split(",")):
        for items in map(float, flags.items.split(",")):
            figures = measure(int(rows), int(items), flags.work)
            print(json.dumps(figures), flush=True)
            found.append(figures)
            write_json(flags.output, {"steps": STEPS, "sizes": found})
    show(found)


if __name__ == "__main__":
    sys.exit(run_command(main))
