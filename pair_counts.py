"""How often items follow each other, and occur together, in the training part of the data.

    C_k(b, a) = sum_{d <= REACH} d^(-1/2) N_dk(b, a)
    V_k(b, a) = log(1 + SHARPNESS C_k(b, a))                        a follows b
    V(b, a) = SCALE (C(b, a) + C(a, b)) / sqrt(n_a n_b)             a and b occur together

N_dk(b, a): how often a stands d interactions after b, the two at the same time (k = 0) or at
different times (k = 1). Items rated or bought at once follow other rules than items of
different visits. Data without times, and models that read none, have one V_k, of all pairs.

C is the sum of all C_k, and n_a the number of interactions of item a. V is the similarity of
item-based neighbourhood models (Deshpande and Karypis, "Item-based top-N recommendation
algorithms", 2004), with pairs weighted by their distance. It asks how often two items meet
compared with how often each occurs, V_k only how often they meet.

Axes: R rows of the item table.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from dataset import NO_TIME, Dataset

REACH = 10
SHARPNESS = 4.0
SCALE = 10.0  # so that the values of all kinds are of one size
COUNTED = [distance**-0.5 for distance in range(1, REACH + 1)]


def transition_counts(
    data: Dataset,
    weights: Sequence[float] = COUNTED,
    same_time: bool | None = None,
) -> sparse.csr_matrix:
    """sum_d weights[d - 1] N_d (R, R) of the training part.

    same_time: True for pairs with equal, known times; False for all other pairs; None for all.
    """
    rows = data.training_rows()
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


def pair_values(data: Dataset, kinds: int) -> list[sparse.csr_matrix]:
    """List of matrices (R, R): V_0 and V_1, or one V_k of all pairs if `kinds` is 2; last V."""
    if kinds == 2:
        counts = [transition_counts(data)]
    else:
        counts = [
            transition_counts(data, same_time=same) for same in (True, False)
        ]
    follow = []
    for matrix in counts:
        values = matrix.copy()
        values.data = np.log1p(SHARPNESS * values.data)
        follow.append(values)
    return [*follow, _similarities(sum(counts), data.item_counts())]


def _similarities(counts, occurrences):
    """V (R, R) from C (R, R) and n (R,)."""
    inverse = sparse.diags(1 / np.sqrt(np.maximum(occurrences, 1)))
    return (SCALE * inverse @ (counts + counts.T) @ inverse).tocsr()


def largest_of_rows(values: sparse.csr_matrix, kept: int) -> sparse.csr_matrix:
    """Of each row the `kept` largest values, in the order of their columns."""
    values = values.tocsr()
    values.sort_indices()
    lengths = np.diff(values.indptr)
    if lengths.max(initial=0) <= kept:
        return values
    row = np.repeat(np.arange(len(lengths)), lengths)
    # by row, within it from the largest value on, of equal ones the first
    order = np.lexsort((-values.data, row))
    place = np.arange(len(order)) - values.indptr[row]
    chosen = np.sort(order[place < kept])
    pairs = (row[chosen], values.indices[chosen])
    return sparse.csr_matrix((values.data[chosen], pairs), shape=values.shape)
