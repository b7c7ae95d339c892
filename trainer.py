"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4
--max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several
processes: `torchrun --nproc_per_node 2 trainer.py ...`. Ctrl-C saves; `--resume` goes on. All
flags: --help, or settings.py. Own data: `--dataset clicks.csv`, or a YAML file with a schema
(datasets/README.md).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from batches import history_batch, history_of
from command_line import parse_command_line, say_idle_flags
from data_processor import load
from dataset import Dataset
from evaluation.protocols import (
    filters_seen,
    hide_seen,
)
from measuring import measure, report
from model_io import load_model, save_model
from settings import Settings
from starting import check_start, load_teachers, starting_model
from support.checkpoint import read_json, settled
from support.errors import UserError, run_command
from support.processes import leave_process_group
from support.tracking import Tracker, git_commit, run_identity, run_path
from text_vectors import available
from training_loop import Stopped, fit, seed_everything

STOPPED = 130  # the shell's code for Ctrl-C


def train(
    settings: Settings, resume: bool = False, identity: str = ""
) -> dict[str, Any] | None:
    """Train, test, report; returns the results (None on processes other than the main one).

    identity: by which W&B knows the run; '' for a new one, or with `resume` that of the stopped
    run. Leaves `<checkpoint_dir>/best` with the model, results.json and a row of results per
    request. Raises `Stopped` or `UserError`.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    settings = settings.replace(text_encoder=available(settings.model.text_encoder))
    data = _load_data(settings)
    folder = Path(settings.train.checkpoint_dir)
    seed_everything(settings.train.seed)
    model = starting_model(data, settings)
    teachers = load_teachers(data, settings)
    record = None
    if main_process:
        # Found out now, if it cannot be written.
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{data.name}-{settings.model.model}"
        record = run_path(settings.train.runs_dir, name)
        identity = identity or run_identity(folder / "run_id", resume)
        _announce(settings, data, model)
    tracker = _tracker(record, settings, data.split_hash, identity)
    try:
        results = _train_and_measure(settings, model, data, teachers, resume, tracker)
        tracker.close()
    except BaseException:
        tracker.close(failed=True)
        raise
    finally:
        leave_process_group()
    if main_process:
        print(f"Record of the run: {record}")
    return results


def _train_and_measure(
    settings: Settings,
    model: nn.Module,
    data: Dataset,
    teachers: Sequence[nn.Module],
    resume: bool,
    tracker: Tracker,
) -> dict[str, Any] | None:
    folder = Path(settings.train.checkpoint_dir)
    best = folder / "best"

    def keep(model: nn.Module, validation: dict[str, Any], first: bool) -> None:
        save_model(best, model, settings, data, validation, keep_previous=first)

    progress = fit(
        model,
        data,
        settings,
        state_folder=folder / "last",
        resume=resume,
        tracker=tracker,
        on_best=keep,
        teachers=teachers,
    )
    if int(os.environ.get("RANK", "0")):
        return None
    results = measure(model, data, settings, progress, best)
    show_results(tracker, results)
    if tracker.shown:
        _show_model(tracker, model, data, settings, best)
    report(results, progress)
    print(f"\nModel, results and ranks of each request: {best}")
    return results


def _load_data(settings: Settings) -> Dataset:
    """The data, coded as the model that training goes on from knows them."""
    if not settings.train.start_from:
        return load(settings.data)
    folder = Path(settings.train.start_from)
    start = load_model(folder, data_dir=settings.data.data_dir)
    data = load(settings.data, start.catalogue)
    check_start(start, data, settings)
    return data


def _tracker(
    record: Path | None, settings: Settings, split_hash: str, identity: str
) -> Tracker:
    """The record that these settings ask for, on W&B if they say so."""
    train = settings.train
    values = settings.to_dict() | {"split_hash": split_hash, "git_commit": git_commit()}
    where = (train.use_wandb, train.wandb_mode, train.run_group, train.run_name)
    return Tracker(record, values, *where, identity)


def show_results(tracker: Tracker, results: dict[str, Any]) -> None:
    """What W&B shows of a run's end: the figures, and the ranking as a table."""
    tracker.log("test", **results)
    ranking = results["ranking"]
    metrics = list(next(iter(ranking.values())))
    rows = [
        [name, *(row[metric]["mean"] for metric in metrics)]
        for name, row in ranking.items()
    ]
    tracker.table("results", ["model", *metrics], rows)


def _show_model(
    tracker: Tracker, model: nn.Module, data: Dataset, settings: Settings, folder: Path
) -> None:
    """What W&B shows beside: recommendations for a few users, the checkpoint."""
    number = min(5, data.num_users)
    users = np.linspace(1, data.num_users, num=number, dtype=np.int64)
    histories = [history_of(data, user) for user in users.tolist()]
    batch = history_batch(histories, data.catalogue, settings.model.seq_length)
    with torch.no_grad():
        scores = model.frozen().score(batch.to(next(model.parameters()).device)).cpu()
    if filters_seen(settings.eval, data):
        hide_seen(scores, data, users, data.offsets[users + 1])
    best = scores.topk(min(10, len(data.catalogue.items.ids)))
    rows = []
    for user, items, values in zip(users, best.indices, best.values, strict=True):
        for place, (item, value) in enumerate(zip(items, values, strict=True), start=1):
            name = data.catalogue.items.names[int(item)]
            rows.append([str(data.catalogue.users.id(user)), place, name, float(value)])
    tracker.table("recommendations", ["user_id", "place", "item", "score"], rows)
    tracker.artifact(
        folder, f"{data.name}-{settings.model.model}-{settings.train.seed}"
    )


def _announce(settings: Settings, data: Dataset, model: nn.Module) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    note = f" ({data.note})" if data.note else ""
    print(
        f"{data.name}: {len(data.items):,} interactions of {data.num_users:,} users with "
        f"{len(data.catalogue.items.ids):,} {data.catalogue.schema.nouns}, split "
        f"{data.split_hash}{note}"
    )
    for what, number in data.counts:
        print(f"  {what}: {number:,}")
    print(
        f"{settings.model.model} model, {count:,} parameters; selection on validation NDCG@10; "
        f"Ctrl-C saves and --resume goes on",
        flush=True,
    )


def stored_settings(folder: Path) -> Settings:
    """Settings of the stopped run in `folder`."""
    if not settled(folder / "last"):
        raise UserError(
            f"--resume: {folder / 'last'} does not exist; there is no stopped run to go on "
            f"with"
        )
    path = folder / "last" / "checkpoint.json"
    try:
        return Settings().replace(**read_json(path)["settings"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--resume: {path} is damaged ({error!r}); start again without --resume"
        ) from error
    except UserError as error:
        raise UserError(
            f"--resume: {path} was written by another version of this program ({error}); "
            f"use that version, or start again without --resume"
        ) from error


def main(argv: list[str]) -> int:
    """Exit code 0, or 130 after a stop that `--resume` can undo."""
    settings, resume = parse_command_line(argv, __doc__)
    say_idle_flags(argv, settings)
    folder = settings.train.checkpoint_dir
    if resume:
        settings = stored_settings(Path(folder)).replace(checkpoint_dir=folder)
    try:
        train(settings, resume)
    except Stopped:
        extra = "" if folder == "checkpoints" else f" --checkpoint_dir {folder}"
        print(
            f"\nstopped and saved; go on with: python trainer.py --resume{extra}",
            file=sys.stderr,
        )
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
