"""Everything that is measured of one trained model, beside its training run's table.

    python -m evaluation.analyse --model_path checkpoints/best [--until validation] [--output FOLDER]

Ranking with every metric; lists of ten: coverage, novelty, popularity, diversity, genre calibration; the metric by
gender, age, occupation, length of history, popularity of the target and time since the last interaction; the
reliability of the rating head. --output writes the tables as Markdown and LaTeX. Choose models by what
`--until validation` says; reading the test set is for the report.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from baselines.popularity import Popularity
from data_processor import SequenceData
from evaluation.calibration import rating_reliability
from evaluation.lists import coverage, list_quality, top_lists
from evaluation.metrics import bootstrap_interval, per_person
from evaluation.protocols import protocol_line, request_batches, target_ranks
from evaluation.report import print_table, table_text
from evaluation.slices import slice_table
from settings import Settings
from support.arguments import ArgumentParser
from support.errors import run_command

if TYPE_CHECKING:
    from torch import nn

Table = tuple[str, list[str], list[list[str]]]


def analyse(model: nn.Module, data: SequenceData, settings: Settings, until: str) -> list[Table]:
    """(title, header, rows) of every table; each beside popularity where that says something."""
    length, evaluation = settings.model.seq_length, settings.eval
    people = data.split.requests[until].people
    rankers = {"popularity": Popularity(data), settings.model.model: model}
    ranks = {name: target_ranks(ranker, data, until, length, evaluation) for name, ranker in rankers.items()}
    metrics = {name: per_person(rank, people) for name, rank in ranks.items()}
    tables = [("Ranking", ["metric", *rankers],
               [[metric, *(_interval(values[metric]) for values in metrics.values())]
                for metric in next(iter(metrics.values()))])]
    lists = {name: top_lists(ranker, data, until, length, evaluation) for name, ranker in rankers.items()}
    quality = {name: list_quality(chosen, data, until) for name, chosen in lists.items()}
    covered = {name: coverage(chosen, data) for name, chosen in lists.items()}
    tables.append(("Lists of ten films", ["measure", *rankers],
                   [[measure, *(f"{values[measure]:.3f}" for values in covered.values())]
                    for measure in next(iter(covered.values()))]
                   + [[measure, *(f"{values[measure].mean():.3f}" for values in quality.values())]
                      for measure in next(iter(quality.values()))]))
    tables.append(("NDCG@10 by slice, 95 % intervals over people", ["slice", "people", settings.model.model], [
        [f"{family}: {name}", f"{number:,}", f"{mean:.4f} ({low:.3f}-{high:.3f})"]
        for family, name, number, mean, low, high in slice_table(ranks[settings.model.model], data, until)]))
    if getattr(model, "rating_head", None) is not None:
        reliability = rating_reliability(rating_probabilities(model, data, settings, until),
                                         data.ratings[data.split.requests[until].ends])
        tables.append((f"Reliability of the rating head: expected calibration error {reliability.error:.4f}",
                       ["stated probability", "observed share", "statements"],
                       [[f"{stated:.3f}", f"{observed:.3f}", f"{number:,}"] for stated, observed, number in
                        zip(reliability.stated, reliability.observed, reliability.number, strict=True)]))
    return tables


@torch.no_grad()
def rating_probabilities(model: nn.Module, data: SequenceData, settings: Settings, until: str) -> np.ndarray:
    """(Q, 5) probabilities of the rating of the film that follows each request's history."""
    targets = data.items[data.split.requests[until].ends]
    result = np.zeros((len(targets), 5))
    for chosen, batch in request_batches(data, until, settings.model.seq_length, settings.eval.eval_batch_size,
                                         torch.device("cpu")):
        states = model.request_states(batch)
        result[chosen] = model.rating_probabilities(states, torch.from_numpy(targets[chosen])).numpy()
    return result


def _interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.4f} ({low:.3f}-{high:.3f})"


def main(argv: list[str]) -> None:
    """See the module's head."""
    from model_io import data_of, load_model

    parser = ArgumentParser(__doc__)
    parser.add_argument("--model_path", default="checkpoints/best",
                        help="folder of a trained model (default: %(default)s)")
    parser.add_argument("--until", choices=("validation", "test"), default="test", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder for the tables as .md and .tex")
    flags = parser.parse_args(argv)
    model, settings, _, info = load_model(Path(flags.model_path))
    data = data_of(settings.data, info, flags.model_path)
    query_time = settings.model.query_time if settings.model.model == "enhanced" else "unknown"
    line = protocol_line(data, flags.until, settings.eval, query_time)
    tables = analyse(model, data, settings, flags.until)
    for title, header, rows in tables:
        print_table(title, line, header, rows)
    if flags.output:
        flags.output.mkdir(parents=True, exist_ok=True)
        for suffix, latex in ((".md", False), (".tex", True)):
            text = "\n".join(f"{'%' if latex else '##'} {title}\n\n{table_text(header, rows, latex)}"
                             for title, header, rows in tables)
            text = f"{'%' if latex else '#'} {line}\n\n{text}"
            (flags.output / f"analysis{suffix}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
