"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4
--max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several
processes: `torchrun --nproc_per_node 2 trainer.py ...`. Ctrl-C saves; `--resume` goes on. All
flags: --help, or settings.py. Own data: `--dataset clicks.csv`, or a YAML file with a schema
(datasets/README.md).
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from command_line import parse_command_line
from engine import RecommendationEngine
from measuring import measure, report
from model_io import save_model, stored_settings
from settings import Settings
from starting import load_teachers, starting_data, starting_model
from support.checkpoint import INFO, read_json, settled
from support.errors import UserError, run_command
from support.processes import leave_process_group
from support.tracking import Tracker, git_commit, run_identity, run_path
from training_loop import fit

SHOWN_USERS = 5  # for whom W&B shows recommendations, about


def train(settings: Settings, resume: bool = False) -> dict[str, Any] | None:
    """Train, test, report; returns the results (None on processes other than the main one).

    Leaves `<checkpoint_dir>/best` with the model, results.json and a row of results per
    request. Raises `Stopped` or `UserError`.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    data = starting_data(settings)
    folder = Path(settings.train.checkpoint_dir)
    torch.manual_seed(settings.train.seed)
    model = starting_model(data, settings)
    teachers = load_teachers(data, settings)
    tracker = Tracker(None, {})
    if main_process:
        # Found out now, if it cannot be written.
        folder.mkdir(parents=True, exist_ok=True)
        identity = run_identity(folder / "run_id", resume)
        tracker = _tracker(settings, data, identity)
        _announce(settings, data, model)
    best = folder / "best"

    def keep(model: nn.Module, record: dict[str, Any], first: bool) -> None:
        save_model(best, model, settings, data, record, keep_previous=first)

    try:
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
        results = None
        if main_process:
            results = _measure(tracker, model, data, settings, progress)
        tracker.close()
    except BaseException:
        tracker.close(failed=True)
        raise
    finally:
        leave_process_group()
    return results


def _tracker(settings, data, identity):
    """The record that these settings ask for, on W&B if they say so."""
    train = settings.train
    values = settings.to_dict() | {"split_hash": data.split_hash}
    values["git_commit"] = git_commit()
    path = run_path(train.runs_dir, f"{data.name}-{settings.model.model}")
    return Tracker(path, values, train.use_wandb, identity)


def _measure(
    tracker,
    model,
    data,
    settings,
    progress,
):
    """What comes after training: figures, tables, and what W&B shows of a model."""
    best = Path(settings.train.checkpoint_dir) / "best"
    results = measure(model, data, settings, progress, best)
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
    report(results, progress)
    print(f"\nModel, results and ranks of each request: {best}")
    print(f"Record of the run: {tracker.path}")
    return results


def _announce(settings, data, model):
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
        f"{settings.model.model} model, {count:,} parameters; selection on validation NDCG@10; "
        f"Ctrl-C saves and --resume goes on",
        flush=True,
    )


def asked_for(argv: list[str], description: str) -> tuple[Settings, bool]:
    """(settings, resume) of a command line; with --resume the settings are those of the stopped
    run."""
    settings, resume = parse_command_line(argv, description)
    if not resume:
        return settings, resume
    folder = settings.train.checkpoint_dir
    last = Path(folder) / "last"
    if not settled(last):
        raise UserError(
            f"--resume: {last} does not exist; there is no stopped run to go on with"
        )
    stored = stored_settings(last, read_json(last / INFO))
    return stored.replace(checkpoint_dir=folder), resume


def main(argv: list[str]) -> None:
    """See the module's head."""
    train(*asked_for(argv, __doc__))


if __name__ == "__main__":
    sys.exit(run_command(main))
