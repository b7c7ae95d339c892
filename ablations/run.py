"""Runs a study and writes its report.

    python -m ablations.run heads --seeds 2 --max_steps 1500 --jobs 2

Every run has a folder named by its settings, data and code. A finished run is never repeated, even
for another study; a stopped one continues; a failing one is recorded while the others continue. Any
flag of trainer.py may follow and holds for all variants. Two runs are equal to the last digit if
they had equally many threads: the same `--jobs` on as many cores.
"""

import contextlib
import functools
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from ablations.comparison import training_parser
from ablations.once import run_once
from ablations.report import write_report
from ablations.study import (
    ROOT,
    Study,
    code_version,
    data_hash,
    load_study,
    run_key,
)
from data_processor import load
from run_folder import read_results
from settings import Settings
from support.arguments import whole
from support.errors import UserError, require, run_command
from support.processes import die_with
from support.ray_cluster import cluster
from training_state import Stopped

LOG = "log.txt"  # what a run printed


@dataclass
class Run:
    """One variant with one seed. code: the version of the code, part of the folder's name."""

    variant: str
    code: str
    folder: Path
    settings: Settings

    @property
    def name(self) -> str:
        """Its name for people."""
        return self.settings.train.run_name

    @property
    def results(self) -> Path:
        """The file written at the end."""
        return self.folder / "best" / "results.json"

    @property
    def error(self) -> Path:
        """The file written if the run failed."""
        return self.folder / "error.txt"

    def fail(self, message: str) -> None:
        """Record why there are no results."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.error.write_text(message, encoding="utf-8")

    @property
    def failure(self) -> str:
        """What `fail` was given."""
        if self.error.exists():
            text = self.error.read_text(encoding="utf-8")
            return " ".join(text.split())
        return (
            "did not come to its end (killed, perhaps for want of memory); the same command goes "
            "on with it"
        )


def plan(study: Study, numbers: list[int], work: Path) -> list[Run]:
    """All runs of a study."""
    runs = []
    code = code_version()
    for variant in study.variants:
        data = _hash_of(variant.settings.data)
        for seed in numbers:
            settings = variant.settings.replace(
                seed=seed,
                run_group=study.name,
                run_name=f"{variant.name}, seed {seed}",
            )
            folder = work / run_key(settings, data, code)
            runs.append(Run(variant.name, code, folder, settings))
    return runs


@functools.cache
def _hash_of(settings):
    return data_hash(load(settings))


def run_here(runs: list[Run], jobs: int) -> Iterator[Run]:
    """Up to `jobs` runs at a time, each in a process with its share of the cores; yields those
    that have ended."""
    cores = max(1, (os.cpu_count() or 1) // jobs)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    context = multiprocessing.get_context("spawn")

    def work(run: Run) -> Run:
        # A daemon: Ctrl-C terminates it, and it saves where it stands.
        process = context.Process(
            target=_work, args=(run, os.getpid()), daemon=True
        )
        process.start()
        process.join()
        return run

    with ThreadPool(jobs) as pool:
        yield from pool.imap_unordered(work, runs)


def run_on_ray(runs: list[Run], address: str, jobs: int) -> Iterator[Run]:
    """The same on a Ray cluster whose machines share the work folder. Each run is a task, which Ray
    gives to another worker if its own dies. address: 'auto' or host:port; 'local' starts one of
    `jobs` workers here."""
    with cluster(address, jobs) as ray:
        yield from _on_cluster(ray, runs)


def _on_cluster(ray, runs):
    # A new process a run: the peak memory of a process would be that of its largest run so far.
    # a run takes one where there are any
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3, max_calls=1)(
        _on_ray
    )
    pending = {task.remote(run, str(ROOT)): run for run in runs}
    while pending:
        (reference,), _ = ray.wait(list(pending), num_returns=1)
        run = pending.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            reason = str(error)[-200:]
            run.fail(f"its Ray task failed ({reason}); start the study again")
        yield run


def _on_ray(run, root):
    """In a Ray worker, which may take several runs one after the other."""
    os.chdir(root)
    _train(run)


def _work(run, parent):
    """In a process of its own."""
    die_with(parent)
    _train(run)


def _train(run):
    """Train with output in the run's log; a failure is recorded."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.error.unlink(missing_ok=True)
    if code_version() != run.code:
        run.fail("the code has changed since the study began; start it again")
        return
    with (
        (run.folder / LOG).open("a", buffering=1, encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            run_once(run.settings, run.folder)
        except Stopped:
            run.fail("was stopped; the same command goes on with it")
        except UserError as error:
            run.fail(str(error))
        except Exception as error:
            traceback.print_exc()
            place = f"{LOG} of run {run.folder.name}"
            run.fail(f"{type(error).__name__}: {error}; see {place}")


def _report_end(run):
    result = run.failure
    if run.results.exists():
        record = read_results(run.results.parent)
        score, seconds = record["best"]["NDCG@10"], record["training_seconds"]
        result = f"validation NDCG@10 {score:.4f}, {seconds:.0f} s"
    print(f"{time.strftime('%H:%M')}  {run.name}: {result}", flush=True)
    log = run.folder / LOG
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    # of W&B out of reach, say
    warnings = re.findall(r"^warning: .*", text, re.MULTILINE)
    for warning in dict.fromkeys(warnings):
        print(f"       {warning}", flush=True)


def _parser():
    parser = training_parser(__doc__, "studies", "2")
    parser.set_defaults(results=Path("runs/results"))
    add = parser.add_argument
    add("study", help="a file of ablations/studies/, by name or path")
    add(
        "--jobs",
        type=whole(1, 1000),
        default=1,
        help="runs at once; cores are shared",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="spread the runs over a Ray cluster: auto or host:port, or local for one of "
        "--jobs workers here",
    )
    return parser


def main(argv: list[str]) -> int:
    """Exit code 1 if a run failed."""
    flags, rest = _parser().parse_known_args(argv)
    require(
        flags.ray in (None, "local") or flags.jobs == 1,
        "--jobs shares the cores of this machine; a Ray cluster shares its own: drop one of the "
        "flags",
    )
    seed = any(token.partition("=")[0] == "--seed" for token in rest)
    require(not seed, "seeds are given by --seeds")
    study = load_study(flags.study, rest)
    flags.work.mkdir(parents=True, exist_ok=True)
    runs = plan(study, flags.seeds, flags.work)
    waiting = [run for run in runs if not run.results.exists()]
    print(f"{len(waiting)} of {len(runs)} runs are to be done", flush=True)
    if flags.ray:
        ended = run_on_ray(waiting, flags.ray, flags.jobs)
    else:
        ended = run_here(waiting, flags.jobs)
    try:
        for run in ended:
            _report_end(run)
    except KeyboardInterrupt:
        message = "stopped; the runs saved where they stood: the same command goes on"
        raise KeyboardInterrupt(message) from None
    failed, folders = [], {}
    for run in runs:
        if run.results.exists():
            folders[run.variant, run.settings.train.seed] = run.folder
        else:
            failed.append(f"{run.name}: {run.failure}")
    write_report(study, folders, failed, rest, flags.results)
    print(f"the report: {flags.results / study.name / 'index.html'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(run_command(main))
