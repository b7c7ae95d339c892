"""How often items follow each other in the training part of the data.

    C_k(b, a) = sum_{d <= REACH} d^(-1/2) N_dk(b, a)
    V_k(b, a) = log(1 + SHARPNESS C_k(b, a))

N_dk(b, a): how often a stands d interactions after b, the two at the same time (k = 0) or at
different times (k = 1). Items rated or bought at once follow other rules than items of
different visits. Data without times, and models that read none, have one V_k, of all pairs.

Axes: R rows of the item table.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from dataset import NO_TIME, Dataset

REACH = 10
SHARPNESS = 4.0
CELLS = 100_000_000  # of a matrix of pairs, which is about how many fit into memory
COUNTED = [distance**-0.5 for distance in range(1, REACH + 1)]


def transition_counts(
    data: Dataset,
    weights: Sequence[float] = COUNTED,
    same_time: bool | None = None,
) -> sparse.csr_matrix:
    """sum_d weights[d - 1] N_d (R, R) of the training part.

    same_time: True for pairs with equal, known times; False for all other pairs; None for all.
    Where more than CELLS different pairs are possible, every second, third, ... user counts, twice,
    three times, ...
    """
    size = len(data.catalogue.items)
    pairs = len(weights) * int(data.train_lengths.sum())
    step = max(1, -(-min(pairs, size**2) // CELLS))
    counts = sparse.csr_matrix((size, size))
    for part in data.chunks():
        counts += step * _counts_of(part, weights, same_time, step)
    return counts


def _counts_of(data, weights, same_time, step):
    """The same of every `step`-th user."""
    rows = data.training_rows()
    if step > 1:
        rows = rows[data.user_of[rows] % step == 0]
    users, items, times = (
        data.user_of[rows],
        data.items[rows],
        data.times[rows],
    )
    size = len(data.catalogue.items)
    counts = sparse.csr_matrix((size, size))
    for distance, weight in enumerate(weights, 1):
        chosen = users[distance:] == users[:-distance]
        if same_time is not None:
            same = times[distance:] == times[:-distance]
            same &= times[distance:] != NO_TIME
            chosen &= same == same_time
        pairs = (items[:-distance][chosen], items[distance:][chosen])
        each = np.full(int(chosen.sum()), weight)
        counts += sparse.csr_matrix((each, pairs), shape=counts.shape)
    return counts


def transition_values(data: Dataset, by_time: bool) -> list[sparse.csr_matrix]:
    """Matrices (R, R): V_0 and V_1, or one V_k of all pairs if not `by_time`."""
    matrices = []
    pairs = (True, False) if by_time else (None,)
    for same_time in pairs:
        values = transition_counts(data, same_time=same_time)
        values.data = np.log1p(SHARPNESS * values.data)
        matrices.append(values)
    return matrices


def largest_of_rows(values: sparse.csr_matrix, kept: int) -> sparse.csr_matrix:
    """Of each row the `kept` values of the largest size, in the order of their columns."""
    values = values.tocsr()
    values.sort_indices()
    lengths = np.diff(values.indptr)
    if lengths.max(initial=0) <= kept:
        return values
    row = np.repeat(np.arange(len(lengths)), lengths)
    # by row, within it from the largest size on, of equal ones the first
    order = np.lexsort((-np.abs(values.data), row))
    place = np.arange(len(order)) - values.indptr[row]
    chosen = np.sort(order[place < kept])
    pairs = (row[chosen], values.indices[chosen])
    return sparse.csr_matrix((values.data[chosen], pairs), shape=values.shape)
