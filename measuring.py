"""What a training run ends with: the test items, read once, and the tables of what came out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.popularity import Popularity
from dataset import Dataset
from evaluation.metrics import per_request
from evaluation.protocols import (
    both_filters,
    draw_candidates,
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
from scorer import Scorer
from settings import Settings
from support.checkpoint import write_json
from support.memory import peak_memory_mb
from support.tables import print_table
from support.tracking import git_commit
from training_state import Progress


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
    told = settings.model.query_time
    rankers = {"popularity": Popularity(data), name: scorer}
    users = data.split.requests["test"].users
    ranking, columns = {}, {}
    for suffix, evaluation in both_filters(settings.eval, data).items():
        for label, ranker in rankers.items():
            rank = target_ranks(
                ranker, data, "test", length, evaluation, device
            )
            ranking[label + suffix] = summarise(rank, users)
            if not suffix:
                columns["rank" if label == name else "popularity_rank"] = rank
    columns |= per_request(columns["rank"])
    values, preferences, guesses = _heads(scorer, data, length, device)
    columns |= guesses
    candidates = draw_candidates(data, "test", settings.eval)
    if candidates is not None:
        columns["candidate"] = data.catalogue.items.id_array(candidates)
    results = {
        "protocol": protocol_line(data, "test", settings.eval, told),
        "seed": settings.train.seed,
        "split_hash": data.split_hash,
        "git_commit": git_commit(),
        "ranking": ranking,
        "values": values,
        "preferences": preferences,
        "parameters": sum(
            parameter.numel() for parameter in model.parameters()
        ),
        **_spent(progress),
    }
    write_request_results(folder / "test_users.parquet", data, "test", columns)
    # Last: where it stands, all is done.
    write_json(folder / "results.json", results)
    return results


def _heads(
    scorer: Scorer, data: Dataset, length: int, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """(figures of the value heads, of the preference heads, expected numbers of each request)."""
    stated, shares = head_outputs(scorer, data, "test", length, device)
    values, preferences, guesses = {}, {}, {}
    for column, probabilities in stated.items():
        entry = data.catalogue.interaction_fields[column]
        values[column] = value_quality(entry, probabilities, data, "test")
        guess = expected(entry, probabilities)
        if guess is not None:
            guesses[f"predicted_{column}"] = guess
    for column, found in shares.items():
        preferences[column] = preference_quality(column, found, data, "test")
    return values, preferences, guesses


def _spent(progress: Progress) -> dict[str, Any]:
    return {
        "best": progress.best,
        "training_seconds": round(progress.seconds, 1),
        "processor_seconds": round(progress.processor_seconds, 1),
        "epochs": progress.epoch,
        "steps": progress.step,
        "peak_memory_mb": peak_memory_mb(),
    }


def report(results: dict[str, Any], progress: Progress) -> None:
    """The tables a run ends with."""
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
        print_table(
            f"{column} of the test item", same, ["predictor", *names], cells
        )
    for column, row in results["preferences"].items():
        cells = [[name, f"{value:.4f}"] for name, value in row.items()]
        title = f"{column} of the next item: cross-entropy in nats, lower is better"
        print_table(title, same, ["predictor", "nats"], cells)
    best = progress.best
    print(
        f"\nBest model: epoch {best['epoch']}, step {best['step']}, {best['tokens']:,} "
        f"interactions, after {best['seconds']:.0f} s of {results['training_seconds']:.0f} s; "
        f"validation HR@10 {best['HR@10']:.4f}, NDCG@10 {best['NDCG@10']:.4f}; peak memory "
        f"{results['peak_memory_mb']:,} MB; seed {results['seed']}"
    )
    if best["epoch"] == progress.epoch:
        print(
            "The last evaluation was the best: more epochs may help (--max_epochs, --max_minutes)."
        )
