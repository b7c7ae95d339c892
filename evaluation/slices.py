"""For whom and for what a model is good: metrics of parts of the requests, with intervals."""

import itertools

import numpy as np

from dataset import Dataset, Field
from evaluation.metrics import bootstrap_interval, per_user

HISTORY_BOUNDS = (20, 50, 100, 200)  # interactions
POPULARITY_BOUNDS = (10, 100, 500, 1000)  # training interactions of the target
GAP_BOUNDS = {
    "the same second": 1,
    "within an hour": 3600,
    "within a day": 86_400,
    "within 30 days": 30 * 86_400,
}
MOST_VALUES = 50  # of a column that makes slices
Slices = dict[str, dict[str, np.ndarray]]


def request_slices(data: Dataset, until: str) -> Slices:
    """Family -> slice -> (Q,) flags.

    By each category and tags column of users, and of the target, and by length of history,
    popularity and time. Slices of a family do not overlap, but for tags; a request whose value is
    unknown is in none.
    """
    requests = data.split.requests[until]
    lengths = requests.ends - data.offsets[requests.users]
    targets = data.items[requests.ends]
    slices: Slices = {}
    for whose, table, rows in (
        ("user's", data.catalogue.users, requests.users),
        ("target's", data.catalogue.items, targets),
    ):
        for entry in table.fields.values():
            if (
                entry.column.kind in ("category", "tags")
                and len(entry.values) <= MOST_VALUES
            ):
                codes = table.data[entry.name][rows].reshape(len(rows), -1)
                slices[f"{whose} {entry.column.title}"] = _by_value(entry, codes)
    slices["history"] = _between(lengths, HISTORY_BOUNDS, "interactions")
    popularity = data.item_counts()[targets]
    slices["target's popularity"] = _between(
        popularity, POPULARITY_BOUNDS, "in training"
    )
    if data.has_times:
        gaps = data.times[requests.ends] - data.times[requests.ends - 1]
        place = np.searchsorted(list(GAP_BOUNDS.values()), gaps, side="right")
        names = [*GAP_BOUNDS, "later"]
        slices["time since the last interaction"] = {
            name: (place == index) & (lengths > 0) for index, name in enumerate(names)
        }
    return slices


def _by_value(entry: Field, codes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        title: (codes == code).any(1)
        for code, title in enumerate(entry.titles, start=1)
    }


def _between(
    values: np.ndarray, bounds: tuple[int, ...], what: str
) -> dict[str, np.ndarray]:
    place = np.searchsorted(bounds, values, side="right")
    middle = [f"{low} to {high - 1}" for low, high in itertools.pairwise(bounds)]
    names = [f"below {bounds[0]} {what}", *middle, f"{bounds[-1]} and more"]
    return {name: place == index for index, name in enumerate(names)}


def slice_table(
    rank: np.ndarray, data: Dataset, until: str, metric: str = "NDCG@10"
) -> list[tuple[str, str, int, float, float, float]]:
    """(family, slice, users, mean, low, high) of a metric of the ranks (Q, T); empty slices are
    left out."""
    users, rows = data.split.requests[until].users, []
    for family, parts in request_slices(data, until).items():
        for name, chosen in parts.items():
            if chosen.any():
                values = per_user(rank[chosen], users[chosen])[metric]
                low, high = bootstrap_interval(values)
                rows.append(
                    (family, name, len(values), float(values.mean()), low, high)
                )
    return rows
