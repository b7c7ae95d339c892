"""Two views of each history for contrastive learning: what they share should be the user's taste.

A view is the history with a run of its interactions in another order, as in Xie et al. (CL4SRec,
ICDE 2022, arXiv:2010.14395, section 3.2). It has no user id and no user columns: by these alone
the two views of a history would be found.
"""

import numpy as np
import torch

from batches import Batch, unknown_like

SHUFFLED = 0.6  # share of a history, as in CL4SRec's experiments


def two_views(batch: Batch, noise: np.random.Generator) -> tuple[Batch, Batch]:
    """Two views of each history of a causal training batch."""
    nothing = {
        name: unknown_like(values)
        for name, values in batch.user_columns.items()
    }
    anonymous = batch.replace(
        users=unknown_like(batch.users), user_columns=nothing
    )
    return reorder(anonymous, noise), reorder(anonymous, noise)


def reorder(batch: Batch, noise: np.random.Generator) -> Batch:
    """A random run of each history, at least one interaction long, in another order, at the old
    times."""
    lengths = batch.lengths.numpy()[:, None]  # (B, 1)
    run = (lengths * SHUFFLED).astype(int)
    run = np.maximum(1, run)
    start = noise.random(lengths.shape) * (lengths - run + 1)
    start = start.astype(int)
    place = np.arange(batch.items.shape[1])
    inside = (place >= start) & (place < start + run)  # (B, L)
    shuffled = start + noise.random(inside.shape) * run
    place = np.where(inside, shuffled, place + 0.5)
    order = np.argsort(place, axis=1, kind="stable")
    order = torch.from_numpy(order)
    items = batch.items.gather(1, order)
    columns = {
        name: values.gather(1, order) for name, values in batch.columns.items()
    }
    return batch.replace(items=items, columns=columns)
