"""Ranking metrics of leave-one-out, from ranks: one value per user first, means last.

Each user has one relevant film, so with its rank r (1 = first) in the full catalogue
    HR@K = Recall@K = [r <= K],   NDCG@K = [r <= K] / log2(1 + r),   MRR = 1 / r  (no cut-off).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

HIT_CUTOFFS, NDCG_CUTOFFS = (1, 5, 10), (5, 10)


def ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """(B,) rank of each target among the scores (B, R) of a row; ties are broken against the target.

    Films left out of the ranking have score -inf. Raises `ValueError` if a target's own score is not finite.
    """
    own = scores.gather(1, targets[:, None])  # (B, 1)
    if not bool(own.isfinite().all()) or bool(scores.isnan().any()):
        raise ValueError("a score is NaN, or a target's score is not finite")
    return (scores >= own).sum(1)


def per_user(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric as a vector over users, named as in the tables."""
    rank = np.asarray(rank)
    gain = 1.0 / np.log2(1.0 + rank)
    metrics = {f"HR@{k}": (rank <= k).astype(float) for k in HIT_CUTOFFS}
    metrics |= {f"NDCG@{k}": np.where(rank <= k, gain, 0.0) for k in NDCG_CUTOFFS}
    return metrics | {"MRR": 1.0 / rank}


def bootstrap_interval(values: np.ndarray, samples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over users (Efron's bootstrap)."""
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
