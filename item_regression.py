"""Which items of a history speak for an item: one ridge regression for each item.

    W[N, a] = (G[N, N] + RIDGE I)^-1 G[N, a]          N: the SIMILAR items most like a
    W[b, a] = 0                                       for all other items b

G(b, a) is the number of users who have both items in the training part. It is X^T X for the matrix
X of users and items, 1 where training has the pair. So X[:, N] W[N, a] is the best linear
prediction of who has item a. The most similar items have the largest cosine
G(b, a) / sqrt(G(b, b) G(a, a)).

This is EASE (Steck, WWW 2019, arXiv:1905.03375) with the neighbours alone, as in SLIM with feature
selection (Ning and Karypis, ICDM 2011). Once the pairs are counted, time and memory grow with the
number of items, not with its cube and square. Added to a model it ranks at least as well as all of
EASE (ablations/LOG.md).

Axes: R rows of the item table.
"""

import numpy as np
from scipy import sparse

from dataset import Dataset
from pair_counts import CELLS

SIMILAR = 100
RIDGE = 30.0
# Pairs of items that are counted, at most: with more, only every second, third, ... user counts.
# CELLS where so many different ones are possible.
PAIRS = 500_000_000


def item_regression(data: Dataset) -> sparse.csr_matrix:
    """W (R, R) of the training part. Row: the item of the history. Column: the item to rank."""
    together = _together(data).tocsc()
    together.sort_indices()
    number = together.diagonal()
    # Of a full table the counts of 100 items are looked up much faster.
    full = None
    if len(number) ** 2 <= CELLS:
        full = together.astype(np.float32).toarray()
    columns = []
    for item in range(len(number)):
        others, counts = _most_similar(together, number, item)
        weights = np.zeros(0)
        if len(others):
            if full is None:
                among = together[:, others][others].toarray()
            else:
                among = full[np.ix_(others, others)].astype(float)
            among += RIDGE * np.eye(len(others))
            weights = np.linalg.solve(among, counts)
        columns.append((others, weights))
    lengths = [len(others) for others, _ in columns]
    rows = np.concatenate([others for others, _ in columns])
    weights = np.concatenate([weights for _, weights in columns])
    starts = np.cumsum([0, *lengths])
    size = (len(number), len(number))
    return sparse.csc_matrix((weights, rows, starts), shape=size).tocsr()


def _together(data):
    """G (R, R) of all users, or of as many, evenly spread, as PAIRS and CELLS allow, scaled up to
    all."""
    pairs = 0
    for part in data.chunks():
        lengths = part.user_items().getnnz(axis=1).astype(np.int64)
        pairs += int((lengths**2).sum())
    size = len(data.catalogue.items)
    most = PAIRS if size**2 <= CELLS else CELLS
    step = max(1, -(-pairs // most))
    together = sparse.csr_matrix((size, size))
    for part in data.chunks():
        seen = part.user_items()[::step]
        together += seen.T @ seen
    return together * step if step > 1 else together


def _most_similar(together, number, item):
    """The items most like an item, and how many users have each of them and that item too."""
    start, end = together.indptr[item : item + 2]
    others = together.indices[start:end]
    counts = together.data[start:end]
    cosines = counts / np.sqrt(number[others] * number[item])
    # The item itself comes out of its own regression.
    cosines[others == item] = -1
    order = np.argsort(-cosines, kind="stable")[:SIMILAR]
    order = order[cosines[order] > 0]
    order = order[np.argsort(others[order])]
    return others[order], counts[order]
