"""Checks a split for what could flatter a figure, and a model for leaks.

    python -m ablations.audit --dataset ml-1m                 a split (any data flag)
    python -m ablations.audit --model_path checkpoints/best   a model and its split

In the split it counts targets whose item training does not have, or has only later; training
interactions that are later than a target; targets with the time of the history's last interaction,
whose order is that of the file; and whether this order is the same from user to user. For the model
it swaps all targets, with their columns and times, and scores again: no score and no training batch
may change.
"""

import sys

import numpy as np
import torch
from scipy import sparse
from torch import nn

from command_line import parse_settings
from data_processor import load
from dataset import ITEM_ROWS, NO_TIME, Dataset
from evaluation.protocols import Ranker, protocol_line, request_batches
from model_io import load_with_data
from settings import Settings
from support.arguments import model_parser
from support.errors import require, run_command
from support.tables import print_table
from training_batches import TrainingBatches


def suspicious(data: Dataset, until: str) -> dict[str, np.ndarray]:
    """Warnings about each request: name -> (Q,) flags, or shares for 'training later than the
    target'.
    """
    requests, rows = data.split.requests[until], data.training_rows()
    known = data.item_counts() > 0
    targets = data.items[requests.target_rows]
    signs = {"item unknown to training": (~known[targets]).any(1)}
    if not data.has_times:
        return signs
    first = np.full(len(known), np.iinfo(np.int64).max)
    np.minimum.at(first, data.items[rows], data.times[rows])
    only_later = known[targets] & (
        first[targets] > data.times[requests.target_rows]
    )
    now, before = data.times[requests.ends], data.times[requests.ends - 1]
    later = 1 - np.searchsorted(np.sort(data.times[rows]), now, "right") / len(
        rows
    )
    return signs | {
        "item in training only after the target": only_later.any(1),
        "target at the very time of the history's last interaction": now
        == before,
        "training later than the target": later,
    }


def repeated_order(data: Dataset, same_time: bool) -> tuple[float, int]:
    """(share, number) of training neighbours in the usual order; .5 is chance.

    The usual order of two items is the more frequent one among half of the users. Neighbours of
    the other half are judged if there is a usual order.

    same_time: neighbours at the same time, or at different times; unknown times are neither. If the
    order at the same time is the same for many users, it probably comes from the program that wrote
    the file. A model can learn it, but it says little about users.
    """
    rows = data.training_rows()
    users, items, times = data.user_of[rows], data.items[rows], data.times[rows]
    known = times != NO_TIME
    chosen = (users[1:] == users[:-1]) & known[1:] & known[:-1]
    chosen &= (times[1:] == times[:-1]) == same_time
    first, second = items[:-1][chosen], items[1:][chosen]
    counted = users[1:][chosen] % 2 == 0
    judged = ~counted
    if not judged.any():
        return 0.0, 0
    size = len(data.catalogue.items)
    pairs = (first[counted], second[counted])
    counts = sparse.csr_matrix((np.ones(counted.sum()), pairs), (size, size))
    # Above 0 where the first usually stands before the second.
    lead = (counts - counts.T).tocsr()
    found = np.asarray(lead[first[judged], second[judged]]).ravel()
    number = np.count_nonzero(found)
    return float((found > 0).sum() / max(1, number)), number


def swapped(data: Dataset, rows: np.ndarray, times: bool = True) -> Dataset:
    """The same data with the interactions at these positions of the flat arrays swapped: items,
    columns and, if asked, times."""
    mixed = np.random.default_rng(0).permutation(rows)
    source = np.arange(len(data.items))
    source[mixed] = np.roll(mixed, 1)
    columns = {name: values[source] for name, values in data.columns.items()}
    moments = data.times[source] if times else data.times
    return data.replace(
        items=data.items[source], columns=columns, times=moments
    )


@torch.no_grad()
def swap_test(
    ranker: Ranker, data: Dataset, settings: Settings, until: str
) -> float:
    """Largest change of any score when each user's last target, and all that comes after it, is
    swapped; 0 for a model without a leak. A model that knows request times keeps the times."""
    requests = data.split.requests[until]
    first = data.offsets[1:].copy()
    first[requests.users] = requests.ends  # of several requests the last
    rows = np.flatnonzero(np.arange(len(data.items)) >= first[data.user_of])
    other = swapped(data, rows, times=settings.model.query_time == "unknown")
    batches = [
        request_batches(part, requests, settings.model.seq_length)
        for part in (data, other)
    ]
    changes = []
    for (*_, before), (*_, after) in zip(*batches, strict=True):
        change = ranker.score(before) - ranker.score(after)
        changes.append(float(change[:, ITEM_ROWS:].abs().max()))
    return max(changes)


def training_test(model: nn.Module, data: Dataset, settings: Settings) -> int:
    """Training batches of one epoch that change when all that is not the training part is
    swapped; 0 without a leak.
    """
    held_out = np.setdiff1d(np.arange(len(data.items)), data.training_rows())
    share = model.cloze_share(settings.train)
    epochs = [
        TrainingBatches(
            part, settings.model.seq_length, settings.train, share
        ).epoch(0)
        for part in (data, swapped(data, held_out))
    ]
    changed = 0
    for before, after in zip(*epochs, strict=True):
        others = after.tensors()
        changed += not all(
            torch.equal(value.nan_to_num(), others[name].nan_to_num())
            for name, value in before.tensors().items()
        )
    return changed


def _show_order(data):
    rows = []
    for name, same in (("the same time", True), ("different times", False)):
        share, number = repeated_order(data, same)
        if number:
            rows.append([name, f"{share:.1%}", f"{number:,}"])
    if not rows:
        return
    print_table(
        "Does the order of neighbours repeat itself?",
        "share that stand in the order usual among the other half of the users; 50 % is chance. "
        "At the same time the order is that of the file",
        ["neighbours at", "in the usual order", "neighbours"],
        rows,
    )


def main(argv: list[str]) -> int:
    """Exit code 1 if a model or a split leaks."""
    parser = model_parser(__doc__, default=None)
    flags, rest = parser.parse_known_args(argv)
    model = None
    if flags.model_path:
        require(
            not rest,
            f"unknown flag {' '.join(rest)}: with --model_path the data are those of the model",
        )
        model, settings, data = load_with_data(
            flags.model_path, flags.data_dir
        )
    else:
        data_dir = ["--data_dir", flags.data_dir] if flags.data_dir else []
        settings = parse_settings([*rest, *data_dir])
        data = load(settings.data)
    if data.has_times:
        _show_order(data)
    changes: dict[str, float] = {}
    for until in ("validation", "test"):
        rows = [
            [sign, f"{values.mean():.2%}"]
            for sign, values in suspicious(data, until).items()
        ]
        line = protocol_line(data, until, settings.eval)
        header = ["", "mean over requests"]
        print_table(f"Requests of {until}", line, header, rows)
        if model:
            change = swap_test(model.frozen(), data, settings, until)
            changes[f"largest change of a score ({until})"] = change
    if model:
        changed = training_test(model, data, settings)
        changes["training batches changed"] = changed
        print("Targets swapped for other items, columns and times:", changes)
    return int(any(changes.values()))


if __name__ == "__main__":
    sys.exit(run_command(main))
