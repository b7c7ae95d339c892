"""Search settings with Optuna: `python -m ablations.search quick --jobs 2`. Only validation is ever read.

A space is data, `ablations/spaces/*.yaml` or any file:

    base: quick                                   # a preset
    settings: {max_steps: 1500}                   # for all trials
    trials: 40
    space:
      learning_rate: {low: 0.001, high: 0.01, log: true}
      dropout: {low: 0.0, high: 0.4, step: 0.05}
      num_layers: [1, 2, 3]                       # a choice

Only settings of the model and of training can be searched. Trials that lie below the median of the others at the same
evaluation are pruned, from the third one on. All workers, of this command or of others on the same machine, share one
journal; the same command goes on until the trials are done, and takes a stopped one anew. Ends in a table and in
`best.yaml`, which trainer.py takes by --config.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from ablations.study import base_and_settings, checked_settings, code_version, data_hash, run_key
from command_line import parse_command_line
from data_processor import load
from evaluation.protocols import protocol_line
from evaluation.report import print_table, table_text
from model_io import new_model
from settings import (
    BOOKKEEPING,
    ModelSettings,
    Settings,
    TrainSettings,
    all_fields,
    model_only,
    section_fields,
    unknown_name,
)
from support.arguments import ArgumentParser
from support.errors import UserError, run_command
from support.processes import die_with
from support.tracking import Tracker
from support.yaml_file import read_yaml, refuse
from trainer import STOPPED
from training_loop import Stopped, fit, seed_everything

FOLDER = Path(__file__).parent / "spaces"
METRIC = "NDCG@10"
ERROR = "error"  # name under which a failed trial says why
STARTUP_TRIALS, STARTUP_EVALUATIONS = 5, 2  # before anything is pruned


class _Reporter(Tracker):
    """Tells the trial what each evaluation found. Raises `optuna.TrialPruned`."""

    def __init__(self, trial: Any) -> None:
        super().__init__(None, {})
        self.trial, self.evaluations = trial, 0

    def log(self, event: str, **values: Any) -> None:
        """As in `Tracker`."""
        if event == "epoch":
            self.trial.report(values[METRIC], self.evaluations)
            self.evaluations += 1
            if self.trial.should_prune():
                import optuna

                raise optuna.TrialPruned


def load_space(name: str, flags: list[str]) -> tuple[Settings, dict[str, Any], int]:
    """(settings of all trials, space, trials). Raises `UserError` naming file and line."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no space {name!r}; there are {known}, or give a .yaml file")
    content, lines = read_yaml(path)
    unknown = set(content) - {"base", "settings", "trials", "space"}
    if unknown:
        refuse(path, lines[(min(unknown),)], f"unknown key {min(unknown)!r}; a space has base, settings, trials, space")
    (base, common), space = base_and_settings(path, content, lines), content.get("space")
    if not isinstance(space, dict) or not space:
        refuse(path, lines.get(("space",), 1), "a space needs lines of 'setting: [choices]' or '{low: .., high: ..}'")
    trials = content.get("trials", 40)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        refuse(path, lines[("trials",)], f"trials must be a whole number above 0, not {trials!r}")
    parse_command_line(["--preset", base, *flags], "")  # what is wrong with the flags is not the file's fault
    settings = checked_settings(path, lines, base, ("settings",), common, flags)
    for name in ("teacher", "start_from"):
        if getattr(settings.train, name):
            raise UserError(f"{path}: a search trains models from nothing and on their own; drop {name}")
    searched = set(section_fields(ModelSettings)) | set(section_fields(TrainSettings))
    searched -= {*BOOKKEEPING, "seed", "teacher", "start_from"}
    # What is searched counts as given: it lifts the preset's limits that would stand before it, as a flag does.
    given = {name: value for name, value in settings.to_dict().items() if name in searched & set(space)}
    settings = checked_settings(path, lines, base, ("settings",), {**given, **common}, flags)
    found = {}
    for setting, values in space.items():
        line = lines[("space", setting)]
        if setting not in searched:
            refuse(path, line, f"{setting} is not to be searched: only settings of the model and of training are, "
                               f"without the seed" if setting in all_fields() else unknown_name("setting", setting))
        if not ((isinstance(values, list) and values) or (isinstance(values, dict)
                and {"low", "high"} <= set(values) <= {"low", "high", "log", "step"})):
            refuse(path, line, f"{setting}: give [choices], or {{low: .., high: ..}} with log or step")

        def value_of(given: Any, name: str = setting) -> Any:
            """The value as its setting has it, which must be a possible one by itself."""
            return checked_settings(path, lines, base, ("space", name), {**common, name: given}, flags).to_dict()[name]

        if isinstance(values, list) and any(value in values[:at] for at, value in enumerate(values)):
            refuse(path, line, f"{setting}: a choice stands there twice")
        try:
            found[setting] = _distribution([value_of(value) for value in values] if isinstance(values, list) else
                                           {**values, "low": value_of(values["low"]), "high": value_of(values["high"])})
        except (ValueError, TypeError, ZeroDivisionError) as error:
            refuse(path, line, f"{setting}: {error}")
    return settings, found, trials


def _distribution(values: list[Any] | dict[str, Any]) -> Any:
    """Optuna's form of one dimension. Raises `ValueError` or `TypeError` for an impossible one."""
    from optuna import distributions

    if isinstance(values, list):
        return distributions.CategoricalDistribution(values)
    whole = isinstance(values["low"], int)
    return (distributions.IntDistribution if whole else distributions.FloatDistribution)(**values)


def open_study(journal: Path, name: str, seed: int) -> Any:
    """The Optuna study of that name in a journal file, or a new one. Raises `UserError` for a damaged journal."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal.resolve())))  # see `check_journal`
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    # Another seed each time a worker begins: one that goes on would else draw the same points again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + 1000 * len(study.trials), constant_liar=True)
    study.pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=STARTUP_EVALUATIONS)
    return study


def check_journal(journal: Path, name: str) -> None:
    """Cut off the half line that a killed worker left. Raises `UserError` for a journal that is damaged otherwise, with
    the line if it is one that cannot be read at all."""
    from optuna.storages.journal import JournalFileSymlinkLock

    whole = b""
    if journal.exists():
        # The one that all workers write under. It is a link to the file: from a path that is not absolute it would lead
        # nowhere, and then Optuna waits for ever for one that was killed.
        lock = JournalFileSymlinkLock(str(journal.resolve()))
        lock.acquire()
        try:
            with journal.open("r+b") as file:
                content = file.read()
                whole = content[:content.rfind(b"\n") + 1]
                file.truncate(len(whole))
        finally:
            lock.release()
    remedy = "move the file away to begin anew, or delete the damage and what comes after it to go on from there"
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            sound = isinstance(json.loads(line), dict)
        except ValueError:
            sound = False
        if not sound:
            refuse(journal, number, f"this line of the journal is damaged: {remedy}")
    try:
        open_study(journal, name, 0)
    except (KeyError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise UserError(f"{journal} is damaged ({type(error).__name__}: {error}): {remedy}") from error


def finished(study: Any) -> list[Any]:
    """Trials that came to an end: complete, pruned or failed by themselves; not those that were stopped."""
    return [trial for trial in study.get_trials(deepcopy=False)
            if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and ERROR in trial.user_attrs)]


def work(journal: Path, name: str, settings: Settings, space: dict[str, Any], trials: int, left: Any, number: int,
         parent: int) -> None:
    """Take trials until there are enough, each against one of the semaphore `left`, which this command's workers share;
    a point that cannot be trained counts as failed."""
    import optuna
    from optuna.trial import TrialState

    die_with(parent)
    study, data = open_study(journal, name, settings.train.seed + number), load(settings.data)

    while len(finished(study)) < trials and left.acquire(block=False):
        trial = study.ask(space)
        try:
            own = settings.replace(**trial.params)
            seed_everything(own.train.seed)
            progress = fit(new_model(data, own.model), data, own, tracker=_Reporter(trial), quiet=True)
            trial.set_user_attr("epoch", progress.best["epoch"])
            trial.set_user_attr("seconds", round(progress.seconds, 1))
            study.tell(trial, progress.best_score)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except Stopped:
            study.tell(trial, state=TrialState.FAIL)
            sys.exit(STOPPED)
        except (UserError, RuntimeError, ValueError, MemoryError) as error:  # also LinAlgError, no memory left
            trial.set_user_attr(ERROR, " ".join(str(error).split()))
            study.tell(trial, state=TrialState.FAIL)
        print(f"{len(finished(study))} of {trials} trials, best {METRIC} so far {_best(study)}; last: {trial.params}",
              flush=True)


def _best(study: Any) -> str:
    values = [trial.value for trial in finished(study) if trial.value is not None and trial.state.name == "COMPLETE"]
    return f"{max(values):.4f}" if values else "none yet"


def report(study: Any, settings: Settings, space: dict[str, Any], note: str, place: Path) -> None:
    """The trials by their value, and the settings of the best one. Raises `UserError` if none is complete."""
    import yaml

    trials = sorted((trial for trial in finished(study) if trial.state.name == "COMPLETE"),
                    key=lambda trial: -trial.value)
    if not trials:
        raise UserError("no trial came to its end: widen the space, or see what a single one says with trainer.py")
    header = [*space, f"validation\n{METRIC}", "epoch", "seconds"]
    rows = [[*(f"{trial.params[name]:.4g}" if isinstance(trial.params[name], float) else str(trial.params[name])
               for name in space), f"{trial.value:.4f}", str(trial.user_attrs["epoch"]),
             f"{trial.user_attrs['seconds']:.0f}"] for trial in trials]
    counts = {state: sum(trial.state.name == name for trial in finished(study))
              for name, state in (("COMPLETE", "complete"), ("PRUNED", "pruned"), ("FAIL", "failed"))}
    note += "; " + ", ".join(f"{count} {state}" for state, count in counts.items())
    print_table("Search", note, header, rows[:20])
    for trial in finished(study):
        if ERROR in trial.user_attrs:
            print(f"failed: {trial.params}: {trial.user_attrs[ERROR]}")
    best = settings.replace(**trials[0].params)
    place.mkdir(parents=True, exist_ok=True)
    (place / "trials.md").write_text(f"{note}\n\n{table_text(header, rows)}", encoding="utf-8")
    values = {name: value for name, value in best.to_dict().items()
              if name not in BOOKKEEPING and model_only(name) in (None, best.model.model)}
    (place / "best.yaml").write_text(f"# {METRIC} {trials[0].value:.4f} on validation: python trainer.py --config "
                                     f"best.yaml\n{yaml.safe_dump(values, sort_keys=False)}", encoding="utf-8")


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("space", help="a file of ablations/spaces/, by name or path")
    parser.add_argument("--trials", type=int, help="(default: what the space says)")
    parser.add_argument("--jobs", type=int, default=1, help="workers; they share the cores")
    parser.add_argument("--work", type=Path, default=Path("runs/search"), help="where the journal lies")
    parser.add_argument("--results", type=Path, default=Path("results"))
    flags, rest = parser.parse_known_args(argv)
    if flags.jobs < 1:
        raise UserError("--jobs must be at least 1")
    settings, space, trials = load_space(flags.space, rest)
    trials = trials if flags.trials is None else flags.trials
    data = load(settings.data)
    # Another space, other settings, data or code: another search in the same journal.
    name = run_key(settings, data_hash(data) + repr(space), code_version())
    stem = Path(flags.space).stem
    journal = flags.work / f"{stem}.journal"
    journal.parent.mkdir(parents=True, exist_ok=True)
    check_journal(journal, name)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // flags.jobs)))
    context = multiprocessing.get_context("spawn")
    left = context.Semaphore(max(0, trials - len(finished(open_study(journal, name, 0)))))
    workers = [context.Process(target=work, args=(journal, name, settings, space, trials, left, number, os.getpid()))
               for number in range(flags.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ended = {worker.exitcode for worker in workers} - {0}
    if ended:
        raise UserError(f"a worker ended with code {min(ended)}, see above; the same command goes on")
    note = f"{protocol_line(data, 'validation', settings.eval)}; one seed ({settings.train.seed}) a trial"
    report(open_study(journal, name, 0), settings, space, note, flags.results / f"search-{stem}")


if __name__ == "__main__":
    sys.exit(run_command(main))
