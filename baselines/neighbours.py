"""Item-to-item models: what goes with the films of a history. All score by one matrix product.

    score(history) = sum over its films i of decay^(age of i) * M[i, :]

U people, R rows of the item table; age 0 = the newest film.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from batches import Batch
from data_processor import FIRST_ITEM, PAD, SequenceData
from transformer import positions_from_end


class ItemToItem:
    """Scores by a matrix M (R, R). decay: 1 = all films count alike, 0 = the newest alone."""

    starts = False  # says nothing before the first film

    def __init__(self, matrix: np.ndarray, decay: float = 1.0) -> None:
        self.matrix, self.decay = torch.from_numpy(matrix).float(), decay

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores; -inf for PAD and MASK."""
        age = positions_from_end(batch.lengths, batch.items.shape[1])
        weight = torch.pow(torch.tensor(self.decay), age.float()) * (batch.items != PAD)
        history = torch.zeros(len(batch.lengths), len(self.matrix)).scatter_add_(1, batch.items, weight)  # (B, R)
        scores = history @ self.matrix
        scores[:, :FIRST_ITEM] = -torch.inf
        return scores


class GenreNeighbours:
    """Scores a film by the mean cosine similarity of its genres to those of the films of the history; films at par, and
    all films where there is no history, follow in the order of their popularity in training."""

    def __init__(self, data: SequenceData) -> None:
        self.genres = F.normalize(torch.from_numpy(data.catalogue.genres), dim=1)  # (R, F)
        counts = np.bincount(data.items[data.training_rows()], minlength=data.catalogue.num_rows)
        self.order = torch.from_numpy(counts / (counts.max() + 1)).double() * 1e-6
        self.order[:FIRST_ITEM] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) similarities, plus less than a millionth by popularity."""
        taste = self.genres[batch.items].double().sum(1) / batch.lengths.clamp_min(1)[:, None]  # (B, F), PAD has none
        return taste @ self.genres.double().T + self.order


def item_knn(data: SequenceData, neighbours: int, shrinkage: float, decay: float = 1.0) -> ItemToItem:
    """Nearest neighbours by shrunken cosine, |i and j| / (sqrt(|i| |j|) + shrinkage), of who has both in training
    (Deshpande & Karypis, TOIS 2004; the shrinkage as in Dacrema et al., RecSys 2019, section 3.2)."""
    together = _co_occurrence(data)
    counts = together.diagonal()
    cosine = together / (np.sqrt(np.outer(counts, counts)) + shrinkage + 1e-12)
    np.fill_diagonal(cosine, 0.0)
    if neighbours < len(cosine):  # of each film j, the films i that speak for it
        weakest = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine[cosine < weakest] = 0.0
    return ItemToItem(cosine, decay)


def ease(data: SequenceData, regularisation: float, decay: float = 1.0) -> ItemToItem:
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv:1905.03375, eq. 8): with P = (X^T X + lambda I)^-1,
    M = -P / diag(P) column by column, and 0 on the diagonal."""
    precision = np.linalg.inv(_co_occurrence(data) + regularisation * np.eye(data.catalogue.num_rows))
    matrix = -precision / np.diag(precision)
    np.fill_diagonal(matrix, 0.0)
    return ItemToItem(matrix, decay)


def markov_chain(data: SequenceData, reach: int = 1, backoff: float = 0.1, decay: float = 0.0) -> ItemToItem:
    """Share of each film among those that follow film i in training, mixed with its popularity.

    reach: a film up to so many steps later counts as a follower, with weight 1 / steps. backoff: pseudo-followers that
    every film gets, spread by popularity, so that unseen pairs are ranked. decay 0: the first-order chain; above it
    older films speak too.
    """
    rows = data.training_rows()
    people = data.people[rows]
    items, size = data.items[rows], data.catalogue.num_rows
    following = sparse.csr_matrix((size, size))
    for step in range(1, reach + 1):
        same = people[step:] == people[:-step]
        pairs = (items[:-step][same], items[step:][same])
        following = following + sparse.csr_matrix((np.full(int(same.sum()), 1.0 / step), pairs), shape=(size, size))
    popularity = np.bincount(items, minlength=size) / len(items)
    matrix = following.toarray() + backoff * popularity
    return ItemToItem(matrix / matrix.sum(1, keepdims=True), decay)


def _co_occurrence(data: SequenceData) -> np.ndarray:
    """(R, R) how many people have both films in training; on the diagonal, how many have the film."""
    rows = data.training_rows()
    people = data.people[rows]
    seen = sparse.csr_matrix((np.ones(len(rows)), (people, data.items[rows])),
                             shape=(data.num_users, data.catalogue.num_rows))
    seen.data[:] = 1.0  # a film twice is a film once
    return (seen.T @ seen).toarray()
