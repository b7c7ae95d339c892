"""Run a study and end in a report: `python -m ablations.run heads --seeds 2 --steps 1500 --jobs 2`.

Every run is a folder named by its settings, data and code: a finished one is never run twice,
whichever study asks for it, a stopped one goes on, a failing one is recorded and the others go
on. Any flag of trainer.py may follow and holds for all variants. Two runs are equal to the last
digit where each had as many threads: `--jobs` on as many cores.
"""

import contextlib
import multiprocessing
import os
import re
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

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
from settings import Settings
from support.arguments import ArgumentParser, seeds
from support.checkpoint import read_json, settled
from support.errors import UserError, run_command
from support.processes import alone, die_with
from trainer import train
from training_loop import Stopped

LOG = "log.txt"  # what a run printed
LOCK = "lock"  # held by whoever trains a run, there since training began


@dataclass
class Run:
    """One variant with one seed. code: the version of the code that the key is of."""

    variant: str
    seed: int
    key: str
    code: str
    folder: Path
    settings: Settings

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def results(self) -> Path:
        """Written when all is done."""
        return self.folder / "best" / "results.json"

    @property
    def error(self) -> Path:
        """Written when the run failed."""
        return self.folder / "error.txt"

    def fail(self, message: str) -> None:
        """Record why there are no results."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.error.write_text(
            " ".join(message.split()) + "\n", encoding="utf-8"
        )

    @property
    def failure(self) -> str:
        """What `fail` was told."""
        if self.error.exists():
            return self.error.read_text(encoding="utf-8").strip()
        begun = (self.folder / LOCK).exists()
        return (
            "did not come to its end; the same command goes on with it"
            if begun
            else "has not begun"
        )


def plan(study: Study, numbers: list[int], work: Path) -> list[Run]:
    """All runs of a study."""
    hashes: dict[str, str] = {}
    runs = []
    code = code_version()
    for variant in study.variants:
        data = repr(variant.settings.data)
        if data not in hashes:
            hashes[data] = data_hash(load(variant.settings.data))
        for seed in numbers:
            key = run_key(
                variant.settings.replace(seed=seed), hashes[data], code
            )
            folder = work / key
            settings = variant.settings.replace(
                seed=seed,
                checkpoint_dir=str(folder),
                runs_dir=str(folder / "log"),
                run_group=study.name,
                run_name=f"{variant.name}, seed {seed}",
            )
            runs.append(Run(variant.name, seed, key, code, folder, settings))
    return runs


def execute(runs: list[Run], jobs: int) -> None:
    """Take the runs that are not finished, up to `jobs` at a time, each in a process with its
    share of the cores.
    """
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs))
    )
    context = multiprocessing.get_context("spawn")
    waiting = _unfinished(runs)
    active: dict[multiprocessing.Process, Run] = {}
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                process = context.Process(
                    target=_work, args=(run, os.getpid())
                )
                process.start()
                active[process] = run
            time.sleep(0.2)
            for process in [
                process for process in active if not process.is_alive()
            ]:
                run = active.pop(process)
                if (
                    process.exitcode
                    and not run.results.exists()
                    and not run.error.exists()
                ):
                    run.fail(
                        f"its process ended with {process.exitcode} (-9: killed, perhaps "
                        f"for want of memory); the "
                        f"same command goes on with it"
                    )
                _report_end(run, len(waiting), len(active))
    except KeyboardInterrupt:
        print(
            "\nstopping: the runs save where they stand; the same command goes on",
            file=sys.stderr,
        )
        for process in active:
            process.terminate()
        for process in active:
            process.join()
        raise


def _unfinished(runs: list[Run]) -> list[Run]:
    waiting = [run for run in runs if not run.results.exists()]
    if len(waiting) < len(runs):
        print(
            f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already",
            flush=True,
        )
    return waiting


def _report_end(run: Run, waiting: int, active: int) -> None:
    said = run.failure
    if run.results.exists():
        results = read_json(run.results)
        score, seconds = (
            results["best"]["NDCG@10"],
            results["training_seconds"],
        )
        said = f"validation NDCG@10 {score:.4f}, {seconds:.0f} s"
    print(
        f"{time.strftime('%H:%M')}  {run.name}: {said}; {active} running, {waiting} waiting",
        flush=True,
    )
    log = run.folder / LOG
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    # of W&B out of reach, say
    for warning in dict.fromkeys(
        re.findall(r"^warning: .*", text, re.MULTILINE)
    ):
        print(f"       {warning}", flush=True)


def execute_on_ray(runs: list[Run], address: str, jobs: int) -> None:
    """The same on a Ray cluster whose machines share the work folder: a task a run, which Ray
    gives to another worker when its own dies. address: 'auto' or host:port; 'local' starts one of
    `jobs` workers here."""
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--ray needs the package ray: pip install -r requirements-ray.txt"
        ) from error
    try:
        ray.init(
            address=address,
            num_cpus=jobs if address == "local" else None,
            log_to_driver=False,
            include_dashboard=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray {address}: {error}; start a cluster with `ray start --head`, or give "
            f"--ray local"
        ) from error
    # A new process a run: the peak memory of a process would be that of its largest run so far.
    # a run takes one where there are any
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3, max_calls=1)(
        _on_ray
    )
    pending = {task.remote(run, str(ROOT)): run for run in _unfinished(runs)}
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        for reference in ready:
            run = pending.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[-200:]
                run.fail(
                    f"its Ray task failed ({reason}); start the study again"
                )
            _report_end(run, len(pending), 0)
    ray.shutdown()


def _on_ray(run: Run, root: str) -> None:
    """In a Ray worker, which may take several runs one after the other."""
    os.chdir(root)
    _train(run)


def _work(run: Run, parent: int) -> None:
    """In a process of its own."""
    die_with(parent)
    _train(run)


def _train(run: Run) -> None:
    """Train, after whoever is at this run already, output in the run's log; whatever fails is
    recorded.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    # after another study's, or a killed command that still saves
    with alone(run.folder / LOCK):
        if run.results.exists():  # another command came first
            return
        if code_version() != run.code:
            run.fail(
                "the code has changed since the study began; start it again"
            )
            return
        run.error.unlink(missing_ok=True)
        with (
            (run.folder / LOG).open("a", buffering=1, encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                train(
                    run.settings,
                    resume=settled(run.folder / "last"),
                    identity=run.key,
                )
            except Stopped:
                run.fail("was stopped; the same command goes on with it")
            except UserError as error:
                run.fail(str(error))
            except Exception as error:
                traceback.print_exc()
                run.fail(
                    f"{type(error).__name__}: {error}; see {LOG} of run {run.key}"
                )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("study", help="a file of ablations/studies/, by name or path")
    add("--seeds", type=seeds, default="2", help="how many: 42, 43, ...")
    add(
        "--steps",
        type=int,
        default=0,
        help="of every run, instead of what the study says",
    )
    add(
        "--jobs",
        type=int,
        default=1,
        help="runs at a time; they share the cores",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="spread the runs over a Ray cluster: auto or host:port, or local for one of "
        "--jobs workers here",
    )
    add(
        "--work",
        type=Path,
        default=Path("runs/studies"),
        help="models and states of the runs",
    )
    add(
        "--results",
        type=Path,
        default=Path("runs/results"),
        help="where the page goes (default: %(default)s; what is reported: results)",
    )
    return parser


def main(argv: list[str]) -> int:
    """Exit code 1 if a run failed."""
    flags, rest = _parser().parse_known_args(argv)
    if flags.jobs < 1:
        raise UserError("--jobs must be at least 1")
    if flags.ray not in (None, "local") and flags.jobs > 1:
        raise UserError(
            "--jobs shares the cores of this machine; a Ray cluster shares its own: drop "
            "one of the flags"
        )
    if any(token.partition("=")[0] == "--seed" for token in rest):
        raise UserError("seeds are given by --seeds")
    if flags.steps:
        rest += ["--max_steps", str(flags.steps), "--max_minutes", "0"]
    study = load_study(flags.study, rest)
    runs = plan(study, flags.seeds, flags.work)
    flags.work.mkdir(parents=True, exist_ok=True)
    if flags.ray:
        execute_on_ray(runs, flags.ray, flags.jobs)
    else:
        execute(runs, flags.jobs)
    finished = [run for run in runs if run.results.exists()]
    failed = [
        f"{run.name}: {run.failure}"
        for run in runs
        if not run.results.exists()
    ]
    folders = {(run.variant, run.seed): run.folder for run in finished}
    place = flags.results / study.name
    write_report(study, folders, failed, rest, place)
    print(f"the report: {place / 'report.md'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(run_command(main))
