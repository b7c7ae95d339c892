"""Costs and gains of ways to choose a list, on the same requests: `rank_by` and `diversity` of
reranking.py, and `prefer_expected` of queries.py.

Q requests, T targets of a request, K places of a list.
"""

import contextlib

import numpy as np
import torch

from batches import history_of
from dataset import ITEM_ROWS, Dataset
from evaluation.lists import coverage, top_lists
from evaluation.metrics import METRIC, interval, per_request, per_user
from evaluation.protocols import filters_seen, request_batches
from queries import Query, best_of
from reranking import (
    LikedRanker,
    candidates,
    intra_list_distance,
    liked_from,
    varied_lists,
)
from scorer import Scorer
from settings import Settings
from support.errors import UserError

WAYS = (0.0, 0.1, 0.2, 0.3, 0.5)  # of diversity
LENGTH = 10  # of a list
FAR = np.iinfo(int).max // 2  # a rank beyond any cut-off
Rows = dict[str, dict[str, dict[str, float]]]


def shown_lists(
    scorer: Scorer, data: Dataset, settings: Settings, until: str
) -> Rows:
    """Way of choosing ten items -> measure -> mean and interval over users.

    - NDCG@10 of all targets, and of those that were liked: whose value is at least the mean of
      the values in the history. The others are then no targets.
    - value of hits: mean value of the targets among the ten.
    - distance: 1 - cosine of the items' vectors, mean over the pairs of a list.
    - catalogue: share of all items in at least one list.
    """
    requests = data.split.requests[until]
    rankers = {"next": scorer}
    values = None
    with contextlib.suppress(UserError):
        rankers["liked"] = LikedRanker(scorer, data.catalogue)
        values = _values(data, rankers["liked"].column, until)
    rows: Rows = {}
    hides, length = (
        filters_seen(settings.eval, data),
        settings.model.seq_length,
    )
    for name, ranker in rankers.items():
        number = candidates(LENGTH, max(WAYS))
        among = top_lists(ranker, data, requests, length, hides, number)
        for diversity in WAYS:
            lists, _ = varied_lists(*among, scorer.table, LENGTH, diversity)
            label = f"{name}, diversity {diversity:g}" if diversity else name
            rows[label] = _measures(lists, scorer, data, requests, values)
        if values is not None:
            lists = _as_good_as_usual(
                scorer, data, requests, length, hides, name
            )
            label = f"{name}, expected as high as the mean"
            rows[label] = _measures(lists, scorer, data, requests, values)
    return rows


@torch.no_grad()
def _as_good_as_usual(scorer, data, requests, length, hides, rank_by):
    """(Q, LENGTH) lists whose mean expected value is that of the history; 0 where none is left."""
    lists = np.zeros((len(requests), LENGTH), dtype=np.int64)
    for chosen, part, batch in request_batches(data, requests, length):
        queries = [
            Query(
                history_of(data, user, end),
                LENGTH,
                hides,
                rank_by=rank_by,
                prefer_expected="mean",
            )
            for user, end in zip(part.users, part.ends, strict=True)
        ]
        states = scorer.states(batch)
        found = best_of(scorer, data.catalogue, queries, batch, states)
        for request, (rows, _) in zip(chosen, found, strict=True):
            lists[request, : len(rows)] = rows
    return lists


def _measures(lists, scorer, data, requests, values):
    users = requests.users
    ranks = _ranks(lists, data.items[requests.target_rows])
    quality = per_user(np.sort(ranks, axis=1), users)[METRIC]
    found = {METRIC: interval(quality)}
    if values is not None:
        given, least = values
        liked = given >= least[:, None]
        found["of liked targets"] = _over_users(*_liked(ranks, liked, users))
        hit = (ranks <= lists.shape[1]) & np.isfinite(given)
        users_of_hits = np.broadcast_to(users[:, None], hit.shape)[hit]
        found["value of hits"] = _over_users(given[hit], users_of_hits)
    full = lists.min(1) >= ITEM_ROWS
    apart = intra_list_distance(lists[full], scorer.table)
    found["distance"] = _over_users(apart, users[full])
    share = coverage(lists, data)["catalogue coverage"]
    found["catalogue"] = {"mean": share}
    return found


def _liked(ranks, liked, users):
    """METRIC of each request that has a liked target, and its user; both (N,)."""
    ranks = np.sort(np.where(liked, ranks, FAR), axis=1)
    number = liked.sum(1)
    quality = np.zeros(len(ranks))
    for count in np.unique(number[number > 0]):
        chosen = number == count
        quality[chosen] = per_request(ranks[chosen, :count])[METRIC]
    return quality[number > 0], users[number > 0]


def _over_users(values, users):
    """Mean and interval over users of values of requests (N,); NaN where there are none."""
    if not len(values):
        return dict.fromkeys(("mean", "low", "high"), np.nan)
    _, place, counts = np.unique(
        users, return_inverse=True, return_counts=True
    )
    return interval(np.bincount(place, values) / counts)


def _ranks(lists, targets):
    """(Q, T) place of each target (Q, T) in lists (Q, K); FAR where a list does not have it."""
    found = lists[:, None] == targets[:, :, None]  # (Q, T, K)
    return np.where(found.any(2), found.argmax(2) + 1, FAR)


def _values(data, column, until):
    """(Q, T) the value of each target, NaN if unknown, and (Q,) the smallest that counts as
    liked: the mean in the history, or the mean of the scale's values if none is known."""
    entry = data.catalogue.interaction_fields[column]
    values = np.append(np.nan, entry.numbers)[data.columns[column]]
    requests = data.split.requests[until]
    known = np.isfinite(values)
    total = np.append(0, np.where(known, values, 0).cumsum())
    number = np.append(0, known.cumsum())
    starts = data.offsets[requests.users]
    sums = total[requests.ends] - total[starts]
    numbers = number[requests.ends] - number[starts]
    mean = np.where(
        numbers > 0, sums / np.maximum(numbers, 1), entry.numbers.mean()
    )
    return values[requests.target_rows], liked_from(mean)
