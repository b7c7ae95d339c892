"""Item-to-item models. All score by one matrix product:

    score(history) = sum over its items i of decay^(age of i) * M[i, :]

R rows of the item table; age 0 = the newest item.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from batches import Batch
from dataset import ITEM_ROWS, PAD, Dataset
from pair_counts import transition_counts
from transformer import positions_from_end


class ItemToItem:
    """Scores by a matrix M (R, R). decay: 1 = all items count alike, 0 = the newest alone."""

    starts = False  # says nothing before the first item

    def __init__(self, matrix: np.ndarray, decay: float = 1.0) -> None:
        self.matrix = torch.from_numpy(matrix).float()
        self.decay = decay

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores; -inf for PAD and MASK."""
        age = positions_from_end(batch.lengths, batch.items.shape[1])
        weight = torch.pow(torch.tensor(self.decay), age.float())
        weight = weight * (batch.items != PAD)
        history = torch.zeros(len(batch.lengths), len(self.matrix))
        history.scatter_add_(1, batch.items, weight)  # (B, R)
        scores = history @ self.matrix
        scores[:, :ITEM_ROWS] = -torch.inf
        return scores


class ColumnNeighbours:
    """Scores an item by the mean cosine similarity of its categories and tags to those of the
    history.

    Items with equal scores, and all items if there is no history, are ordered by popularity.
    """

    starts = True

    def __init__(self, data: Dataset) -> None:
        items = data.catalogue.items
        flags = torch.from_numpy(items.small_shares() > 0).float()
        self.columns = F.normalize(flags, dim=1)  # (R, F)
        counts = data.item_counts()
        order = counts / (counts.max() + 1)
        self.order = torch.from_numpy(order).double() * 1e-6
        self.order[:ITEM_ROWS] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) similarities, plus less than a millionth by popularity."""
        # (B, F), PAD has none
        history = self.columns[batch.items].double().sum(1)
        lengths = batch.lengths.clamp_min(1)[:, None]
        taste = history / lengths
        return taste @ self.columns.double().T + self.order


def item_knn(
    data: Dataset, neighbours: int, shrinkage: float, decay: float = 1.0
) -> ItemToItem:
    """Nearest neighbours by shrunken cosine, |i and j| / (sqrt(|i| |j|) + shrinkage), of the users
    who have both in training (Deshpande & Karypis, TOIS 2004; the shrinkage as in Dacrema et al.,
    RecSys 2019, section 3.2)."""
    seen = data.user_items()
    together = (seen.T @ seen).toarray()
    counts = together.diagonal()
    norms = np.sqrt(np.outer(counts, counts))
    cosine = together / (norms + shrinkage + 1e-12)
    np.fill_diagonal(cosine, 0.0)
    if neighbours < len(cosine):
        # Of each item j, the items i that speak for it.
        weakest = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine[cosine < weakest] = 0.0
    return ItemToItem(cosine, decay)


def ease(
    data: Dataset, regularisation: float, decay: float = 1.0
) -> ItemToItem:
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv:1905.03375, eq. 8): with
    P = (X^T X + lambda I)^-1, M = -P / diag(P) column by column, and 0 on the diagonal."""
    seen = data.user_items()
    together = (seen.T @ seen).toarray()
    precision = np.linalg.inv(
        together + regularisation * np.eye(len(together))
    )
    scale = np.diag(precision)
    matrix = -precision / scale
    np.fill_diagonal(matrix, 0.0)
    return ItemToItem(matrix, decay)


def markov_chain(
    data: Dataset, reach: int = 1, backoff: float = 0.1, decay: float = 0.0
) -> ItemToItem:
    """Share of each item among those that follow item i in training, mixed with its popularity.

    reach: an item up to so many steps later counts as a follower, with weight 1 / steps. backoff:
    pseudo-followers that every item gets, spread by popularity, so that unseen pairs are ranked.
    decay 0: the first-order chain; above 0 older items count too.
    """
    following = transition_counts(data, 1 / np.arange(1.0, reach + 1))
    counts = data.item_counts()
    popularity = counts / counts.sum()
    matrix = following.toarray() + backoff * popularity
    matrix = matrix / matrix.sum(1, keepdims=True)
    return ItemToItem(matrix, decay)
