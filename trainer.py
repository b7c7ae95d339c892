"""Train a model and measure it: `python trainer.py --batch_size 128 --learning_rate 5e-4 --max_epochs 50`.

Selection is on the validation items alone; the test items are read once, at the end. Several processes:
`torchrun --nproc_per_node 2 trainer.py ...`. Ctrl-C saves; `--resume` goes on. All flags: --help, or settings.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.mean_ratings import mean_predictors
from baselines.popularity import Popularity
from batches import history_batch, history_of
from command_line import parse_command_line, say_idle_flags
from data_processor import FIRST_ITEM, SequenceData, load
from evaluation.metrics import per_request
from evaluation.protocols import draw_candidates, hide_seen, protocol_line, target_ranks
from evaluation.report import print_ranking, print_table, summarise, write_request_results
from evaluation.side_tasks import preference_quality, rating_errors, rating_predictions
from item_encoders.text import available
from model_io import load_model, save_model, starting_model
from settings import BOOKKEEPING, DataSettings, Settings, idle, section_fields
from support.checkpoint import read_json, settled, write_json
from support.devices import peak_memory_mb
from support.errors import UserError, run_command
from support.tracking import Tracker, git_commit, run_identity, run_path
from training_loop import SELECTION_METRIC, Progress, Stopped, fit, leave_process_group, seed_everything

STOPPED = 130  # the shell's code for Ctrl-C


def train(settings: Settings, resume: bool = False, identity: str = "") -> dict[str, Any] | None:
    """Train, test, report; returns the results (None on processes other than the main one).

    identity: by which a dashboard knows the run; '' for a new one, or with `resume` that of the stopped run.

    Leaves `<checkpoint_dir>/best` with the model, results.json and a row of results per user. Raises `Stopped` or
    `UserError`.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    settings = settings.replace(title_encoder=available(settings.model.title_encoder))
    data = load(settings.data)
    folder = Path(settings.train.checkpoint_dir)
    seed_everything(settings.train.seed)
    if settings.train.start_from:
        _check_start(Path(settings.train.start_from), data, settings)
    model = starting_model(data, settings)
    teachers = [_teacher(Path(path.strip()), data, settings) for path in settings.train.teacher.split(",") if path]
    record = None
    if main_process:
        folder.mkdir(parents=True, exist_ok=True)  # find out now that it cannot be written, not after an epoch
        record = run_path(settings.train.runs_dir, f"{data.name}-{settings.model.model}")
        identity = identity or run_identity(folder / "run_id", resume)
    tracker = open_tracker(record, settings, data.split_hash, git_commit(), identity)
    if main_process:
        _announce(settings, data, model)

    def keep(best: nn.Module, validation: dict[str, Any], first: bool) -> None:
        save_model(folder / "best", best, settings, data, validation, keep_previous=first)

    try:
        progress = fit(model, data, settings, state_folder=folder / "last", resume=resume, tracker=tracker,
                       on_best=keep, teachers=teachers)
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
    print(f"\nModel, results and per-user ranks: {folder / 'best'}   record of the run: {record}")
    return results


def open_tracker(record: Path | None, settings: Settings, split_hash: str, commit: str, identity: str) -> Tracker:
    """The record that these settings ask for, on a dashboard if they name one."""
    train = settings.train
    return Tracker(record, {**settings.to_dict(), "split_hash": split_hash, "git_commit": commit}, train.use_wandb,
                   train.wandb_mode, train.run_group, train.run_name, identity)


def measure(model: nn.Module, data: SequenceData, settings: Settings, progress: Progress,
            folder: Path) -> dict[str, Any]:
    """Read the test items once: ranking, ratings, preferences, each beside its baselines; written to `folder`."""
    model.eval()
    model.fix_item_table()
    device = next(model.parameters()).device
    length, size = settings.model.seq_length, settings.eval.eval_batch_size
    ranks = {name: target_ranks(ranker, data, "test", length, settings.eval, device)
             for name, ranker in (("popularity", Popularity(data)), (settings.model.model, model))}
    columns = {"rank": ranks[settings.model.model], "popularity_rank": ranks["popularity"]}
    columns |= per_request(columns["rank"])
    query_time = settings.model.query_time if settings.model.model == "enhanced" else "unknown"
    results: dict[str, Any] = {
        "protocol": protocol_line(data, "test", settings.eval, query_time), "seed": settings.train.seed,
        "split_hash": data.split_hash, "git_commit": git_commit(),
        "ranking": {name: summarise(rank, data.split.requests["test"].people)
                    for name, rank in ranks.items()},
        "best": progress.best, "training_seconds": round(progress.seconds, 1),
        "processor_seconds": round(progress.processor_seconds, 1), "epochs": progress.epoch, "steps": progress.step,
        "peak_memory_mb": peak_memory_mb(),
        "parameters": sum(parameter.numel() for parameter in model.parameters())}
    if getattr(model, "rating_head", None) is not None:
        predicted = rating_predictions(model.rate, data, "test", length, size, device)
        columns["predicted_rating"] = predicted
        results["rating"] = {name: rating_errors(guess, data, "test") for name, guess in
                             {**mean_predictors(data, "test"), "rating head": predicted}.items()}
    if getattr(model, "preference_head", None) is not None:
        results["preference"] = {until: preference_quality(model.preferences, data, until, length, size, device)
                                 for until in ("validation", "test")}
    candidates = draw_candidates(data, "test", settings.eval)
    if candidates is not None:
        columns["candidate"] = data.catalogue.movie_ids[candidates - FIRST_ITEM]  # what each target was ranked among
    write_request_results(folder / "test_users.parquet", data, "test", columns)
    write_json(folder / "results.json", results)  # last: where it stands, all is done
    return results


def report(results: dict[str, Any], progress: Progress, settings: Settings) -> None:
    """The tables a run ends with."""
    if "SYNTHETIC" in results["protocol"]:
        _banner("SYNTHETIC DATA: the numbers below are not MovieLens numbers")
    print_ranking("Ranking on the test items (95 % bootstrap intervals over users, one seed)", results["protocol"],
                  results["ranking"])
    same = f"the same users, histories and split {results['split_hash']}"
    if "rating" in results:
        print_table("Rating of the test item", same, ["predictor", "RMSE", "MAE"],
                    [[name, f"{row['RMSE']:.4f}", f"{row['MAE']:.4f}"] for name, row in results["rating"].items()])
    if "preference" in results:
        print_table("Genres of the next item: cross-entropy in nats, lower is better", same,
                    ["split", *results["preference"]["test"]],
                    [[until, *(f"{value:.4f}" for value in row.values())]
                     for until, row in results["preference"].items()])
    best = progress.best
    print(f"\nBest model: epoch {best['epoch']}, step {best['step']}, {best['tokens']:,} interactions, after "
          f"{best['seconds']:.0f} s of {results['training_seconds']:.0f} s; validation HR@10 {best['HR@10']:.4f}, "
          f"NDCG@10 {best['NDCG@10']:.4f}; peak memory {results['peak_memory_mb']:,} MB")
    if best["epoch"] == progress.epoch:
        print("The last evaluation was the best: more epochs may help (--max_epochs, --max_minutes).")
    print(f"Seed {settings.train.seed}, preset and flags in the record below; selection on validation only.")


def show_results(tracker: Tracker, results: dict[str, Any]) -> None:
    """What a dashboard shows of a run's end: the figures, and the ranking as a table."""
    tracker.log("test", **results)
    ranking = results["ranking"]
    metrics = list(next(iter(ranking.values())))
    tracker.table("results", ["model", *metrics], [[name, *(row[metric]["mean"] for metric in metrics)]
                                                   for name, row in ranking.items()])


def _show_model(tracker: Tracker, model: nn.Module, data: SequenceData, settings: Settings, folder: Path) -> None:
    """What a dashboard shows beside: recommendations for a few people, the checkpoint."""
    people = np.linspace(0, data.num_users - 1, num=min(5, data.num_users), dtype=np.int64)
    batch = history_batch([history_of(data, person) for person in people.tolist()], settings.model.seq_length)
    with torch.no_grad():
        scores = model.score(batch.to(next(model.parameters()).device)).cpu()
    hide_seen(scores, data, people, data.offsets[people + 1])
    best = scores.topk(min(10, scores.shape[1] - FIRST_ITEM))
    films = data.catalogue
    tracker.table("recommendations", ["user_id", "place", "film", "score"], [
        [int(films.user_ids[person]), place, films.titles[int(row) - FIRST_ITEM], float(score)]
        for person, rows, values in zip(people, best.indices, best.values, strict=True)
        for place, (row, score) in enumerate(zip(rows, values, strict=True), start=1)])
    tracker.artifact(folder, f"{data.name}-{settings.model.model}-{settings.train.seed}")


def _teacher(folder: Path, data: SequenceData, settings: Settings) -> nn.Module:
    """A model to follow. Raises `UserError` if it cannot say what this run asks."""
    if folder.resolve() == (Path(settings.train.checkpoint_dir) / "best").resolve():
        raise UserError(f"--teacher {folder} is where this run keeps its own model; give another --checkpoint_dir")
    model, theirs, _, info = load_model(folder, data_dir=settings.data.data_dir)
    if info["split_hash"] != data.split_hash:
        raise UserError(f"--teacher {folder} was trained on split {info['split_hash']}, this run on {data.split_hash}: "
                        f"other films, or interactions that are held out here; train it on the same data")
    _refuse_other_data(f"--teacher {folder}", info, settings)
    ours, rank = settings.model, ("model", "next_item_head", "masked_item_head", "start_token", "query_time")
    if any(getattr(theirs.model, name) != getattr(ours, name) for name in rank) or \
            theirs.model.seq_length < ours.seq_length:
        raise UserError(f"--teacher {folder} must be a model of the same kind (--model {ours.model}) with the same "
                        f"item heads, start and --query_time that reads at least {ours.seq_length} interactions")
    asked, told = model.cloze_share(settings.train), model.cloze_share(theirs.train)
    if (asked > 0 and not told) or (asked < 1 and told == 1):
        raise UserError(f"--teacher {folder} did not train an item head that would follow it; train one with the same "
                        f"--masked_item_weight and --masked_batch_share")
    return model


def _check_start(folder: Path, data: SequenceData, settings: Settings) -> None:
    """Raises `UserError` if a model to go on from may have learned from what is held out here: what trained it must be
    what each person's training part begins with, which may be longer."""
    *_, info = load_model(folder, data_dir=settings.data.data_dir)
    _refuse_other_data(f"--start_from {folder}", info, settings)
    if info.get("split_hash") == data.split_hash:
        return
    theirs = dict(zip(info["user_ids"], info.get("train_lengths", ()), strict=False))
    if not theirs or any(
            length < theirs.get(user, 0) for user, length in zip(data.catalogue.user_ids.tolist(),
                                                                 data.train_lengths.tolist(), strict=True)):
        raise UserError(f"--start_from {folder} may have been trained on what is held out here: some people's training "
                        f"part is shorter here, or the checkpoint does not say; give the files that "
                        f"trained it, or such with later interactions")


def _refuse_other_data(origin: str, info: dict[str, Any], settings: Settings) -> None:
    """Raises `UserError` if a checkpoint with this info may have learned from what this run holds out; origin: the flag
    and folder that brought it here."""
    # The hash does not hold each choice to its last digit, so a share or date that rounds alike is compared too.
    theirs, ours = Settings().replace(**info["settings"]).to_dict(), settings.to_dict()
    differs = [name for name in section_fields(DataSettings)
               if name not in BOOKKEEPING and idle(name, settings) is None and theirs[name] != ours[name]]
    if differs:
        raise UserError(f"{origin} was trained with another choice of data: --{differs[0]} is {theirs[differs[0]]} "
                        f"there and {ours[differs[0]]} here; train one with the same")
    if SELECTION_METRIC not in info.get("validation", {}):
        raise UserError(f"{origin} was not selected on validation: what this run holds out may have trained it; train "
                        f"one with trainer.py")


def _announce(settings: Settings, data: SequenceData, model: nn.Module) -> None:
    if data.name == "synthetic":
        _banner("SYNTHETIC DATA: nothing measured here is a MovieLens number")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{data.name}: {len(data.items):,} interactions of {data.num_users:,} people with "
          f"{len(data.catalogue.movie_ids):,} films, split {data.split_hash}"
          + (f" ({data.note})" if data.note else ""))
    print(f"{settings.model.model} model, {count:,} parameters; selection on validation NDCG@10; "
          f"Ctrl-C saves and --resume goes on", flush=True)


def _banner(text: str) -> None:
    print("\n" + "!" * (len(text) + 4) + f"\n! {text} !\n" + "!" * (len(text) + 4), flush=True)


def stored_settings(folder: Path) -> Settings:
    """Settings of the stopped run in `folder`."""
    if not settled(folder / "last"):
        raise UserError(f"--resume: {folder / 'last'} does not exist; there is no stopped run to go on with")
    path = folder / "last" / "checkpoint.json"
    try:
        return Settings().replace(**read_json(path)["settings"])
    except (KeyError, TypeError) as error:
        raise UserError(f"--resume: {path} is damaged ({error!r}); start again without --resume") from error
    except UserError as error:
        raise UserError(f"--resume: {path} was written by another version of this program ({error}); use that version, "
                        f"or start again without --resume") from error


def main(argv: list[str]) -> int:
    """Exit code 0, or 130 after a stop that `--resume` can undo."""
    settings, resume = parse_command_line(argv, __doc__)
    say_idle_flags(argv, settings)
    if resume:
        settings = stored_settings(Path(settings.train.checkpoint_dir)).replace(
            checkpoint_dir=settings.train.checkpoint_dir)
    try:
        train(settings, resume)
    except Stopped:
        extra = "" if settings.train.checkpoint_dir == "checkpoints" else \
            f" --checkpoint_dir {settings.train.checkpoint_dir}"
        print(f"\nstopped and saved; go on with: python trainer.py --resume{extra}", file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
