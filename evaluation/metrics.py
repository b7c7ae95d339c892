"""Ranking metrics from the ranks of the targets: one value a request first, then a person's mean, then the mean.

With ranks r_1 < ... < r_T (1 = first) of the T targets among all that is ranked, and N = min(T, K)
    HR@K = [r_1 <= K]                                   Recall@K = |{r_j <= K}| / T       (equal to HR@K where T = 1)
    NDCG@K = sum over r_j <= K of 1 / log2(1 + r_j), divided by sum over i <= N of 1 / log2(1 + i)
    MAP@K = sum over r_j <= K of j / r_j, divided by N  MRR = 1 / r_1 (no cut-off)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CUTOFFS = (1, 5, 10, 20)
ONE_TARGET = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR")  # what tables show
SEVERAL_TARGETS = ("HR@10", "Recall@5", "Recall@10", "NDCG@5", "NDCG@10", "MAP@10", "MRR")


def ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """(B, T) ranks of each row's targets (B, T) among its scores (B, R), best first; ties are broken against targets.

    Films left out of the ranking have score -inf. Raises `ValueError` if a target's own score is not finite.
    """
    own = scores.gather(1, targets).sort(1, descending=True).values  # (B, T)
    if not bool(own.isfinite().all()) or bool(scores.isnan().any()):
        raise ValueError("a score is NaN, or a target's score is not finite")
    places = torch.arange(1, targets.shape[1] + 1, device=scores.device)
    others = torch.stack([(scores >= score[:, None]).sum(1) for score in own.T], dim=1) - \
        (own[:, None, :] >= own[:, :, None]).sum(-1)  # films at least as good that are no targets
    return others.clamp_min(0) + places  # fewer than none only where a film is a target twice


def per_request(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of ranks (Q, T), ascending, as a vector over requests."""
    rank = np.asarray(rank)
    targets = rank.shape[1]
    places = np.arange(1, targets + 1)
    metrics: dict[str, np.ndarray] = {}
    for k in CUTOFFS:
        hit, most = rank <= k, min(targets, k)
        ideal = (1.0 / np.log2(1.0 + places[:most])).sum()
        metrics |= {f"HR@{k}": hit[:, 0].astype(float), f"Recall@{k}": hit.mean(1),
                    f"NDCG@{k}": (hit / np.log2(1.0 + rank)).sum(1) / ideal,
                    f"MAP@{k}": (hit * places / rank).sum(1) / most}
    return metrics | {"MRR": 1.0 / rank[:, 0]}


def per_person(rank: np.ndarray, people: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric as a vector over those who were asked, in ascending order: the mean over a person's requests."""
    _, place, counts = np.unique(people, return_inverse=True, return_counts=True)
    return {name: np.bincount(place, values) / counts for name, values in per_request(rank).items()}


def bootstrap_interval(values: np.ndarray, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over people (Efron's bootstrap)."""
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
