"""All measurements of one trained model beyond the table of its training run.

    python -m ablations.analyse --model_path checkpoints/best [--until validation] [--output FOLDER]

Ranking with every metric; lists of ten: coverage, novelty, popularity, diversity, calibration;
the metric by each column of users and of the target, by length of history, popularity and time
since the last interaction; the reliability of the value heads. --output writes the tables as
Markdown. Choose models with `--until validation`; the test set is for the report.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from ablations.shown import shown_lists
from baselines.popularity import Popularity
from dataset import Dataset
from evaluation.lists import coverage, list_quality, top_lists
from evaluation.protocols import filters_seen, protocol_line, ranks_of
from evaluation.report import cell, summarise
from evaluation.side_tasks import VALUES, head_outputs
from evaluation.slices import slice_table
from model_io import load_with_data
from scorer import Scorer
from settings import Settings
from support.arguments import model_parser
from support.errors import run_command
from support.tables import by_row, show_tables

BINS = 10  # of stated probabilities
Table = tuple[str, list[str], list[list[str]]]


def analyse(
    scorer: Scorer, data: Dataset, settings: Settings, until: str
) -> list[Table]:
    """(title, header, rows) of every table, beside popularity where that is useful."""
    length, name = settings.model.seq_length, settings.model.model
    rankers = {"popularity": Popularity(data), name: scorer}
    requests = data.split.requests[until]
    ranks = ranks_of(rankers, data, until, length, settings.eval)
    ranking, lists = {}, {}
    for label, rank in ranks.items():
        ranking[label] = summarise(rank, data, until)
    for label, ranker in rankers.items():
        hides = filters_seen(settings.eval, data)
        chosen, _ = top_lists(ranker, data, requests, length, hides)
        lists[label] = coverage(chosen, data)
        for measure, values in list_quality(chosen, data, until).items():
            lists[label][measure] = float(np.nanmean(values))
    slices = [
        [f"{family}: {part}", f"{number:,}", cell(figure)]
        for family, part, number, figure in slice_table(
            ranks[name], data, until
        )
    ]
    metrics, ranking_rows = by_row(ranking, cell)
    measures, list_rows = by_row(lists, "{:.3f}".format)
    title = "NDCG@10 by slice, 95 % intervals over users"
    nouns = data.catalogue.schema.nouns
    tables = [
        ("Ranking", ["model", *metrics], ranking_rows),
        (f"Lists of ten {nouns}", ["model", *measures], list_rows),
        (title, ["slice", "users", name], slices),
    ]
    shown, shown_rows = by_row(
        shown_lists(scorer, data, settings, until), cell
    )
    title = "Which ten to show, by --rank_by, --diversity, --prefer_expected"
    tables.append((title, ["shown", *shown], shown_rows))
    cpu = torch.device("cpu")
    outputs = head_outputs(scorer, data, until, length, cpu)
    for (kind, column), shares in outputs.items():
        if kind != VALUES:
            continue
        codes = data.columns[column][requests.ends]
        known = codes > 0
        tables.append(_reliability(column, shares[known], codes[known]))
    return tables


def _reliability(column, shares, codes):
    """Reliability diagram of the probabilities (Q, K) of a value head. Each probability of a value
    is a statement. Statements are put into bins of equal width; a bin has its mean stated
    probability and the share of its statements that were true.

    Expected calibration error: mean difference, weighted by number (Naeini et al., AAAI 2015).
    """
    statements = shares.ravel()
    true = (codes[:, None] == np.arange(1, shares.shape[1] + 1)).ravel()
    bins = np.minimum((statements * BINS).astype(int), BINS - 1)
    numbers = np.bincount(bins, minlength=BINS)
    rows, error = [], 0.0
    for place in np.flatnonzero(numbers):
        predicted, observed = (
            statements[bins == place].mean(),
            true[bins == place].mean(),
        )
        error += abs(predicted - observed) * numbers[place] / len(statements)
        rows.append(
            [f"{predicted:.3f}", f"{observed:.3f}", f"{numbers[place]:,}"]
        )
    title = f"Reliability of the head for {column}: expected calibration error {error:.4f}"
    return title, ["stated probability", "observed share", "statements"], rows


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = model_parser(__doc__)
    add = parser.add_argument
    add("--until", choices=("validation", "test"), default="test")
    add("--output", type=Path, help="folder for the tables as analysis.md")
    flags = parser.parse_args(argv)
    model, settings, data = load_with_data(flags.model_path, flags.data_dir)
    query_time = settings.model.query_time
    line = protocol_line(data, flags.until, settings.eval, query_time)
    tables = [
        (title, line, header, rows)
        for title, header, rows in analyse(
            model.frozen(), data, settings, flags.until
        )
    ]
    show_tables(tables, flags.output and flags.output / "analysis.md")


if __name__ == "__main__":
    sys.exit(run_command(main))
