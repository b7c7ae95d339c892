"""Two views of each history for contrastive learning: what they share should be the person's taste.

A view is the history with a run of its interactions in another order, as in Xie et al. (CL4SRec, ICDE 2022,
arXiv:2010.14395, section 3.2). It tells nothing of the person: with a token of its own each history would be found by
that alone.

Axes: B users, L positions.
"""

from __future__ import annotations

import numpy as np
import torch

from batches import Batch
from data_processor import UNKNOWN

SHUFFLED = 0.6  # share of a history, as in CL4SRec's experiments on ML-1M


def two_views(batch: Batch, noise: np.random.Generator) -> tuple[Batch, Batch]:
    """Two views of each history of a causal training batch."""
    anonymous = batch.replace(users=torch.full_like(batch.users, UNKNOWN),
                              demographics=torch.full_like(batch.demographics, UNKNOWN))
    return reorder(anonymous, noise), reorder(anonymous, noise)


def reorder(batch: Batch, noise: np.random.Generator) -> Batch:
    """A random run of each history, at least one interaction long, in another order, at the old times."""
    lengths = batch.lengths.numpy()
    length = np.maximum(1, (lengths * SHUFFLED).astype(int))
    start = (noise.random(len(lengths)) * (lengths - length + 1)).astype(int)
    place = np.arange(batch.items.shape[1])
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    key = np.where(inside, start[:, None] + noise.random(inside.shape) * length[:, None], place + 0.5)
    where = torch.from_numpy(np.argsort(key, axis=1, kind="stable"))
    return batch.replace(items=batch.items.gather(1, where), ratings=batch.ratings.gather(1, where))


def last_targets(batch: Batch) -> torch.Tensor:
    """(B,) film that each causal training sequence leads to."""
    return batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]
