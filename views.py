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
    lengths = batch.lengths.numpy()
    length = np.maximum(1, (lengths * SHUFFLED).astype(int))[:, None]
    room = lengths[:, None] - length + 1
    start = noise.random((len(lengths), 1)) * room
    start = start.astype(int)  # (B, 1)
    place = np.arange(batch.items.shape[1])
    inside = (place >= start) & (place < start + length)
    shuffled = start + noise.random(inside.shape) * length
    place = np.where(inside, shuffled, place + 0.5)
    order = np.argsort(place, axis=1, kind="stable")
    where = torch.from_numpy(order)
    columns = {
        name: values.gather(1, where) for name, values in batch.columns.items()
    }
    return batch.replace(items=batch.items.gather(1, where), columns=columns)
