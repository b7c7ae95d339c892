"""What each way of choosing a list costs, and what it gives: `rank_by` and `diversity` of
reranking.py, side by side on the same requests.

Q requests, T targets of a request, K places of a list.
"""

import contextlib

import numpy as np

from dataset import ITEM_ROWS, Dataset
from evaluation.lists import coverage, top_lists
from evaluation.metrics import interval, per_user
from evaluation.protocols import filters_seen
from reranking import (
    LikedRanker,
    candidates,
    intra_list_distance,
    varied_lists,
)
from scorer import Scorer
from settings import Settings
from support.errors import UserError

WAYS = (0.0, 0.1, 0.2, 0.3, 0.5)  # of diversity
METRIC = "NDCG@10"
LENGTH = 10  # of a list
Rows = dict[str, dict[str, dict[str, float]]]


def shown_lists(
    scorer: Scorer, data: Dataset, settings: Settings, until: str
) -> Rows:
    """Way of choosing ten items -> measure -> mean and interval over users.

    - NDCG@10 of all targets, and of those that were liked: whose value is at least the mean of
      the values in the history.
    - value of hits: mean value of the targets among the ten.
    - distance: 1 - cosine of the items' vectors, mean over the pairs of a list.
    - catalogue: share of all items that anybody gets.
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
    return rows


def _measures(lists, scorer, data, requests, values):
    users = requests.users
    ranks = _ranks(lists, data.items[requests.target_rows])
    found = {METRIC: interval(per_user(ranks, users)[METRIC])}
    if values is not None:
        given, least = values
        liked = given >= least
        part = per_user(ranks[liked], users[liked])
        found["of liked targets"] = _interval(part[METRIC])
        hit = (ranks[:, 0] <= lists.shape[1]) & np.isfinite(given)
        found["value of hits"] = _interval(given[hit])
    full = lists.min(1) >= ITEM_ROWS
    apart = intra_list_distance(lists[full], scorer.table)
    found["distance"] = _interval(apart)
    share = coverage(lists, data)["catalogue coverage"]
    found["catalogue"] = {"mean": share}
    return found


def _interval(values):
    """NaN where there are no values."""
    if len(values):
        return interval(values)
    return dict.fromkeys(("mean", "low", "high"), np.nan)


def _ranks(lists, targets):
    """(Q, T) places of targets (Q, T) in lists (Q, K), ascending; beyond any cut-off where a list
    has none."""
    found = lists[:, None] == targets[:, :, None]  # (Q, T, K)
    places = np.where(
        found.any(2), found.argmax(2) + 1, np.iinfo(int).max // 2
    )
    return np.sort(places, axis=1)


def _values(data, column, until):
    """(Q,) the value of each request's first target, NaN if unknown, and the mean in its history;
    the middle of the scale where none is known."""
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
    # Sums of halves are exact; what divides them is not.
    return values[requests.ends], mean - 1e-9
