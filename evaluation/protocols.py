"""How rankings are made: requests, candidates, filters, and the protocol line.

Requests and histories come from the split (splits.py). Validation and test have the same filter and
tie rule. The items of the history are left out of the ranking, unless the data allow repeats: then
a repeat is a target like any other, and tables give both figures. With the filter, a target that is
a repeat cannot be recommended and ranks last. The whole catalogue is ranked unless `--candidates`
asks for a sample. It is drawn once for each request, so all models rank the same one. Q requests, T
targets of a request, C candidates, R rows of the item table.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from batches import (
    Batch,
    History,
    cut,
    history_batch,
    history_of,
    padded_width,
)
from dataset import ITEM_ROWS, Dataset
from evaluation.metrics import ranks
from settings import EvalSettings
from splits import Requests
from support.errors import UserError
from support.processes import process_place, summed

# What is read and what is scored at once, at most.
GROUP_POSITIONS = {"cpu": 6400, "cuda": 1 << 18}
GROUP_SCORES = 1 << 26
MOST_REQUESTS = 128  # of a group
CANDIDATES = 100
CPU = torch.device("cpu")


class Ranker(Protocol):
    """Anything that ranks items: every model (`frozen()`) and every baseline."""

    starts: bool  # whether it says anything of users without a history

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores of all items for each history; -inf for PAD and MASK."""


def filters_seen(settings: EvalSettings, data: Dataset) -> bool:
    """Whether the items of the history are left out of the ranking."""
    if settings.filter_seen == "auto":
        return not data.catalogue.schema.repeats
    return settings.filter_seen == "yes"


def both_filters(
    settings: EvalSettings, data: Dataset
) -> dict[str, EvalSettings]:
    """Suffix of a model's name -> settings: if items may repeat, both with the history left out and
    not."""
    if not data.catalogue.schema.repeats:
        return {"": settings}
    other = "no" if filters_seen(settings, data) else "yes"
    suffix = {"yes": ", history left out", "no": ", history ranked too"}
    return {
        "": settings,
        suffix[other]: dataclasses.replace(settings, filter_seen=other),
    }


def protocol_line(
    data: Dataset,
    until: str,
    settings: EvalSettings,
    query_time: str = "unknown",
) -> str:
    """The line above every table: the protocol of its figures."""
    requests, schema = data.split.requests[until], data.catalogue.schema
    users = len(np.unique(requests.users))
    asked = f"{users:,} users"
    if len(requests) != users:
        asked = f"{len(requests):,} requests by {users:,} users"
    elif users == data.num_users:
        asked = f"all {users:,} users"
    if requests.total:
        asked = (
            f"{len(requests):,} of {requests.total:,} requests, spread evenly"
        )
    seen = f"{schema.nouns} of the whole history left out"
    if not filters_seen(settings, data):
        seen = f"{schema.nouns} of the history kept in the ranking"
    parts = [
        f"{data.name}, {until} of {data.split.description}",
        asked,
        _candidates_line(data, requests.count, settings),
        seen,
        "ties against the target",
        f"request time {query_time}",
        f"split {data.split_hash}",
    ]
    line = ", ".join(parts)
    unknown = {
        "requests by users": data.train_lengths[requests.users] == 0,
        "targets": data.item_counts()[data.items[requests.target_rows]] == 0,
    }
    for what, flags in unknown.items():
        if flags.any():
            line += f"; {flags.mean():.1%} of the {what} unknown to training"
    return f"{line}; {data.note}" if data.note else line


def _candidates_line(data, targets, settings):
    items = f"{len(data.catalogue.items.ids):,} {data.catalogue.schema.nouns}"
    if settings.candidates == "full":
        return f"full ranking of {items}"
    kind = settings.candidates.partition("_")[0]
    source = "all" if settings.candidates.endswith("_any") else "the unseen of"
    plural = "s" if targets > 1 else ""
    return f"{CANDIDATES} candidates beside the target{plural}, {kind} draw from {source} {items}"


@torch.no_grad()
def target_ranks(
    ranker: Ranker,
    data: Dataset,
    until: str,
    seq_length: int,
    settings: EvalSettings,
    device: torch.device = CPU,
    together: bool = False,
) -> np.ndarray:
    """(Q, T) ranks of each request's targets, best first.

    together: all processes call this, and each ranks a part of the requests.
    """
    requests = data.split.requests[until]
    result = np.zeros((len(requests), requests.count), dtype=np.int64)
    candidates = draw_candidates(data, until, settings)
    hides = filters_seen(settings, data)
    rank, world = process_place() if together else (0, 1)
    for chosen, part, batch in request_batches(
        data, requests, seq_length, device, rank, world
    ):
        scores = ranker.score(batch.to(device)).float()
        among = None if candidates is None else candidates[chosen]
        result[chosen] = ranks_within(scores, data, part, hides, among)
    # Requests of other processes have rank 0 here, so the sum is everybody's rank.
    return summed(result, device) if together else result


def ranks_within(
    scores: Tensor,
    data: Dataset,
    requests: Requests,
    hides: bool,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """(B, T) ranks of the targets of B requests by scores (B, R), which are changed, best first.

    hides: whether the items of the histories are left out. candidates: (B, C) all that is ranked
    beside the targets.
    """
    targets = torch.from_numpy(data.items[requests.target_rows])
    targets = targets.to(scores.device)
    target_scores = scores.gather(1, targets)  # (B, T)
    if hides:
        hide_seen(scores, data, requests)
    # (B, T) in the history, so they cannot be recommended
    hidden = scores.gather(1, targets) == -torch.inf
    if candidates is not None:
        rows = torch.from_numpy(candidates).to(scores.device)
        nothing = torch.full_like(scores, -torch.inf)
        scores = nothing.scatter_(1, rows, scores.gather(1, rows))
    # They stand in no other target's way: finite, and below every rival.
    target_scores.masked_fill_(hidden, torch.finfo().min)
    scores.scatter_(1, targets, target_scores)
    last = scores.shape[1] - ITEM_ROWS
    found = ranks(scores, targets).masked_fill(hidden, last)
    return found.sort(1).values.cpu().numpy()


def ranks_of(
    rankers: Mapping[str, Ranker],
    data: Dataset,
    until: str,
    seq_length: int,
    settings: EvalSettings,
    device: torch.device = CPU,
    together: bool = False,
) -> dict[str, np.ndarray]:
    """Name -> `target_ranks`; if items may repeat, both with the history left out and not."""
    return {
        name + suffix: target_ranks(
            ranker, data, until, seq_length, evaluation, device, together
        )
        for suffix, evaluation in both_filters(settings, data).items()
        for name, ranker in rankers.items()
    }


def request_batches(
    data: Dataset,
    requests: Requests,
    seq_length: int,
    device: torch.device = CPU,
    rank: int = 0,
    world: int = 1,
    timed: Callable[[History], History] = lambda history: history,
    scored: int | None = None,
) -> Iterator[tuple[np.ndarray, Requests, Batch]]:
    """(indices, requests, their histories) for all requests once, those of similar length
    together. timed: adds the time of the request to a history. scored: how many items are scored
    at once, if not all."""
    lengths = requests.ends - data.offsets[requests.users]
    scored = scored or len(data.catalogue.items)
    groups = length_groups(lengths, scored, seq_length, device)
    for chosen in groups[rank::world]:
        part = requests.part(chosen)
        histories = [
            timed(history_of(data, user, end))
            for user, end in zip(part.users, part.ends, strict=True)
        ]
        batch = history_batch(histories, data.catalogue, seq_length)
        yield chosen, part, batch


def length_groups(
    lengths: np.ndarray, rows: int, seq_length: int, device: torch.device
) -> list[np.ndarray]:
    """Indices of histories in groups of similar length, longest first.

    A group holds at most GROUP_POSITIONS positions and GROUP_SCORES scores of `rows` items: on a
    CPU these stay in the caches.
    """
    read = np.minimum(lengths, seq_length)
    order = np.argsort(-read, kind="stable")
    widths = padded_width(read[order], seq_length)
    most = max(1, min(MOST_REQUESTS, GROUP_SCORES // rows))
    bounds = cut(widths, most, GROUP_POSITIONS[device.type])
    return [order[start:end] for start, end in itertools.pairwise(bounds)]


def hide_seen(
    scores: Tensor, data: Dataset, requests: Requests, first: int = 0
) -> None:
    """Set the scores (B, W) of the items that users had before B requests to -inf, in place.

    The scores are those of W rows of the item table from `first` on.
    """
    asked = zip(requests.users, requests.ends, strict=True)
    for row, (user, end) in zip(scores, asked, strict=True):
        place = data.seen(user, end) - first
        here = place[(place >= 0) & (place < len(row))]
        row[torch.from_numpy(here)] = -torch.inf


def draw_candidates(
    data: Dataset, until: str, settings: EvalSettings
) -> np.ndarray | None:
    """(Q, C) items to rank the targets among, none of them a target or (but for popular_100_any)
    in the history; None = the whole catalogue.

    Uniform or by popularity in the training part, without repetition (Efraimidis & Spirakis, 2006:
    the largest of log(u) / weight are such a sample). The same for the same split and kind. If
    fewer items are left, one of them occurs several times. Raises `UserError` if none is left.
    """
    if settings.candidates == "full":
        return None
    weights = data.item_counts().astype(float)
    if settings.candidates.startswith("uniform"):
        weights[:] = 1.0
    weights[:ITEM_ROWS] = 0
    requests = data.split.requests[until]
    seed = (0, until == "test", int(data.split_hash, 16))
    draw = np.random.default_rng(seed)
    result = np.empty((len(requests), CANDIDATES), dtype=np.int64)
    any_items = settings.candidates.endswith("_any")
    for number, (user, end) in enumerate(
        zip(requests.users, requests.ends, strict=True)
    ):
        left = weights.copy()
        left[data.items[end : end + requests.count]] = 0
        if not any_items:
            left[data.seen(user, end)] = 0
        rows = np.flatnonzero(left)
        if not len(rows):
            raise UserError(
                f"--candidates {settings.candidates}: nothing is left to draw for user "
                f"{data.catalogue.users.id(user)}; use --candidates full"
            )
        keys = np.log(draw.random(len(rows))) / left[rows]
        best = rows[np.argsort(-keys)[:CANDIDATES]]
        result[number] = np.resize(best, CANDIDATES)
    return result
