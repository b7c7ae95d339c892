"""Items by what followed those of the history: counts of the training part, and nothing learned.

    S(a | h) = sum_j w_j log(1 + C_ja |I| / tau),    C_ba = sum_d d^(-1/2) N_ba^(d)

N_ba^(d): how often a stands d interactions after b in training; I: the items. w_j falls by
TAIL for each newer interaction and is 0 beyond the newest REACH. A constant of the history is
left out, as it moves no rank. Untuned: the constants are the same for every data set.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from baselines.popularity import Popularity
from batches import Batch
from dataset import PAD, Dataset

REACH = 10
TAIL = 0.7
PRIOR = 15_000.0  # tau: how many transitions a pair needs to count much


class Transitions:
    """See the module's head. Pairs never seen follow in the order of their popularity."""

    starts = True

    def __init__(self, data: Dataset) -> None:
        rows = data.training_rows()
        users, items = data.user_of[rows], data.items[rows]
        size = len(data.catalogue.items)
        counts = sparse.csr_matrix((size, size))
        for distance in range(1, REACH + 1):
            same = users[distance:] == users[:-distance]
            pairs = (items[:-distance][same], items[distance:][same])
            weights = np.full(int(same.sum()), distance**-0.5)
            counts += sparse.csr_matrix((weights, pairs), shape=counts.shape)
        known = len(data.catalogue.items.ids)
        counts.data = np.log1p(counts.data * known / PRIOR)
        self.matrix = counts
        ever = Popularity(data).counts
        # less than any pair gives; -inf for PAD and MASK
        self.fallback = 1e-6 * ever / (ever.max() + 1)

    def score(self, batch: Batch) -> Tensor:
        """(B, R)."""
        length = batch.items.shape[1]
        age = batch.lengths[:, None] - 1 - torch.arange(length)
        read = (age < REACH) & (age >= 0) & (batch.items != PAD)
        row, place = read.nonzero(as_tuple=True)
        weights = TAIL ** age[row, place].double()
        pairs = (row.numpy(), batch.items[row, place].numpy())
        shape = (len(batch.items), self.matrix.shape[0])
        history = sparse.csr_matrix((weights.numpy(), pairs), shape=shape)
        scores = (history @ self.matrix).toarray()
        return torch.from_numpy(scores) + self.fallback
