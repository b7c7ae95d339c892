"""Run a study and end in a table: `python -m ablations.run fusion --seeds 2 --steps 1500 --jobs 2`.

Every run is a folder named by its settings, data and code: a finished one is never run twice, whichever study asks for
it, a stopped one goes on, a failing one is recorded and the others go on. Any flag of trainer.py may follow and holds
for all variants. Two runs are equal to the last digit where each had as many threads: `--jobs` on as many cores.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.archive import CODE_FILE, LOCK, followed, pack, stored_settings, unpack
from ablations.live import LiveTable, evaluations
from ablations.report import write_report
from ablations.study import FOLDER, ROOT, Study, code_version, data_hash, load_study, run_key
from data_processor import load
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser, seeds
from support.checkpoint import INFO, read_json, settled, write_json
from support.errors import UserError, run_command
from support.processes import alone, die_with
from support.tracking import was_shown
from trainer import open_tracker, show_results, train
from training_loop import Stopped

WORK = "runs/studies"
LOG = "log.txt"  # what a run printed


@dataclass
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    key: str
    code: str  # version of the code that the key is of
    folder: Path
    settings: Settings
    teachers: tuple[Path, ...]  # results of the runs whose models it follows

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
        self.error.write_text(" ".join(message.split()) + "\n", encoding="utf-8")

    @property
    def failure(self) -> str:
        """What `fail` was told."""
        if self.error.exists():
            return self.error.read_text(encoding="utf-8").strip()
        return "did not come to its end; the same command goes on with it" if self.begun else "has not begun"

    @property
    def begun(self) -> bool:
        """Whether somebody is or was at it."""
        return (self.folder / LOCK).exists()


def plan(study: Study, seeds: list[int], work: Path) -> list[Run]:
    """All runs of a study, those that others follow first."""
    hashes: dict[str, str] = {}
    runs: dict[tuple[str, int], Run] = {}
    code = code_version()
    for variant in study.variants:
        data = variant.settings.data
        if repr(data) not in hashes:
            hashes[repr(data)] = data_hash(load(data))
        for seed in seeds:
            teachers = [runs[name, seed] for name in variant.needs]
            key = run_key(variant.settings.replace(seed=seed), hashes[repr(data)], code,
                          [teacher.key for teacher in teachers])
            folder = work / key
            settings = variant.settings.replace(
                seed=seed, checkpoint_dir=str(folder), runs_dir=str(folder / "log"), run_group=study.name,
                run_name=f"{variant.name}, seed {seed}",
                teacher=",".join(str(teacher.folder / "best") for teacher in teachers))
            runs[variant.name, seed] = Run(variant.name, seed, key, code, folder, settings,
                                           tuple(teacher.results for teacher in teachers))
    return list(runs.values())


def execute(runs: list[Run], jobs: int) -> None:
    """Take the runs that are not finished, up to `jobs` at a time, each in a process with its share of the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    context = multiprocessing.get_context("spawn")
    waiting = [run for run in runs if not run.results.exists()]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already", flush=True)
    active: dict[multiprocessing.Process, Run] = {}
    try:
        with LiveTable() as table:
            while waiting or active:
                ready = [run for run in waiting if all(teacher.exists() for teacher in run.teachers)]
                for run in ready[:jobs - len(active)]:
                    waiting.remove(run)
                    process = context.Process(target=_work, args=(run, os.getpid()))
                    process.start()
                    active[process] = run
                if not active:
                    for run in waiting:
                        run.fail("a run that it follows has failed; mend that one")
                    return
                time.sleep(0.2)
                table.show(runs, list(active.values()))
                for process in [process for process in active if not process.is_alive()]:
                    run = active.pop(process)
                    if process.exitcode and not run.results.exists() and not run.error.exists():
                        run.fail(f"its process ended with {process.exitcode} (-9: killed, perhaps for want of memory); "
                                 f"the same command goes on with it")
                    _report_end(run, len(waiting), len(active))
    except KeyboardInterrupt:
        print("\nstopping: the runs save where they stand; the same command goes on", file=sys.stderr)
        for process in active:
            process.terminate()
        for process in active:
            process.join()
        raise


def _report_end(run: Run, waiting: int, active: int) -> None:
    said = run.failure
    if run.results.exists():
        results = read_json(run.results)
        said = f"validation NDCG@10 {results['best']['NDCG@10']:.4f}, {results['training_seconds']:.0f} s"
    print(f"{time.strftime('%H:%M')}  {run.name}: {said}; {active} running, {waiting} waiting", flush=True)
    log = run.folder / LOG
    warnings = re.findall(r"^warning: .*", log.read_text(encoding="utf-8"), re.MULTILINE) if log.exists() else []
    for warning in dict.fromkeys(warnings):  # of a dashboard out of reach, say
        print(f"       {warning}", flush=True)


def execute_on_ray(runs: list[Run], address: str, jobs: int) -> None:
    """The same on a Ray cluster whose machines share the work folder: a task a run, which Ray gives to another worker
    when its own dies; pupils wait for their teachers. address: 'auto' or host:port; 'local' starts one of `jobs`
    workers here."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs the package ray: pip install -r requirements-ray.txt") from error
    try:
        ray.init(address=address, num_cpus=jobs if address == "local" else None, log_to_driver=False,
                 include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {address}: {error}; start a cluster with `ray start --head`, or give --ray local"
                        ) from error
    # A new process a run: the peak memory of a process would be that of its largest run so far.
    gpus = 1 if ray.cluster_resources().get("GPU") else 0  # a run takes one where there are any
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3, max_calls=1)(_on_ray)
    refs: dict[Path, Any] = {}
    pending = {}
    for run in runs:
        if not run.results.exists():
            teachers = [refs[teacher] for teacher in run.teachers if teacher in refs]
            refs[run.results] = task.remote(run, str(ROOT), *teachers)
            pending[refs[run.results]] = run
    if len(pending) < len(runs):
        print(f"{len(runs) - len(pending)} of {len(runs)} runs are finished already", flush=True)
    with LiveTable() as table:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
            table.show(runs, [run for run in pending.values() if run.begun])
            for ref in ready:
                run = pending.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayError as error:
                    run.fail(f"its Ray task failed ({' '.join(str(error).split())[-200:]}); start the study again")
                _report_end(run, len(pending), 0)
    ray.shutdown()


def _on_ray(run: Run, root: str, *_teachers: Any) -> None:
    """In a Ray worker, which may take several runs one after the other."""
    os.chdir(root)
    if not all(teacher.exists() for teacher in run.teachers):
        run.fail("a run that it follows has failed; mend that one")
    else:
        _train(run)


def _work(run: Run, parent: int) -> None:
    """In a process of its own."""
    die_with(parent)
    _train(run)


def _train(run: Run) -> None:
    """Train, after whoever is at this run already, output in the run's log; whatever fails is recorded."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with alone(run.folder / LOCK):  # after another study's, or a killed command that still saves
        if run.results.exists():  # another command came first
            return
        if code_version() != run.code:
            run.fail("the code has changed since the study began; start it again")
            return
        run.error.unlink(missing_ok=True)
        (run.folder / CODE_FILE).write_text(run.code, encoding="utf-8")
        with (run.folder / LOG).open("a", buffering=1, encoding="utf-8") as log, \
                contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                train(run.settings, resume=settled(run.folder / "last"), identity=run.key)
            except Stopped:
                run.fail("was stopped; the same command goes on with it")
            except UserError as error:
                run.fail(str(error))
            except Exception as error:
                traceback.print_exc()
                run.fail(f"{type(error).__name__}: {error}; see {LOG} of run {run.key}")


def show_again(run: Run) -> None:
    """File a finished run that did not go to this dashboard under this study, because another study made it, it was
    packed or it was killed on the way there, there too: curves and results, once. Its model lies with the run that
    trained it."""
    settings, stored = run.settings, read_json(run.results.parent / INFO)["settings"]
    record = run.folder / "shown" / settings.train.run_group / "record.jsonl"
    own = all(stored.get(name) == getattr(settings.train, name) for name in ("run_group", "use_wandb"))
    if was_shown(record.parent) or (own and was_shown(run.folder / "log")):
        return
    results = read_json(run.results)
    tracker = open_tracker(record, settings, results["split_hash"], results["git_commit"],
                           run.key if own else f"{run.key}-{settings.train.run_group}")
    for evaluation in evaluations(run.folder):
        tracker.log(**evaluation)
    show_results(tracker, results)
    tracker.close()


def minutes(text: str) -> float:
    """Minutes of '90s', '20m' or '1.5h'. Raises `UserError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--budget {text!r}: give a time such as 90s, 20m or 1.5h")
    return float(match[1]) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[match[2]]


def study_and_runs(argv: list[str]) -> tuple[Study, list[Run], argparse.Namespace, list[str]]:
    """(study, its runs, flags, flags of trainer.py) of a command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("study", help="a file of ablations/studies/, by name or path")
    parser.add_argument("--variants", nargs="+", help="only these, and those that they need (default: all)")
    parser.add_argument("--seeds", type=seeds, default="2", help="how many: 42, 43, ...")
    parser.add_argument("--steps", type=int, default=0, help="of every run, instead of what the study says")
    parser.add_argument("--budget", type=minutes, help="time of every run instead, as in 20m or 1h; what a run reaches "
                                                       "in it depends on the machine")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument("--ray", metavar="ADDRESS", help="spread the runs over a Ray cluster: auto or host:port, or "
                                                         "local for one of --jobs workers here")
    parser.add_argument("--work", type=Path, default=Path(WORK), help="models and states of the runs")
    parser.add_argument("--results", type=Path, help="(default: results/; runs/results/ for a part of a study, a file "
                                                     "of one's own, other flags of trainer.py, and fewer seeds or "
                                                     "another budget than the page that lies there)")
    flags, rest = parser.parse_known_args(argv)
    if flags.jobs < 1:
        raise UserError("--jobs must be at least 1")
    if flags.steps and flags.budget:
        raise UserError("--steps and --budget are two ways to say when a run ends: give one")
    if flags.ray not in (None, "local") and flags.jobs > 1:
        raise UserError("--jobs shares the cores of this machine; a Ray cluster shares its own: drop one of the flags")
    if any(token.partition("=")[0] in ("--teacher", "--seed") for token in rest):
        raise UserError("seeds are given by --seeds, and teachers by the study: a variant with teacher: \"{another}\"")
    of_all = [*rest, *(["--max_steps", str(flags.steps), "--max_minutes", "0"] if flags.steps else [])]
    of_all += ["--max_minutes", str(flags.budget), "--max_steps", "0", "--max_epochs", "100000"] if flags.budget else []
    study = load_study(flags.study, of_all)
    if flags.variants:
        study = study.only(flags.variants)
    if flags.results is None:
        shipped = flags.study == study.name  # not a file of one's own
        flags.results = Path("results" if shipped and not flags.variants and not telling(rest) and not _lesser(
            study.name, flags.seeds, of_all) else "runs/results")
    return study, plan(study, flags.seeds, flags.work), flags, of_all


def telling(flags: list[str]) -> list[str]:
    """Those that may change a result, with their values."""
    kept, tells = [], True
    for token in flags:
        if token.startswith("--"):
            name = token[2:].partition("=")[0].replace("-", "_")
            tells = name.removeprefix("no_") not in BOOKKEEPING
        if tells:
            kept.append(token)
    return kept


def _lesser(name: str, seeds: list[int], of_all: list[str]) -> bool:
    """Whether a page of the study lies there already that has more seeds, or other settings of its runs."""
    page = Path("results") / name / "runs.json"
    if not page.exists():
        return False
    written = read_json(page)
    there, here = ({key: value for key, value in load_study(name, flags).variants[0].settings.to_dict().items()
                    if key not in BOOKKEEPING} for flags in (written["flags"], of_all))
    return len({run["seed"] for run in written["runs"]}) > len(seeds) or there != here


def last_command(argv: list[str]) -> list[str]:
    """The flags that a study was last run with as a whole, here or, if never, for its page in results/, where nothing
    but its name is given."""
    if len(argv) != 1:
        return argv
    path, page = Path(WORK) / f"{Path(argv[0]).stem}.command.json", Path("results") / argv[0] / "runs.json"
    if path.exists() and (flags := read_json(path)["flags"]):
        return flags
    if not page.exists():
        return argv
    written = read_json(page)
    return [*argv, "--seeds", str(len({run["seed"] for run in written["runs"]})), "--results", "results",
            *written["flags"]]


def with_older_code(runs: list[Run], command: Path, packed: Mapping[str, str]) -> list[Run]:
    """The runs, in the place of those that this code has not made those that the study's last commands made or `packed`
    (name -> key) holds, if their settings are the same and they followed such ones too."""
    commanded = read_json(command)["keys"] if command.exists() else {}
    keys = {run.results: {run.key, commanded.get(run.name), packed.get(run.name)} for run in runs}
    result = []
    for run in runs:
        for key in filter(None, (commanded.get(run.name), packed.get(run.name))):
            older = dataclasses.replace(run, folder=run.folder.parent / key)
            if not run.results.exists() and older.results.exists() and _same(
                    run, read_json(older.results.parent / INFO)["settings"], [keys[path] for path in run.teachers]):
                print(f"{run.name}: as other code made it ({older.folder.name})")
                run = older
        result.append(run)
    return result


def _same(run: Run, stored: dict[str, Any], teachers: list[set[str | None]]) -> bool:
    """Whether stored settings are those of a run, and whom they followed is among its teachers' keys."""
    settings, those = stored_settings(stored), followed(stored)
    return settings is not None and run_key(settings, "", "") == run_key(run.settings, "", "") and \
        len(those) == len(teachers) and all(key in keys for key, keys in zip(those, teachers, strict=True))


def report(study: Study, runs: list[Run], flags: argparse.Namespace, rest: list[str]) -> int:
    """Write the page of what is finished, and pack it; 1 if something is not."""
    failed = [f"{run.name}: {run.failure}" for run in runs if not run.results.exists()]
    finished = {(run.variant, run.seed): run.folder for run in runs if run.results.exists()}
    place, page = flags.results / study.name, flags.results / study.name / "runs.json"
    shown = {(run["variant"], run["seed"]) for run in read_json(page)["runs"]} if page.exists() else set()
    lost = shown & {(run.variant, run.seed) for run in runs} - set(finished)
    if finished and lost and flags.results == Path("results"):
        place = Path("runs/results") / study.name
        print(f"{page.parent} stays as it is: {len(lost)} of its runs are not finished here")
    write_report(study, finished, failed, telling(rest), place)
    pack(runs, place)
    print(f"the page: {place / 'report.html'}")
    return int(bool(failed))


def main(argv: list[str]) -> int:
    """Exit code 1 if a run failed."""
    study, runs, flags, rest = study_and_runs(argv)
    unpack([Path("results") / study.name, flags.results / study.name], runs, flags.work, runs[0].settings.data.data_dir)
    flags.work.mkdir(parents=True, exist_ok=True)
    command = flags.work / f"{study.name}.command.json"
    known = read_json(command) if command.exists() else {"flags": [], "keys": {}}
    whole = not flags.variants and (flags.study == study.name or not (FOLDER / f"{study.name}.yaml").exists())
    write_json(command, {"flags": argv if whole else known["flags"],
                         "keys": known["keys"] | {run.name: run.key for run in runs}})
    if flags.ray:
        execute_on_ray(runs, flags.ray, flags.jobs)
    else:
        execute(runs, flags.jobs)
    if study.variants[0].settings.train.use_wandb:
        for run in runs:
            if run.results.exists():
                show_again(run)
    return report(study, runs, flags, rest)


if __name__ == "__main__":
    sys.exit(run_command(main))
