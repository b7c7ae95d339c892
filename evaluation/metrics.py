"""Ranking metrics from the ranks of the targets: one value a request, then a user's mean, then
the mean.

With ranks r_1 < ... < r_T (1 = first) of the T targets among all that is ranked, and N = min(T,
K)
    HR@K = [r_1 <= K]            Recall@K = |{r_j <= K}| / T   (equal to HR@K where T = 1)
    NDCG@K = sum over r_j <= K of 1 / log2(1 + r_j), divided by sum over i <= N of 1 / log2(1 + i)
    MAP@K = sum over r_j <= K of j / r_j, divided by N            MRR = 1 / r_1 (no cut-off)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from support.errors import UserError

CUTOFFS = (1, 5, 10, 20)
METRIC = "NDCG@10"  # which selects models, and which tables compare
METRIC_CUTOFFS = (10,)  # all that METRIC alone needs
AT_ONCE = 2**14  # values of bootstrap samples drawn at once
# What tables show.
ONE_TARGET = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")
SEVERAL_TARGETS = (
    "HR@10",
    "Recall@5",
    "Recall@10",
    "NDCG@5",
    "NDCG@10",
    "MAP@10",
    "MRR",
)


def ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """(B, T) ranks of each row's targets (B, T) among its scores (B, R); ties are broken against
    targets.

    Items left out of the ranking have score -inf. Raises `UserError` if a target's own score
    is not finite.
    """
    target_scores = scores.gather(1, targets)  # (B, T)
    if not bool(target_scores.isfinite().all()) or bool(scores.isnan().any()):
        raise UserError(
            "cannot rank: a score is NaN, or a target's score is not finite; the model has "
            "diverged, train again with a smaller --learning_rate"
        )
    rivals = scores.scatter(1, targets, -torch.inf)
    better = [(rivals >= score[:, None]).sum(1) for score in target_scores.T]
    order = target_scores.argsort(dim=1, descending=True, stable=True)
    among_targets = order.argsort(1)
    return torch.stack(better, dim=1) + among_targets + 1


def per_request(
    rank: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, np.ndarray]:
    """Every metric of ranks (Q, T), ascending, as a vector over requests."""
    rank = np.asarray(rank)
    targets = rank.shape[1]
    places = np.arange(1, targets + 1)
    metrics: dict[str, np.ndarray] = {}
    for k in cutoffs:
        hit, most = rank <= k, min(targets, k)
        ideal = (1.0 / np.log2(1.0 + places[:most])).sum()
        metrics[f"HR@{k}"] = hit[:, 0].astype(float)
        metrics[f"Recall@{k}"] = hit.mean(1)
        metrics[f"NDCG@{k}"] = (hit / np.log2(1.0 + rank)).sum(1) / ideal
        metrics[f"MAP@{k}"] = (hit * places / rank).sum(1) / most
    return metrics | {"MRR": 1.0 / rank[:, 0]}


def per_user(
    rank: np.ndarray, users: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, np.ndarray]:
    """Every metric as a vector over the users with requests, in ascending order: the mean over a
    user's requests."""
    _, place, counts = np.unique(
        users, return_inverse=True, return_counts=True
    )
    metrics = per_request(rank, cutoffs)
    return {
        name: np.bincount(place, values) / counts
        for name, values in metrics.items()
    }


def interval(
    values: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Mean over users and its 95 % percentile interval (Efron's bootstrap): mean, low, high."""
    draw = np.random.default_rng(seed)
    users = len(values)
    # Several samples of few users at once, one of many.
    block = max(1, AT_ONCE // users)
    means = []
    for start in range(0, samples, block):
        shape = (min(block, samples - start), users)
        means.extend(values[draw.integers(0, users, shape)].mean(1))
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
    }
