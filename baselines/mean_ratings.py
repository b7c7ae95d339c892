"""Rating predictors that know no sequence: the mean of the user, of the film, and of both with regularisation."""

from __future__ import annotations

import numpy as np

from data_processor import SequenceData

DAMPING = 10.0  # pseudo-ratings at the global mean; keeps rarely rated films near it


def mean_predictors(data: SequenceData, until: str) -> dict[str, np.ndarray]:
    """Predicted rating (Q,) of the film that follows each request's history, by predictor.

    User means use the history before the target, film means the training part of all users.
    """
    train = data.training_rows()
    overall = data.ratings[train].mean()
    requests = data.split.requests[until]
    targets = data.items[requests.ends]
    history = [data.ratings[data.offsets[person]:end]
               for person, end in zip(requests.people, requests.ends, strict=True)]
    user_mean = np.array([ratings.mean() if len(ratings) else overall for ratings in history])
    sums = np.bincount(data.items[train], data.ratings[train] - overall, data.catalogue.num_rows)
    counts = np.bincount(data.items[train], minlength=data.catalogue.num_rows)
    film_mean = overall + (sums / np.maximum(counts, 1))[targets]
    film_effect = (sums / (counts + DAMPING))[targets]
    return {"global mean": np.full(len(requests), overall), "user mean": user_mean, "film mean": film_mean,
            "user mean + film effect": np.clip(user_mean + film_effect, 1, 5)}
