"""What in a split could flatter a number, and whether a model sees what it must not.

    python -m evaluation.audit --dataset ml-1m                      a split (any data flag of trainer.py)
    python -m evaluation.audit --model_path checkpoints/best        a model too, on the split it was trained on

Of the split: targets whose film training does not have, or has only later; training interactions that are later than a
target; targets with the timestamp of the history's last interaction (their order is the file's); and the ranking on the
requests that none of this touches. Of the model: swap every target for another film, rating and time, and score again;
not one score may change, nor one training batch.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch

from baselines.popularity import Popularity
from batches import TrainingBatches
from data_processor import FIRST_ITEM, SequenceData, load
from evaluation.metrics import per_person
from evaluation.protocols import Ranker, protocol_line, request_batches, target_ranks
from evaluation.report import print_table
from settings import Settings
from support.arguments import ArgumentParser
from support.errors import UserError, run_command

if TYPE_CHECKING:
    from torch import nn


def suspicious(data: SequenceData, until: str) -> dict[str, np.ndarray]:
    """What to know of each request: name -> (Q,) flags, or shares for 'training later than the target'."""
    requests, rows = data.split.requests[until], data.training_rows()
    first = np.full(data.catalogue.num_rows, np.iinfo(np.int64).max)
    np.minimum.at(first, data.items[rows], data.timestamps[rows])
    known = np.bincount(data.items[rows], minlength=len(first)) > 0
    targets, moments = data.items[requests.target_rows], data.timestamps[requests.target_rows]
    later = 1 - np.searchsorted(np.sort(data.timestamps[rows]), data.timestamps[requests.ends], "right") / len(rows)
    return {
        "film unknown to training": (~known[targets]).any(1),
        "film in training only after the target": (known[targets] & (first[targets] > moments)).any(1),
        "target at the very time of the history's last interaction":
            data.timestamps[requests.ends] == data.timestamps[requests.ends - 1],
        "training later than the target": later,
    }


def swapped(data: SequenceData, rows: np.ndarray, times: bool = True, seed: int = 0) -> SequenceData:
    """The same data with other films, ratings and, if asked, times at these positions of the flat arrays."""
    draw = np.random.default_rng(seed)
    items, ratings, timestamps = data.items.copy(), data.ratings.copy(), data.timestamps.copy()
    shift = draw.integers(1, len(data.catalogue.movie_ids), len(rows))
    items[rows] = FIRST_ITEM + (items[rows] - FIRST_ITEM + shift) % len(data.catalogue.movie_ids)
    ratings[rows] = 6 - ratings[rows]
    if times:
        timestamps[rows] += draw.integers(1, 10**6, len(rows))
    return dataclasses.replace(data, items=items, ratings=ratings, timestamps=timestamps)


@torch.no_grad()
def swap_test(ranker: Ranker, data: SequenceData, settings: Settings, until: str) -> float:
    """Largest change of any score when each person's last target, and all that comes after it, is swapped; 0 for a
    model without a leak. A model that knows request times keeps the times."""
    requests = data.split.requests[until]
    last = np.flatnonzero(np.r_[np.diff(requests.people) > 0, True])  # requests lie by person, in order of time
    rows = np.concatenate([np.arange(end, data.offsets[person + 1])
                           for person, end in zip(requests.people[last], requests.ends[last], strict=True)])
    other = swapped(data, rows, times=settings.model.model == "vanilla" or settings.model.query_time == "unknown")
    largest, device = 0.0, torch.device("cpu")
    batches = (request_batches(part, until, settings.model.seq_length, settings.eval.eval_batch_size, device)
               for part in (data, other))
    for (_, before), (_, after) in zip(*batches, strict=True):
        ours, theirs = (ranker.score(batch)[:, FIRST_ITEM:] for batch in (before, after))
        largest = max(largest, float((ours - theirs).abs().max()))
    return largest


def training_test(model: nn.Module, data: SequenceData, settings: Settings) -> int:
    """Training batches of one epoch that change when all that is not the training part is swapped; 0 without a leak."""
    other = swapped(data, np.setdiff1d(np.arange(len(data.items)), data.training_rows()))
    share = model.cloze_share(settings.train)
    epochs = (TrainingBatches(part, settings.model.seq_length, settings.train, share).epoch(0)
              for part in (data, other))
    return sum(any(not torch.equal(value, after.tensors()[name]) for name, value in before.tensors().items())
               for before, after in zip(*epochs, strict=True))


def audit_split(data: SequenceData, settings: Settings, ranker: Ranker, name: str, until: str) -> None:
    """Print shares of suspicious requests, and the ranking on all of them and on the clean ones."""
    signs, requests = suspicious(data, until), data.split.requests[until]
    line = protocol_line(data, until, settings.eval)
    print_table(f"Requests of {until}", line, ["", "mean over requests"],
                [[sign, f"{values.mean():.2%}"] for sign, values in signs.items()])
    rank = target_ranks(ranker, data, until, settings.model.seq_length, settings.eval)
    rows = []
    flags = {sign: values for sign, values in signs.items() if values.dtype == bool}
    parts = {"all": np.ones(len(requests), dtype=bool), **{f"not: {sign}": ~values for sign, values in flags.items()},
             "none of these": ~np.logical_or.reduce(list(flags.values()))}
    for part, chosen in parts.items():
        if not chosen.any():
            rows.append([part, "0", "", ""])
            continue
        metrics = per_person(rank[chosen], requests.people[chosen])
        rows.append([part, f"{int(chosen.sum()):,}", f"{metrics['HR@10'].mean():.4f}",
                     f"{metrics['NDCG@10'].mean():.4f}"])
    print_table(f"Ranking by {name} on the clean part", line, ["requests", "number", "HR@10", "NDCG@10"], rows)


def main(argv: list[str]) -> int:
    """Exit code 1 if a model or a split leaks."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--model_path", help="folder of a trained model; without it the split alone is audited")
    parser.add_argument("--until", choices=("validation", "test"), default="test", help="(default: %(default)s)")
    flags, rest = parser.parse_known_args(argv)
    if not flags.model_path:
        from command_line import parse_command_line

        settings, _ = parse_command_line(rest, __doc__)
        data = load(settings.data)
        audit_split(data, settings, Popularity(data), "popularity", flags.until)
        return 0
    from pathlib import Path

    from model_io import data_of, load_model

    if rest:
        raise UserError(f"unknown flag {rest[0]!r}: with --model_path the data are those of the model")
    model, settings, _, info = load_model(Path(flags.model_path))
    data = data_of(settings.data, info, flags.model_path)
    audit_split(data, settings, model, settings.model.model, flags.until)
    changes = {until: swap_test(model, data, settings, until) for until in ("validation", "test")}
    batches = training_test(model, data, settings)
    print("Targets swapped for other films, ratings and times: largest change of a score "
          + ", ".join(f"{value:g} ({until})" for until, value in changes.items())
          + f"; training batches changed: {batches}")
    return int(max(changes.values()) > 0 or batches > 0)


if __name__ == "__main__":
    sys.exit(run_command(main))
