"""The end of a training run: reads the test items once and prints the tables.

Q requests, T targets of a request.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.followers import PUBLISHED, pctm
from baselines.popularity import Popularity, RecentPopularity
from dataset import Dataset
from evaluation.metrics import METRIC, per_user
from evaluation.protocols import (
    Ranker,
    protocol_line,
    ranks_of,
    target_ranks,
)
from evaluation.report import (
    hit_max_ratio,
    print_ranking,
    summarise,
    write_request_results,
)
from evaluation.side_tasks import (
    PREFERENCES,
    VALUES,
    head_outputs,
    preference_quality,
    value_quality,
)
from run_folder import RESULTS
from settings import Settings, TrainSettings
from splits import MEASURED
from support.checkpoint import WEIGHTS, file_digest
from support.files import write_json
from support.memory import peak_memory_mb
from support.tables import by_row, print_table
from support.tracking import git_commit
from training_state import Progress

RECENT = 30  # days
CHOSEN_BY = 10_000  # requests by which a setting of PCTM is chosen, at most
HIT_MAX = "hit max ratio"
MASKED = "by the mask appended"


Ranks = dict[str, np.ndarray]  # name of a ranker -> (Q, T)


def rank_test_items(
    model: nn.Module, data: Dataset, settings: Settings
) -> Ranks:
    """Ranks of the test items by the model and by baselines. All processes call this."""
    data = _tested(data)
    asked = ("test", settings.model.seq_length, settings.eval)
    device = _device(model)
    name = settings.model.model
    rankers = {**counting_rankers(data, settings), name: model.frozen()}
    ranks = ranks_of(rankers, data, *asked, device, together=True)
    if name == "vanilla" or settings.model.masked_item_weight:
        ranks[MASKED] = target_ranks(
            model.frozen(cloze=True), data, *asked, device, together=True
        )
    return ranks


def measure(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    progress: Progress,
    folder: Path,
    ranks: Ranks,
) -> dict[str, Any]:
    """What the tables of a run say of the test items: ranking, values, preferences, each beside
    its baselines; written to `folder`. ranks: of `rank_test_items`."""
    data = _tested(data)
    ranks = dict(ranks)
    users = data.split.requests["test"].users
    hits = {}
    if MASKED in ranks:
        hits[MASKED] = hit_max_ratio(ranks.pop(MASKED), users)
    results = {
        "protocol": protocol_line(
            data, "test", settings.eval, settings.model.query_time
        ),
        "seed": settings.train.seed,
        "split_hash": data.split_hash,
        "git_commit": git_commit(),
        "weights": file_digest(folder / WEIGHTS),
        "ranking": {
            label: summarise(rank, data, "test")
            for label, rank in ranks.items()
        },
        HIT_MAX: hits,
        **_side_tasks(model, data, settings),
        "parameters": sum(map(torch.numel, model.parameters())),
        "best": progress.best,
        "training_seconds": round(progress.seconds, 1),
        "processor_seconds": round(progress.processor_seconds, 1),
        "epochs": progress.epoch,
        "steps": progress.step,
        "peak_memory_mb": peak_memory_mb(),
    }
    own = ranks[settings.model.model]
    write_request_results(folder / "test_users.parquet", data, "test", own)
    # Last: where it stands, all is done.
    write_json(folder / RESULTS, results)
    return results


def _tested(data):
    """The data with at most MEASURED test requests, spread evenly."""
    return data.replace(split=data.split.with_fewer("test", MEASURED))


def _device(model):
    return next(model.parameters()).device


def counting_rankers(data: Dataset, settings: Settings) -> dict[str, Ranker]:
    """The baselines beside every model: rankers by counts."""
    rankers: dict[str, Ranker] = {"popularity": Popularity(data)}
    if data.has_times:
        rankers[f"popularity of {RECENT} days"] = RecentPopularity(
            data, RECENT
        )
    rankers["PCTM"] = pctm(data, **pctm_setting(data, settings))
    return rankers


def pctm_setting(data: Dataset, settings: Settings) -> dict[str, Any]:
    """The published setting of PCTM that is better on validation, the first without validation."""
    if "validation" not in data.split.requests:
        return PUBLISHED[0]
    data = data.replace(split=data.split.with_fewer("validation", CHOSEN_BY))
    users = data.split.requests["validation"].users
    length = settings.model.seq_length

    def quality(setting):
        ranker = pctm(data, **setting)
        rank = target_ranks(
            ranker, data, "validation", length, settings.eval, together=True
        )
        return per_user(rank, users)[METRIC].mean()

    return max(PUBLISHED, key=quality)


def _side_tasks(model, data, settings):
    """Predictions of the heads for the test items, by kind and column, beside baselines."""
    qualities = {VALUES: value_quality, PREFERENCES: preference_quality}
    figures = {kind: {} for kind in qualities}
    length = settings.model.seq_length
    scorer = model.frozen()
    outputs = head_outputs(scorer, data, "test", length, _device(model))
    for (kind, column), found in outputs.items():
        quality = qualities[kind](column, found, data, "test")
        if quality:  # else no test item has a value
            figures[kind][column] = quality
    return figures


def report(
    results: dict[str, Any], progress: Progress, settings: TrainSettings
) -> None:
    """Print the tables of a run, and hints for a better one."""
    print_ranking(
        "Ranking on the test items (95 % bootstrap intervals over users, one seed)",
        results["protocol"],
        results["ranking"],
    )
    same = f"the same users, histories and split {results['split_hash']}"
    tables = {}
    if results[HIT_MAX]:
        tables[
            "Hit Max Ratio@k: hidden last items among the first k, a mask appended"
        ] = results[HIT_MAX]
    for column, rows in results[VALUES].items():
        tables[f"{column} of the test item"] = rows
    for column, row in results[PREFERENCES].items():
        title = f"{column} of the next item: cross-entropy, lower is better"
        tables[title] = {name: {"nats": value} for name, value in row.items()}
    for title, rows in tables.items():
        names, cells = by_row(rows, "{:.4f}".format)
        print_table(title, same, ["predictor", *names], cells)
    best = progress.best
    print(
        f"\nBest model: epoch {best['epoch']}, step {best['step']}, {best['tokens']:,} "
        f"interactions, after {best['seconds']:.0f} s of {results['training_seconds']:.0f} s; "
        f"validation HR@10 {best['HR@10']:.4f}, NDCG@10 {best['NDCG@10']:.4f}; peak memory "
        f"{results['peak_memory_mb']:,} MB; seed {results['seed']}"
    )
    if best["epoch"] == progress.epoch:
        limits = ["--max_steps" if settings.max_steps else "--max_epochs"]
        limits += ["--max_minutes"] if settings.max_minutes else []
        print(
            f"The last evaluation was the best: more training may help ({', '.join(limits)})."
        )
