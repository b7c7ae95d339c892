"""Everything that is measured of one trained model, beside its training run's table.

    python -m ablations.analyse --model_path checkpoints/best [--until validation] [--output FOLDER]

Ranking with every metric; lists of ten: coverage, novelty, popularity, diversity, calibration;
the metric by each column of users and of the target, by length of history, popularity and time
since the last interaction; the reliability of the value heads. --output writes the tables as
Markdown. Choose models by what `--until validation` says; reading the test set is for
the report.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from baselines.popularity import Popularity
from dataset import Dataset
from evaluation.lists import coverage, list_quality, top_lists
from evaluation.protocols import both_filters, protocol_line, target_ranks
from evaluation.report import cell, summarise
from evaluation.side_tasks import head_outputs
from evaluation.slices import slice_table
from model_io import data_of, load_model
from scorer import Scorer
from settings import Settings
from support.arguments import ArgumentParser
from support.errors import run_command
from support.tables import print_table, table_text

BINS = 10  # of stated probabilities
Table = tuple[str, list[str], list[list[str]]]


def analyse(
    scorer: Scorer, data: Dataset, settings: Settings, until: str
) -> list[Table]:
    """(title, header, rows) of every table; each beside popularity where that says something."""
    length, name = settings.model.seq_length, settings.model.model
    rankers = {"popularity": Popularity(data), name: scorer}
    users = data.split.requests[until].users
    tables: list[Table] = []
    for suffix, evaluation in both_filters(settings.eval, data).items():
        summaries = []
        for label, ranker in rankers.items():
            rank = target_ranks(ranker, data, until, length, evaluation)
            summaries.append(summarise(rank, users))
            if label == name and not suffix:
                own = rank
        rows = []
        for metric in summaries[0]:
            rows.append(
                [metric, *(cell(summary[metric]) for summary in summaries)]
            )
        tables.append((f"Ranking{suffix}", ["metric", *rankers], rows))
    tables.append(_lists(rankers, data, settings, until))
    rows = [
        [f"{family}: {part}", f"{number:,}", cell(found)]
        for family, part, number, found in slice_table(own, data, until)
    ]
    tables.append(
        (
            "NDCG@10 by slice, 95 % intervals over users",
            ["slice", "users", name],
            rows,
        )
    )
    stated, _ = head_outputs(scorer, data, until, length, torch.device("cpu"))
    for column, shares in stated.items():
        codes = data.columns[column][data.split.requests[until].ends]
        tables.append(
            _reliability(column, shares[codes > 0], codes[codes > 0])
        )
    return tables


def _reliability(column: str, shares: np.ndarray, codes: np.ndarray) -> Table:
    """Whether the probabilities (Q, K) of a value head are what they say: of all statements 'this
    value is c' in bins of equal width what was stated on average and how often it was so.

    Expected calibration error: mean difference, weighted by number (Naeini et al., AAAI 2015).
    """
    statements = shares.ravel()
    true = (codes[:, None] == np.arange(1, shares.shape[1] + 1)).ravel()
    bins = np.minimum((statements * BINS).astype(int), BINS - 1)
    numbers = np.bincount(bins, minlength=BINS)
    rows, error = [], 0.0
    for place in np.flatnonzero(numbers):
        said, seen = (
            statements[bins == place].mean(),
            true[bins == place].mean(),
        )
        error += abs(said - seen) * numbers[place] / len(statements)
        rows.append([f"{said:.3f}", f"{seen:.3f}", f"{numbers[place]:,}"])
    title = f"Reliability of the head for {column}: expected calibration error {error:.4f}"
    return title, ["stated probability", "observed share", "statements"], rows


def _lists(
    rankers: dict, data: Dataset, settings: Settings, until: str
) -> Table:
    columns = {}
    for name, ranker in rankers.items():
        chosen = top_lists(
            ranker, data, until, settings.model.seq_length, settings.eval
        )
        means = {
            measure: float(np.nanmean(values))
            for measure, values in list_quality(chosen, data, until).items()
        }
        columns[name] = coverage(chosen, data) | means
    measures = next(iter(columns.values()))
    rows = [
        [measure, *(f"{values[measure]:.3f}" for values in columns.values())]
        for measure in measures
    ]
    return (
        f"Lists of ten {data.catalogue.schema.nouns}",
        ["measure", *rankers],
        rows,
    )


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--model_path",
        default="checkpoints/best",
        help="folder of a trained model (default: %(default)s)",
    )
    add(
        "--data_dir",
        help="folder with the data set's files (default: as in training)",
    )
    add(
        "--until",
        choices=("validation", "test"),
        default="test",
        help="(default: %(default)s)",
    )
    add("--output", type=Path, help="folder for the tables as analysis.md")
    flags = parser.parse_args(argv)
    checkpoint = load_model(Path(flags.model_path), data_dir=flags.data_dir)
    data, settings = (
        data_of(checkpoint, flags.model_path, flags.data_dir),
        checkpoint.settings,
    )
    line = protocol_line(
        data, flags.until, settings.eval, settings.model.query_time
    )
    tables = analyse(checkpoint.model.frozen(), data, settings, flags.until)
    for title, header, rows in tables:
        print_table(title, line, header, rows)
    if not flags.output:
        return
    parts = [f"# {line}\n"]
    for title, header, rows in tables:
        parts.append(f"## {title}\n\n{table_text(header, rows)}")
    flags.output.mkdir(parents=True, exist_ok=True)
    (flags.output / "analysis.md").write_text(
        "\n".join(parts), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
