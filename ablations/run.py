"""Run a study and end in a table: `python -m ablations.run fusion --seeds 42 43 --steps 1500 --jobs 2`.

Every run is a folder named by its settings, data and code: a finished one is never run twice, whichever study asks for
it, a stopped one goes on, a failing one is recorded and the others go on. Any flag of trainer.py may follow and holds
for all variants.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablations.report import write_report
from ablations.study import Study, load_study, run_key, with_places
from data_processor import load
from settings import Settings
from support.checkpoint import read_json
from support.errors import UserError, run_command
from trainer import train
from training_loop import Stopped


@dataclass
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    key: str
    folder: Path
    settings: Settings
    needs: Path | None  # the folder of the run whose model it follows

    @property
    def results(self) -> Path:
        """Written when all is done."""
        return self.folder / "best" / "results.json"

    @property
    def error(self) -> Path:
        """Written when the run failed."""
        return self.folder / "error.txt"


def plan(study: Study, seeds: list[int], work: Path) -> list[Run]:
    """All runs of a study, those that others follow first; runs alike stand there once."""
    hashes: dict[str, str] = {}
    runs: dict[tuple[str, int], Run] = {}
    for variant in study.variants:
        data = variant.settings.data
        if repr(data) not in hashes:
            hashes[repr(data)] = load(data).split_hash
        for seed in seeds:
            teacher = runs[variant.needs, seed] if variant.needs else None
            settings = variant.settings.replace(seed=seed)
            key = run_key(settings, hashes[repr(data)], teacher.key if teacher else "")
            folder = work / key
            path = str(teacher.folder / "best") if teacher else settings.train.teacher
            runs[variant.name, seed] = Run(variant.name, seed, key, folder, with_places(settings, folder, path),
                                           teacher.folder if teacher else None)
    return list(runs.values())


def execute(runs: list[Run], jobs: int) -> None:
    """Take the runs that are not finished, up to `jobs` at a time, each in a process with its share of the cores."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    context = multiprocessing.get_context("spawn")
    waiting = list({run.key: run for run in runs if not run.results.exists()}.values())
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already", flush=True)
    active: dict[multiprocessing.Process, Run] = {}
    try:
        while waiting or active:
            ready = [run for run in waiting if run.needs is None or (run.needs / "best" / "results.json").exists()]
            for run in ready[:jobs - len(active)]:
                waiting.remove(run)
                run.folder.mkdir(parents=True, exist_ok=True)
                process = context.Process(target=_work, args=(run, os.getpid()))
                process.start()
                active[process] = run
            if not active:
                for run in waiting:
                    run.error.write_text("the run that it follows has failed\n", encoding="utf-8")
                return
            time.sleep(0.2)
            for process in [process for process in active if not process.is_alive()]:
                _report_end(active.pop(process), len(waiting), len(active))
    except KeyboardInterrupt:
        print("\nstopping: the runs save where they stand; the same command goes on", file=sys.stderr)
        for process in active:
            process.join()
        raise


def _report_end(run: Run, waiting: int, active: int) -> None:
    if run.results.exists():
        results = read_json(run.results)
        said = f"validation NDCG@10 {results['best']['NDCG@10']:.4f}, {results['training_seconds']:.0f} s"
    else:
        said = run.error.read_text(encoding="utf-8").strip().splitlines()[-1] if run.error.exists() else "was killed"
    print(f"{time.strftime('%H:%M')}  {run.variant}, seed {run.seed}: {said}; {active} running, {waiting} waiting",
          flush=True)


def _work(run: Run, parent: int) -> None:
    """In a process of its own: train, its output in the run's log."""
    _die_with(parent)
    lock = (run.folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        run.error.write_text("another process is at this run\n", encoding="utf-8")
        return
    run.error.unlink(missing_ok=True)
    log = (run.folder / "log.txt").open("a", buffering=1, encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        train(run.settings, resume=(run.folder / "last" / "checkpoint.json").exists())
    except Stopped:
        run.error.write_text("stopped\n", encoding="utf-8")
    except UserError as error:
        run.error.write_text(f"{error}\n", encoding="utf-8")
    except Exception as error:
        traceback.print_exc()
        run.error.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")


def _die_with(parent: int) -> None:
    """Have Linux stop this process when its parent is killed; elsewhere it ends with its run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(0)


def failures(runs: Iterable[Run]) -> list[str]:
    """A line for each run without results."""
    return [f"{run.variant}, seed {run.seed}: " +
            (run.error.read_text(encoding="utf-8").strip() if run.error.exists() else "was killed")
            for run in runs if not run.results.exists()]


def main(argv: list[str]) -> int:
    """Exit code 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("study", help="a file of ablations/studies/, by name or path")
    parser.add_argument("--variants", nargs="+", help="only these, and those that they need (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--steps", type=int, default=0, help="of every run, instead of what the study says")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--work", type=Path, default=Path("runs/studies"), help="models and states of the runs")
    parser.add_argument("--results", type=Path, default=Path("results"))
    flags, rest = parser.parse_known_args(argv)
    if flags.jobs < 1:
        raise UserError("--jobs must be at least 1")
    study = load_study(flags.study, rest + (["--max_steps", str(flags.steps)] if flags.steps else []))
    if flags.variants:
        study = study.only(flags.variants)
    runs = plan(study, flags.seeds, flags.work)
    execute(runs, flags.jobs)
    write_report(study, {(run.variant, run.seed): run.folder for run in runs if run.results.exists()},
                 failures(runs), flags.results / study.name)
    return int(bool(failures(runs)))


if __name__ == "__main__":
    sys.exit(run_command(main))
