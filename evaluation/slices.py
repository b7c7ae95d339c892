"""Slices: metrics of parts of the requests, with intervals."""

import itertools

import numpy as np

from dataset import NO_TIME, Dataset
from evaluation.metrics import interval, per_user

HISTORY_BOUNDS = (20, 50, 100, 200)  # interactions
POPULARITY_BOUNDS = (10, 100, 500, 1000)  # training interactions of the target
GAPS = ("the same second", "within an hour", "within a day", "within 30 days")
GAP_BOUNDS = (1, 3600, 86_400, 30 * 86_400)  # seconds
MOST_VALUES = 50  # of a column that makes slices
Slices = dict[str, dict[str, np.ndarray]]


def request_slices(data: Dataset, until: str) -> Slices:
    """Family -> slice -> (Q,) flags.

    Families: each category and tags column of the user and of the target item with at most
    MOST_VALUES values; the length of the history; the target's popularity; its time. Only slices
    of tags overlap. A request whose value is unknown is in no slice of that family.
    """
    requests = data.split.requests[until]
    users = data.catalogue.users
    items = data.catalogue.items
    lengths = requests.ends - data.offsets[requests.users]
    targets = data.items[requests.ends]
    slices: Slices = {}
    slices |= _by_value("user's", users, requests.users)
    slices |= _by_value("target's", items, targets)
    slices["history, interactions"] = _between(lengths, HISTORY_BOUNDS)
    popularity = data.item_counts()[targets]
    slices["target's popularity, in training"] = _between(
        popularity, POPULARITY_BOUNDS
    )
    if data.has_times:
        gaps = data.times[requests.ends] - data.times[requests.ends - 1]
        by_gap = _between(gaps, GAP_BOUNDS).values()
        parts = dict(zip((*GAPS, "later"), by_gap, strict=True))
        slices["time since the last interaction"] = parts
    return slices


def by_time(data: Dataset, until: str) -> dict[str, np.ndarray]:
    """Two parts of the requests, as flags (Q,): the first target has another timestamp than the
    item before it, or the same one. In the second the order may be that of the file.

    Empty if there are no times, or one part is empty.
    """
    same = same_time(data, until)
    if same.all() or not same.any():
        return {}
    return {"different timestamp": ~same, "same timestamp": same}


def same_time(data: Dataset, until: str) -> np.ndarray:
    """(Q,) whether the first target has the time of the item before it, which is known."""
    requests = data.split.requests[until]
    times = data.times[requests.ends]
    before = data.times[requests.ends - 1]
    has_history = requests.ends > data.offsets[requests.users]
    return (times == before) & (times != NO_TIME) & has_history


def _by_value(whose, table, rows):
    """The slices of the category and tags columns of a table for its rows (Q,)."""
    slices = {}
    for name, entry in table.fields.items():
        if 0 < len(entry.values) <= MOST_VALUES:
            flags = table.shares(name, rows) > 0  # (Q, F)
            parts = dict(zip(entry.titles, flags.T, strict=True))
            slices[f"{whose} {entry.column.title}"] = parts
    return slices


def _between(values, bounds):
    parts = {}
    for low, high in itertools.pairwise((0, *bounds, np.inf)):
        name = f"{low} and more" if high == np.inf else f"{low} to {high - 1}"
        parts[name] = (values >= low) & (values < high)
    return parts


def slice_table(
    rank: np.ndarray, data: Dataset, until: str, metric: str = "NDCG@10"
) -> list[tuple[str, str, int, dict[str, float]]]:
    """(family, slice, users, mean and interval) of a metric of the ranks (Q, T); empty slices are
    left out."""
    users = data.split.requests[until].users
    rows = []
    for family, parts in request_slices(data, until).items():
        for name, chosen in parts.items():
            if chosen.any():
                values = per_user(rank[chosen], users[chosen])[metric]
                rows.append((family, name, len(values), interval(values)))
    return rows
