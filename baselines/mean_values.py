"""Predictors of an interaction's value without a sequence: means of the user, of the item, of both.
"""

import numpy as np

from dataset import Dataset
from fields import Field

# Pseudo-values at the global mean; keeps rarely had items near it.
DAMPING = 10.0


def mean_predictors(
    entry: Field, data: Dataset, until: str
) -> dict[str, np.ndarray]:
    """Predicted value (Q,) of the item that follows each request's history, by predictor.

    User means use the history before the target, item means the training part of all users;
    unknown values do not count.
    """
    rows = len(data.catalogue.items)
    sums, counts = np.zeros(rows), np.zeros(rows, dtype=np.int64)
    for part in data.chunks():
        codes = part.columns[entry.name]
        train = part.training_rows()
        train = train[codes[train] > 0]
        values = entry.as_numbers(codes[train])
        sums += np.bincount(part.items[train], values, rows)
        counts += np.bincount(part.items[train], minlength=rows)
    overall = sums.sum() / counts.sum()
    sums -= overall * counts
    requests = data.split.requests[until]
    targets = data.items[requests.ends]
    user_mean = np.full(len(requests), overall)
    for number, (user, end) in enumerate(
        zip(requests.users, requests.ends, strict=True)
    ):
        codes = data.columns[entry.name][data.offsets[user] : end]
        values = entry.as_numbers(codes)
        values = values[~np.isnan(values)]
        if len(values):
            user_mean[number] = values.mean()
    item_mean = overall + (sums / np.maximum(counts, 1))[targets]
    item_effect = (sums / (counts + DAMPING))[targets]
    both = np.clip(
        user_mean + item_effect, entry.numbers.min(), entry.numbers.max()
    )
    return {
        "global mean": np.full(len(requests), overall),
        "user mean": user_mean,
        "item mean": item_mean,
        "user mean + item effect": both,
    }
