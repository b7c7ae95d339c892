"""How good the rating head and the preference head are, beside predictors that a head must beat to be worth it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from batches import Batch
from data_processor import SequenceData
from evaluation.leave_one_out import user_batches


@torch.no_grad()
def rating_predictions(rate: Callable[[Batch, torch.Tensor], torch.Tensor], data: SequenceData, until: str,
                       seq_length: int, batch_size: int, device: torch.device) -> np.ndarray:
    """(U,) predicted rating of each user's held-out film."""
    result = np.zeros(data.num_users)
    targets = data.items[data.target_rows(until)]
    for users, batch in user_batches(data, until, seq_length, batch_size, device):
        result[users] = rate(batch.to(device), torch.from_numpy(targets[users]).to(device)).cpu().numpy()
    return result


def rating_errors(predicted: np.ndarray, data: SequenceData, until: str) -> dict[str, float]:
    """RMSE and MAE over all users."""
    error = predicted - data.ratings[data.target_rows(until)]
    return {"RMSE": float(np.sqrt((error**2).mean())), "MAE": float(np.abs(error).mean())}


@torch.no_grad()
def preference_quality(preferences: Callable[[Batch], torch.Tensor], data: SequenceData, until: str, seq_length: int,
                       batch_size: int, device: torch.device) -> dict[str, float]:
    """Mean cross-entropy (nats) of the held-out film's genre distribution under three predictors.

    'head' is the model; 'constant' the mean genre distribution of the training part, the same for everybody;
    'own history' the person's own genre distribution so far, mixed with 5 % of the constant so that no genre is
    impossible. Films without genres are left out.
    """
    genres = data.catalogue.genres / np.maximum(data.catalogue.genres.sum(1, keepdims=True), 1)  # (R, F)
    target = genres[data.items[data.target_rows(until)]]  # (U, F)
    constant = genres[data.items[data.training_rows()]].mean(0)
    constant = (constant + 1e-6) / (constant + 1e-6).sum()
    head, own = np.zeros_like(target), np.zeros_like(target)
    for users, batch in user_batches(data, until, seq_length, batch_size, device):
        head[users] = preferences(batch.to(device)).cpu().numpy()
        for user in users:
            own[user] = genres[data.items[slice(*data.span(user, until))]].mean(0)
    own = 0.95 * own + 0.05 * constant
    has_genres = target.sum(1) > 0
    return {name: float(-(target * np.log(np.maximum(guess, 1e-9))).sum(1)[has_genres].mean())
            for name, guess in (("head", head), ("constant", np.broadcast_to(constant, target.shape)),
                                ("own history", own))}
