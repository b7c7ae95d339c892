"""How good the rating head and the preference head are, beside predictors that a head must beat to be worth it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from batches import Batch
from data_processor import SequenceData
from evaluation.protocols import request_batches


@torch.no_grad()
def rating_predictions(rate: Callable[[Batch, torch.Tensor], torch.Tensor], data: SequenceData, until: str,
                       seq_length: int, batch_size: int, device: torch.device) -> np.ndarray:
    """(Q,) predicted rating of the film that follows each request's history."""
    targets = data.items[data.split.requests[until].ends]
    result = np.zeros(len(targets))
    for chosen, batch in request_batches(data, until, seq_length, batch_size, device):
        result[chosen] = rate(batch.to(device), torch.from_numpy(targets[chosen]).to(device)).cpu().numpy()
    return result


def rating_errors(predicted: np.ndarray, data: SequenceData, until: str) -> dict[str, float]:
    """RMSE and MAE over all requests."""
    error = predicted - data.ratings[data.split.requests[until].ends]
    return {"RMSE": float(np.sqrt((error**2).mean())), "MAE": float(np.abs(error).mean())}


@torch.no_grad()
def preference_quality(preferences: Callable[[Batch], torch.Tensor], data: SequenceData, until: str, seq_length: int,
                       batch_size: int, device: torch.device) -> dict[str, float]:
    """Mean cross-entropy (nats), under three predictors, of the genre distribution of the film that follows.

    'head' is the model; 'constant' the mean genre distribution of the training part, the same for everybody;
    'own history' the person's own genre distribution so far, mixed with 5 % of the constant so that no genre is
    impossible. Films without genres are left out.
    """
    genres = data.catalogue.genre_shares
    requests = data.split.requests[until]
    target = genres[data.items[requests.ends]]  # (Q, F)
    constant = genres[data.items[data.training_rows()]].mean(0)
    constant = (constant + 1e-6) / (constant + 1e-6).sum()
    head, own = np.zeros_like(target), np.zeros_like(target)
    for chosen, batch in request_batches(data, until, seq_length, batch_size, device):
        head[chosen] = preferences(batch.to(device)).cpu().numpy()
    for number, (person, end) in enumerate(zip(requests.people, requests.ends, strict=True)):
        own[number] = genres[data.items[data.offsets[person]:end]].mean(0)
    own = 0.95 * own + 0.05 * constant
    has_genres = target.sum(1) > 0
    return {name: float(-(target * np.log(np.maximum(guess, 1e-9))).sum(1)[has_genres].mean())
            for name, guess in (("head", head), ("constant", np.broadcast_to(constant, target.shape)),
                                ("own history", own))}
