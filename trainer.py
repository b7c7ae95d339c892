"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4
--max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several
processes: `torchrun --nproc_per_node 2 trainer.py ...`, or workers of a Ray cluster, `--ray auto
--workers 2`, which go on when one of them dies. Ctrl-C saves; `--resume` continues. All flags:
--help, or settings.py. Own data: `--dataset clicks.csv`, or a YAML file with a schema
(datasets/README.md).
"""

import contextlib
import functools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auto_preset import as_flags, fitted
from command_line import Derive, Launch, parse_command_line
from dataset import Dataset
from engine import RecommendationEngine
from measuring import measure, rank_test_items, report
from model_io import save_model, stored_settings
from run_folder import BEST, LAST, RUN, new_run, newest_run, publish
from settings import Settings
from splits import MEASURED
from starting import (
    load_teachers,
    pinned,
    starting_data,
    starting_model,
    starting_shape,
)
from support.checkpoint import read_json, recover_checkpoint
from support.errors import require, run_command
from support.processes import leave_process_group, lock_or_refuse
from support.tracking import Tracker, git_commit, run_path
from training_loop import fit

SHOWN_USERS = 5  # for whom W&B shows recommendations, about


def train(
    settings: Settings, run: Path | None = None, data: Dataset | None = None
) -> dict[str, Any] | None:
    """Train, test, report; returns the results (None on processes other than the main one).

    run: the folder of a run to go on with, instead of a new one. data: of these settings, if they
    have been read already.

    Leaves a folder of the run in `<checkpoint_dir>`: its `best` holds the model, results.json and
    a row of results per request (run_folder.py). Raises `Stopped` or `UserError`.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    place = Path(settings.train.checkpoint_dir)
    settings = pinned(settings)
    data = data or starting_data(settings)
    torch.manual_seed(settings.train.seed)
    model = starting_model(data, settings)
    teachers = load_teachers(data, settings)
    if main_process:
        run = run or new_run(place, settings)
        _announce(settings, data, model)
    # May put files in their place, so one process decides for all.
    resume = main_process and recover_checkpoint(run / LAST)

    def keep(model: nn.Module, record: dict[str, Any]) -> None:
        save_model(run / BEST, model, settings, data, record, run.name)
        if not (place / BEST).exists():
            publish(run)

    with _recorded(settings, data, run if main_process else None) as tracker:
        progress = fit(
            model,
            data,
            settings,
            state_folder=run and run / LAST,
            resume=resume,
            tracker=tracker,
            on_best=keep,
            teachers=teachers,
        )
        if main_process and resume:
            # Whatever has become of it since the run stood here.
            keep(model, progress.best)
        ranks = rank_test_items(model, data, settings)
        if not main_process:
            return None
        return _measure(tracker, model, data, settings, progress, run, ranks)


@contextlib.contextmanager
def _recorded(settings, data, run):
    """The record of a run, closed when the run ends. Other processes than the main one record
    nothing."""
    tracker, lock = Tracker(None, {}), contextlib.nullcontext()
    if run is not None:
        lock = lock_or_refuse(run / "lock", f"another process is training {run}")
    try:
        with lock:
            if run is not None:
                # Found out now, if it cannot be written.
                tracker = _tracker(settings, data, run.name)
            yield tracker
        tracker.close()
    except BaseException:
        tracker.close(failed=True)
        raise
    finally:
        leave_process_group()


def _tracker(settings, data, identity):
    """The record of a run by these settings, on W&B if they ask for it."""
    train = settings.train
    values = settings.to_dict() | {"split_hash": data.split_hash}
    values["git_commit"] = git_commit()
    path = run_path(train.runs_dir, f"{data.name}-{settings.model.model}")
    return Tracker(path, values, train.use_wandb, identity)


def _measure(tracker, model, data, settings, progress, run, ranks):
    """Measure a trained model: figures, tables, and what goes to W&B."""
    best = run / BEST
    results = measure(model, data, settings, progress, best, ranks)
    tracker.log("test", **results)
    if tracker.shown:
        engine = RecommendationEngine(best, settings.data.data_dir)
        ids = data.catalogue.users.ids
        rows = []
        for user in ids[:: max(1, len(ids) // SHOWN_USERS)].tolist():
            for item in engine.get_recommendations(user):
                rows.append([str(user), item.rank, item.name, item.score])
        tracker.table(
            "recommendations", ["user_id", "place", "item", "score"], rows
        )
        name = f"{data.name}-{settings.model.model}-{settings.train.seed}"
        tracker.artifact(best, name)
    report(results, progress, settings.train)
    print(f"\nModel, results and ranks of each request: {best}")
    print(publish(run))
    print(f"Record of the run: {tracker.path}")
    return results


def _announce(settings, data, model):
    split = data.split.with_fewer("validation", MEASURED)
    validating = len(split.requests.get("validation", ()))
    count = sum(parameter.numel() for parameter in model.parameters())
    note = f" ({data.note})" if data.note else ""
    print(
        f"{data.name}: {len(data.items):,} interactions of {data.num_users:,} users with "
        f"{len(data.catalogue.items.ids):,} {data.catalogue.schema.nouns}, split "
        f"{data.split_hash}{note}"
    )
    for what, number in data.counts.items():
        print(f"  {what}: {number:,}")
    print(
        f"{settings.model.model} model, {count:,} parameters; selection on validation NDCG@10 "
        f"({validating:,} requests); Ctrl-C saves and --resume goes on",
        flush=True,
    )


def asked_for(
    argv: list[str], description: str, derive: Derive | None = None
) -> tuple[Settings, Path | None, Launch]:
    """(settings, run to go on with, how to start it) of a command line; with --resume the
    settings are those of the stopped run. derive: as in `parse_command_line`."""
    settings, how = parse_command_line(argv, description, derive)
    if not how.resume:
        return settings, None, how
    place = Path(settings.train.checkpoint_dir)
    run = newest_run(place)
    require(run, f"--resume: {place} holds no stopped run to go on with")
    stored = stored_settings(run, read_json(run / RUN))
    return stored.replace(checkpoint_dir=str(place)), run, how


def launch(
    settings: Settings,
    run: Path | None,
    how: Launch,
    data: Dataset | None = None,
) -> None:
    """`train` here, or in the workers of a Ray cluster if `how` names one."""
    if not how.ray:
        train(settings, run, data)
        return
    from support.ray_cluster import cluster
    from support.ray_workers import run_together

    # By its name, which `__main__` would not be.
    from trainer import train as work

    settings = pinned(settings)
    with cluster(how.ray, how.workers) as ray:
        run = run or new_run(Path(settings.train.checkpoint_dir), settings)
        work = functools.partial(work, settings, run)
        run_together(ray, work, how.workers, run)


@dataclass
class AutoPreset:
    """The preset `auto` of a command line, and the data that it has read for it."""

    data: Dataset | None = None
    values: dict[str, Any] = field(default_factory=dict)
    figures: str = ""

    def __call__(self, settings: Settings) -> dict[str, Any]:
        """Settings for the data of these settings."""
        self.data = starting_data(settings)
        self.values, self.figures = fitted(self.data)
        # What training goes on from has its shape already.
        return self.values | starting_shape(settings)

    def line(self, settings: Settings) -> str:
        """What was chosen, and by which figures, of the settings that are used."""
        used = settings.to_dict()
        chosen = {
            name: value
            for name, value in self.values.items()
            if used[name] == value
        }
        return f"preset auto: {self.figures}: {as_flags(chosen)}"


def main(argv: list[str]) -> None:
    """See the module's head."""
    auto = AutoPreset()
    settings, run, how = asked_for(argv, __doc__, auto)
    if auto.data is not None:
        print(auto.line(settings), flush=True)
    launch(settings, run, how, auto.data)


if __name__ == "__main__":
    sys.exit(run_command(main))
