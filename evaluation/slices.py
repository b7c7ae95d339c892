"""For whom and for what a model is good: metrics of parts of the requests, with intervals."""

from __future__ import annotations

import itertools

import numpy as np

from data_processor import SequenceData
from evaluation.metrics import bootstrap_interval, per_person
from readers.interactions import AGE_GROUPS, GENDERS

HISTORY_BOUNDS = (20, 50, 100, 200)  # interactions
POPULARITY_BOUNDS = (10, 100, 500, 1000)  # training interactions of the target
GAP_BOUNDS = {"the same second": 1, "within an hour": 3600, "within a day": 86_400, "within 30 days": 30 * 86_400}


def request_slices(data: SequenceData, until: str) -> dict[str, dict[str, np.ndarray]]:
    """Family -> slice -> (Q,) flags. Slices of a family do not overlap; a request of somebody unknown is in none."""
    requests = data.split.requests[until]
    gender, age, occupation = data.demographics[requests.people].T
    lengths = requests.ends - data.offsets[requests.people]
    counts = np.bincount(data.items[data.training_rows()], minlength=data.catalogue.num_rows)
    popularity = counts[data.items[requests.ends]]
    gaps = data.timestamps[requests.ends] - data.timestamps[requests.ends - 1]
    codes = sorted(data.catalogue.occupations)
    return {
        "gender": {name: gender == index for index, name in enumerate(GENDERS, start=1)},
        "age": {name: age == index for index, name in enumerate(AGE_GROUPS.values(), start=1)},
        "occupation": {data.catalogue.occupations[code]: occupation == index
                       for index, code in enumerate(codes, start=1)},
        "history": _between(lengths, HISTORY_BOUNDS, "interactions"),
        "target's popularity": _between(popularity, POPULARITY_BOUNDS, "in training"),
        "time since the last interaction": _gap_slices(gaps),
    }


def slice_table(rank: np.ndarray, data: SequenceData, until: str,
                metric: str = "NDCG@10") -> list[tuple[str, str, int, float, float, float]]:
    """(family, slice, people, mean, low, high) of a metric of the ranks (Q, T); empty slices are left out."""
    people, rows = data.split.requests[until].people, []
    for family, parts in request_slices(data, until).items():
        for name, chosen in parts.items():
            if chosen.any():
                values = per_person(rank[chosen], people[chosen])[metric]
                rows.append((family, name, len(values), float(values.mean()), *bootstrap_interval(values)))
    return rows


def _between(values: np.ndarray, bounds: tuple[int, ...], what: str) -> dict[str, np.ndarray]:
    place = np.searchsorted(bounds, values, side="right")
    names = [f"below {bounds[0]} {what}", *(f"{low} to {high - 1}" for low, high in itertools.pairwise(bounds)),
             f"{bounds[-1]} and more"]
    return {name: place == index for index, name in enumerate(names)}


def _gap_slices(gaps: np.ndarray) -> dict[str, np.ndarray]:
    place = np.searchsorted(list(GAP_BOUNDS.values()), gaps, side="right")
    return {name: place == index for index, name in enumerate([*GAP_BOUNDS, "later"])}
