"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4
--max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several
processes: `torchrun --nproc_per_node 2 trainer.py ...`. Ctrl-C saves; `--resume` goes on. All
flags: --help, or settings.py. Own data: `--dataset clicks.csv`, or a YAML file with a schema
(datasets/README.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.popularity import Popularity
from batches import history_batch, history_of
from command_line import parse_command_line, say_idle_flags
from data_processor import load
from dataset import Dataset
from evaluation.metrics import per_request
from evaluation.protocols import (
    both_filters,
    draw_candidates,
    filters_seen,
    hide_seen,
    protocol_line,
    target_ranks,
)
from evaluation.report import print_ranking, summarise, write_request_results
from evaluation.side_tasks import (
    expected,
    head_outputs,
    preference_quality,
    value_quality,
)
from model_io import Checkpoint, load_model, save_model, starting_model, training_hashes
from settings import BOOKKEEPING, DataSettings, Settings, idle, section_fields
from support.checkpoint import read_json, settled, write_json
from support.devices import peak_memory_mb
from support.errors import UserError, run_command
from support.tables import print_table
from support.tracking import Tracker, git_commit, run_identity, run_path
from text_vectors import available
from training_loop import (
    SELECTION_METRIC,
    Progress,
    Stopped,
    fit,
    leave_process_group,
    seed_everything,
)

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
    start = None
    if settings.train.start_from:
        start = load_model(
            Path(settings.train.start_from), data_dir=settings.data.data_dir
        )
    data = load(settings.data, start.catalogue if start else None)
    if start:
        _check_start(start, data, settings)
    folder = Path(settings.train.checkpoint_dir)
    seed_everything(settings.train.seed)
    model = starting_model(data, settings)
    teachers = _teachers(data, settings)
    record = None
    if main_process:
        # find out now that it cannot be written
        folder.mkdir(parents=True, exist_ok=True)
        record = run_path(
            settings.train.runs_dir, f"{data.name}-{settings.model.model}"
        )
        identity = identity or run_identity(folder / "run_id", resume)
    tracker = open_tracker(record, settings, data.split_hash, git_commit(), identity)
    if main_process:
        _announce(settings, data, model)

    def keep(best: nn.Module, validation: dict[str, Any], first: bool) -> None:
        save_model(
            folder / "best", best, settings, data, validation, keep_previous=first
        )

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
        if not main_process:
            return None
        results = measure(model, data, settings, progress, folder / "best")
        show_results(tracker, results)
        if tracker.shown:
            _show_model(tracker, model, data, settings, folder / "best")
        tracker.close()
    except BaseException:
        tracker.close(failed=True)
        raise
    finally:
        leave_process_group()
    report(results, progress, settings)
    print(
        f"\nModel, results and ranks of each request: {folder / 'best'}   record of the run: {record}"
    )
    return results


def open_tracker(
    record: Path | None, settings: Settings, split_hash: str, commit: str, identity: str
) -> Tracker:
    """The record that these settings ask for, on W&B if they say so."""
    train = settings.train
    description = {**settings.to_dict(), "split_hash": split_hash, "git_commit": commit}
    return Tracker(
        record,
        description,
        train.use_wandb,
        train.wandb_mode,
        train.run_group,
        train.run_name,
        identity,
    )


def measure(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    progress: Progress,
    folder: Path,
) -> dict[str, Any]:
    """Read the test items once: ranking, values, preferences, each beside its baselines; written
    to `folder`."""
    scorer = model.frozen()
    device = next(model.parameters()).device
    length, name = settings.model.seq_length, settings.model.model
    requests = data.split.requests["test"]
    rankers = {"popularity": Popularity(data), name: scorer}
    ranking, columns = {}, {}
    for suffix, evaluation in both_filters(settings.eval, data).items():
        for label, ranker in rankers.items():
            rank = target_ranks(ranker, data, "test", length, evaluation, device)
            ranking[label + suffix] = summarise(rank, requests.users)
            if not suffix:
                columns["rank" if label == name else "popularity_rank"] = rank
    columns |= per_request(columns["rank"])
    results: dict[str, Any] = {
        "protocol": protocol_line(data, "test", settings.eval, query_time(settings)),
        "seed": settings.train.seed,
        "split_hash": data.split_hash,
        "git_commit": git_commit(),
        "ranking": ranking,
        "best": progress.best,
        "training_seconds": round(progress.seconds, 1),
        "processor_seconds": round(progress.processor_seconds, 1),
        "epochs": progress.epoch,
        "steps": progress.step,
        "peak_memory_mb": peak_memory_mb(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    heads = head_outputs(scorer, data, "test", length, device)
    results["values"] = {}
    for column, probabilities in heads.values.items():
        entry = data.catalogue.interaction_fields[column]
        results["values"][column] = value_quality(entry, probabilities, data, "test")
        guess = expected(entry, probabilities)
        if guess is not None:
            columns[f"predicted_{column}"] = guess
    results["preferences"] = {
        column: preference_quality(column, shares, data, "test")
        for column, shares in heads.preferences.items()
    }
    candidates = draw_candidates(data, "test", settings.eval)
    if candidates is not None:  # what each target was ranked among
        columns["candidate"] = data.catalogue.items.id_array(candidates)
    write_request_results(folder / "test_users.parquet", data, "test", columns)
    write_json(folder / "results.json", results)  # last: where it stands, all is done
    return results


def query_time(settings: Settings) -> str:
    """Whether the model is told the time of the request."""
    return (
        settings.model.query_time if settings.model.model == "enhanced" else "unknown"
    )


def report(results: dict[str, Any], progress: Progress, settings: Settings) -> None:
    """The tables a run ends with."""
    if "SYNTHETIC" in results["protocol"]:
        _banner("SYNTHETIC DATA: the numbers below are not those of real data")
    print_ranking(
        "Ranking on the test items (95 % bootstrap intervals over users, one seed)",
        results["protocol"],
        results["ranking"],
    )
    same = f"the same users, histories and split {results['split_hash']}"
    for column, rows in results["values"].items():
        names = list(next(iter(rows.values())))
        cells = [
            [name, *(f"{row[measure]:.4f}" for measure in names)]
            for name, row in rows.items()
        ]
        print_table(f"{column} of the test item", same, ["predictor", *names], cells)
    for column, row in results["preferences"].items():
        cells = [[name, f"{value:.4f}"] for name, value in row.items()]
        print_table(
            f"{column} of the next item: cross-entropy in nats, lower is better",
            same,
            ["predictor", "nats"],
            cells,
        )
    best = progress.best
    print(
        f"\nBest model: epoch {best['epoch']}, step {best['step']}, {best['tokens']:,} interactions, "
        f"after {best['seconds']:.0f} s of {results['training_seconds']:.0f} s; validation HR@10 "
        f"{best['HR@10']:.4f}, NDCG@10 {best['NDCG@10']:.4f}; peak memory "
        f"{results['peak_memory_mb']:,} MB"
    )
    if best["epoch"] == progress.epoch:
        print(
            "The last evaluation was the best: more epochs may help (--max_epochs, --max_minutes)."
        )
    print(
        f"Seed {settings.train.seed}, preset and flags in the record below; selection on validation "
        f"only."
    )


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


def _teachers(data: Dataset, settings: Settings) -> Sequence[nn.Module]:
    """Models to follow. Raises `UserError` if one cannot say what this run asks."""
    paths = [Path(path.strip()) for path in settings.train.teacher.split(",") if path]
    return [_teacher(path, data, settings) for path in paths]


def _teacher(folder: Path, data: Dataset, settings: Settings) -> nn.Module:
    own = Path(settings.train.checkpoint_dir) / "best"
    if folder.resolve() == own.resolve():
        raise UserError(
            f"--teacher {folder} is where this run keeps its own model; give another "
            f"--checkpoint_dir"
        )
    checkpoint = load_model(folder, data_dir=settings.data.data_dir)
    hash_there = checkpoint.info["split_hash"]
    if hash_there != data.split_hash:
        raise UserError(
            f"--teacher {folder} was trained on split {hash_there}, this run on "
            f"{data.split_hash}: other items, or interactions that are held out here; "
            f"train it on the same data"
        )
    _refuse_other_data(f"--teacher {folder}", checkpoint.info, settings)
    ours, theirs = settings.model, checkpoint.settings.model
    same = all(
        getattr(theirs, name) == getattr(ours, name)
        for name in ("model", "start_token", "query_time")
    )
    heads = all(
        bool(theirs.task_weights[task]) == bool(ours.task_weights[task])
        for task in ("next_item", "masked_item")
    )
    if not same or not heads or theirs.seq_length < ours.seq_length:
        raise UserError(
            f"--teacher {folder} must be a model of the same kind (--model {ours.model}) "
            f"with the same item heads, start and --query_time that reads at least "
            f"{ours.seq_length} interactions"
        )
    return checkpoint.model


def _check_start(start: Checkpoint, data: Dataset, settings: Settings) -> None:
    """Raises `UserError` if a model to go on from may have learned from what is held out here:
    what trained it must be what each user's training part begins with, which may be longer."""
    folder = settings.train.start_from
    _refuse_other_data(f"--start_from {folder}", start.info, settings)
    theirs = start.info["trained_on"]
    rows = data.catalogue.users.index(_as_ids(data, theirs["users"]))
    lengths = np.array(theirs["lengths"])
    ends = data.offsets[:-1].copy()
    ends[rows] += np.minimum(lengths, data.train_lengths[rows])
    here = training_hashes(data, ends)
    hashes = dict(zip(here["users"], here["hashes"], strict=True))
    for user, digest in zip(theirs["users"], theirs["hashes"], strict=True):
        if hashes.get(user) != digest:
            raise UserError(
                f"--start_from {folder} may have been trained on what is held out here: "
                f"what trained it of user {user} is not what this user's training part "
                f"begins with; give the files that trained it, or such with later "
                f"interactions"
            )


def _as_ids(data: Dataset, ids: list[Any]) -> np.ndarray:
    return np.array(ids, dtype=data.catalogue.users.ids.dtype)


def _refuse_other_data(origin: str, info: dict[str, Any], settings: Settings) -> None:
    """Raises `UserError` if a checkpoint with this info may have learned from what this run holds
    out.

    origin: the flag and folder that brought it here.
    """
    # The hash does not hold each choice, so one that rounds alike is compared too.
    theirs, ours = Settings().replace(**info["settings"]).to_dict(), settings.to_dict()
    for name in section_fields(DataSettings):
        if name in (*BOOKKEEPING, "dataset") or idle(name, settings) is not None:
            continue
        if theirs[name] != ours[name]:
            raise UserError(
                f"{origin} was trained with another choice of data: --{name} is "
                f"{theirs[name]} there and {ours[name]} here; train one with the same"
            )
    if SELECTION_METRIC not in info.get("validation", {}):
        raise UserError(
            f"{origin} was not selected on validation: what this run holds out may have "
            f"trained it; train one with trainer.py"
        )


def _announce(settings: Settings, data: Dataset, model: nn.Module) -> None:
    if data.note.startswith("SYNTHETIC"):
        _banner("SYNTHETIC DATA: nothing measured here is a number of real data")
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


def _banner(text: str) -> None:
    line = "!" * (len(text) + 4)
    print(f"\n{line}\n! {text} !\n{line}", flush=True)


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
