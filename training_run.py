"""One run: train a model, test it, report. `train` is what `python trainer.py` calls."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset import Dataset
from engine import RecommendationEngine
from measuring import measure, rank_test_items, report
from model_io import save_model
from run_folder import BEST, LAST, new_run, publish
from settings import Settings
from splits import MEASURED
from starting import load_teachers, pinned, starting_data, starting_model
from support.checkpoint import recover_checkpoint
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

    def keep(model: nn.Module, record: dict[str, Any]) -> None:
        save_model(run / BEST, model, settings, data, record, run.name)
        if not (place / BEST).exists():
            publish(run)

    with _recorded(settings, data, run if main_process else None) as tracker:
        # May put files in their place, so one process decides for all, and holds the lock.
        resume = main_process and recover_checkpoint(run / LAST)
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
