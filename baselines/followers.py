"""Rankers by counts of which items follow which, without training: PCTM and Sequential Rules.

    S(a | h) = sum_j w_j M(h_j, a) + popularity log p(a)          h_0 is the newest item

M (R, R) is sparse and comes from N_d(b, a): how often a stands d interactions after b in the
training part. Both after the formulas of Spotify Research (sequential-capacity-probes, RecSys
2026, docs/PROTOCOL.md). Items with equal scores are ordered by popularity.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from batches import Batch
from dataset import ITEM_ROWS, Dataset
from pair_counts import largest_of_rows, transition_counts

# What a step of distance or age d = 1, 2, ... weighs.
STEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverse": lambda d: 1 / d,
    "inverse_root": lambda d: d**-0.5,
    "quadratic": lambda d: 1 / d**2,
    "logarithmic": lambda d: 1 / np.log10(d + 1.7),
}
# Settings of PCTM by its authors: for MovieLens 1M, and for a shop's sparse data.
PUBLISHED: tuple[dict[str, Any], ...] = (
    {
        "counted": ("inverse", 20),
        "sharpness": 25.0,
        "history": "tail",
        "popularity": -0.4,
    },
    {
        "counted": ("inverse_root", 10),
        "sharpness": 1.2,
        "history": "long_tail",
        "popularity": 0.0,
    },
)
RECENT_MASS = 0.8  # what the newest items of a history share; older ones share the rest evenly


class Followers:
    """Scores by M and by w: `weights` gives w (n,), newest first, of a history of n items.

    background: (R,) added to the counts of each item.
    """

    starts = False  # says nothing before the first item

    def __init__(
        self,
        matrix: sparse.csr_matrix,
        weights: Callable[[int], np.ndarray],
        background: np.ndarray,
    ) -> None:
        self.matrix = matrix.tocsr()
        self.weights = weights
        self.background = torch.from_numpy(background).float()
        self.background[:ITEM_ROWS] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores; -inf for PAD and MASK."""
        device = batch.items.device
        lengths, rows = batch.lengths.cpu().numpy(), batch.items.cpu().numpy()
        items = [
            row[:length] for row, length in zip(rows, lengths, strict=True)
        ]
        # Newest last, as the items are.
        weights = [self.weights(length)[::-1] for length in lengths]
        row = np.repeat(np.arange(len(lengths)), lengths)
        history = sparse.csr_matrix(
            (np.concatenate(weights), (row, np.concatenate(items))),
            shape=(len(lengths), self.matrix.shape[0]),
        )
        sums = (history @ self.matrix).toarray()
        scores = torch.from_numpy(sums).float() + self.background
        return scores.to(device)


def pctm(
    data: Dataset,
    counted: tuple[str, int],
    sharpness: float,
    history: str,
    popularity: float,
) -> Followers:
    """A product of smoothed transition probabilities: with C = sum_d g_d N_d, M(b, a) = log(1 +
    sharpness C(b, a)), sharpness = |I| / tau of the source; a term that is equal for all items is
    left out.

    counted: the name and number of the weights g. history: a name of HISTORIES. popularity: the
    factor of log p(a), below 0 against popular items.
    """
    kind, reach = counted
    matrix = transition_counts(data, STEPS[kind](np.arange(1.0, reach + 1)))
    matrix.data = np.log1p(sharpness * matrix.data)
    times = data.item_counts()
    share = (times + 1) / (times.sum() + len(times))
    background = popularity * np.log(share) + _order(times)
    return Followers(matrix, HISTORIES[history], background)


def sequential_rules(
    data: Dataset,
    reach: int,
    rule: str,
    kept: int,
    rare_first: bool,
    history: str,
    newest: int = 10,
) -> Followers:
    """M = sum_d g_d N_d, of each row the `kept` largest (Ludewig & Jannach, UMUAI 2018, with more
    than the last item of a history).

    rule, history: names of the weights of a distance and of an age. rare_first: multiply each row
    by the inverse frequency of its item, log(users / frequency) scaled to 0 to 1.
    """
    matrix = transition_counts(data, STEPS[rule](np.arange(1.0, reach + 1)))
    times = data.item_counts()
    if rare_first:
        scale = sparse.diags(_rarity(times, data.num_users))
        matrix = (scale @ matrix).tocsr()

    def weights(length):
        age = np.arange(1.0, length + 1)
        return STEPS[history](age) * (age <= newest)

    background = _order(times)
    return Followers(largest_of_rows(matrix, kept), weights, background)


def _rarity(times, users):
    """(R,) between 0 for the most frequent item and 1 for the rarest; 0 for unknown ones."""
    known = times > 0
    rarity = np.log(users / np.maximum(times, 1))
    low, high = rarity[known].min(), rarity[known].max()
    if low == high:
        return known.astype(float)
    return np.where(known, (rarity - low) / (high - low), 0)


def _order(times):
    """(R,) smaller than any count: the order of items with equal scores."""
    return 1e-6 * times / (times.max() + 1)


def _tail(length, newest, decay):
    weights = np.zeros(length)
    newest = min(length, newest)
    recent = decay ** np.arange(newest)
    weights[:newest] = RECENT_MASS * recent / recent.sum()
    if length > newest:
        weights[newest:] = (1 - RECENT_MASS) / (length - newest)
    return weights / max(weights.sum(), 1e-9)


def _exponential(length):
    weights = 0.6 ** np.arange(length)
    return weights / max(weights.sum(), 1e-9)


HISTORIES: dict[str, Callable[[int], np.ndarray]] = {
    "tail": partial(_tail, newest=7, decay=0.6),
    "long_tail": partial(_tail, newest=10, decay=0.7),
    "exponential": _exponential,
}
