"""Other rankings: by expected liking, with a least expected value of the list, and diversified by
maximal marginal relevance.

    liked(a) = log P(a is next | h) + log P(v >= t | h, a)

v is an interaction's value, which a head predicts (heads.py), such as a rating. t is the mean value
in the part of the history that the model reads; without any, the mean of the scale's values.

    next item = argmax_a (1 - diversity) relevance(a) - diversity max_s cos(e_a, e_s)

This is maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998). s are the items that the
list already has, e the vectors of the item table. Relevance is the score, scaled to 0 to 1 among
the candidates.

Axes: B requests, L positions, D width, R rows of the item table, K values of the column.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from batches import Batch
from dataset import Catalogue
from scorer import Scorer
from support.errors import UserError

# Weights of expected values that are tried, for values of standard deviation 1.
SMALLEST, LARGEST = 1 / 16, 2**10
HALVINGS = 10
CANDIDATES = 10  # times the length of a list
# Of a mean of equal values, relative to it: sums and quotients are rounded.
ROUNDING = 1e-6


def liked_column(scorer: Scorer, catalogue: Catalogue) -> str | None:
    """The first column of interactions that a head predicts and whose values are numbers."""
    fields = catalogue.interaction_fields
    found = [
        name
        for name in scorer.value_columns
        if fields[name].numbers is not None
    ]
    return found[0] if found else None


class LikedRanker:
    """Ranks by `liked`. Raises `UserError` if the model predicts no value that is a number."""

    def __init__(self, scorer: Scorer, catalogue: Catalogue) -> None:
        column = liked_column(scorer, catalogue)
        if column is None:
            raise UserError(
                "--rank_by liked and --prefer_expected: this model predicts no column of "
                "interactions whose values are numbers, such as ratings; train with "
                "--value_weight on data with one"
            )
        self.scorer, self.column = scorer, column
        self.starts = scorer.starts
        numbers = catalogue.interaction_fields[column].numbers
        self.numbers = torch.from_numpy(numbers).double()  # (K,)

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores; -inf for PAD and MASK."""
        states = self.scorer.states(batch)
        return self.scorer.scores(states, batch) + self.liking(states, batch)

    def liking(self, states: Tensor, batch: Batch) -> Tensor:
        """(B, R) log P(v >= t) of each item, from the requests' states (B, D)."""
        # One request at a time: the head reads three vectors of each item.
        found = [
            self.log_liked(self.shares(state), least)
            for state, least in zip(states, self.least(batch), strict=True)
        ]
        return torch.stack(found)

    def shares(self, state: Tensor) -> Tensor:
        """(R, K) probabilities of the values of each item, from a request's state (D,)."""
        rows = torch.arange(len(self.scorer.table), device=state.device)
        return self.scorer.value_probabilities(
            self.column, state.expand(len(rows), -1), rows
        )

    def log_liked(self, shares: Tensor, least: Tensor) -> Tensor:
        """(R,) log P(v >= least), from `shares`."""
        counted = (self.numbers >= least).to(shares.device)
        smallest = torch.finfo(torch.float32).tiny
        return (shares * counted).sum(1).clamp_min(smallest).log()

    def expected(self, shares: Tensor) -> Tensor:
        """(R,) expected value of each item, from `shares`."""
        return shares.double() @ self.numbers.to(shares.device)

    def least(self, batch: Batch) -> Tensor:
        """(B,) t, the smallest value that counts as liked."""
        codes = batch.columns[self.column].cpu()  # (B, L)
        known = codes > 0
        values = F.pad(self.numbers, (1, 0))[codes]
        mean = values.sum(1) / known.sum(1)
        mean = mean.where(known.any(1), self.numbers.mean())
        return torch.from_numpy(liked_from(mean.numpy()))


def lifted(
    scores: Tensor,
    expected: Tensor,
    least: float,
    chosen: Callable[[Tensor], Tensor],
) -> Tensor:
    """(R,) scores + w (expected - mean), with the smallest w >= 0 for which the chosen items have
    an expected value of `least` or more on average; `mean` is that of all items that may be chosen.

    scores (R,), -inf for items that may not be chosen. expected (R,) value of each item. chosen:
    from scores (R,) to the rows of the items on the list. If no w is enough, the list is the one
    with about the largest mean.
    """
    left = scores > -torch.inf
    if not left.any():
        return scores
    spread = float(expected[left].std(correction=0))
    least = float(liked_from(np.array(least)))
    distance = (expected - expected[left].mean()).to(scores)

    def with_weight(weight: float) -> Tensor:
        return torch.where(left, scores + weight * distance, scores)

    def enough(weight: float) -> bool:
        return float(expected[chosen(with_weight(weight))].mean()) >= least

    if not spread or enough(0.0):
        return scores
    low, high = 0.0, SMALLEST / spread
    while high < LARGEST / spread and not enough(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return with_weight(high)


def liked_from(mean: np.ndarray) -> np.ndarray:
    """The smallest values that count as liked, from means of any shape."""
    return mean - ROUNDING * np.maximum(1.0, np.abs(mean))


def candidates(k: int, diversity: float) -> int:
    """How many of the best items `varied` needs for a list of k."""
    return CANDIDATES * k if diversity else k


def varied(
    items: Tensor,
    scores: Tensor,
    table: Tensor | None,
    k: int,
    diversity: float,
) -> tuple[Tensor, Tensor]:
    """(rows of items, their scores), each (k,) at most, in the order of the list.

    items, scores (C,): candidates, best first. table (R, D). diversity: 0 = by score alone, which
    needs no table, up to 1. Raises `UserError` if a table is needed and missing.
    """
    k = min(k, len(items))
    if not diversity or k < 2:
        return items[:k], scores[:k]
    if table is None:
        raise UserError(
            "--diversity: this ranker knows no vectors of items; drop the flag"
        )
    spread = scores[0] - scores[-1]
    relevance = (scores - scores[-1]) / spread.clamp_min(1e-9)
    vectors = F.normalize(table[items].float(), dim=1)
    alike = vectors @ vectors.T
    nearest = torch.zeros_like(relevance)
    chosen: list[int] = []
    for _ in range(k):
        worth = (1 - diversity) * relevance - diversity * nearest
        worth[chosen] = -torch.inf
        chosen.append(int(worth.argmax()))
        newest = alike[chosen[-1]]
        nearest = newest if len(chosen) == 1 else nearest.maximum(newest)
    places = torch.tensor(chosen)
    return items[places], scores[places]


def varied_lists(
    items: np.ndarray,
    scores: np.ndarray,
    table: Tensor,
    k: int,
    diversity: float,
) -> tuple[np.ndarray, np.ndarray]:
    """`varied` of each of several lists (Q, C), as (Q, K); 0 and -inf where none is left."""
    if not diversity:
        return items[:, :k], scores[:, :k]
    shape = (len(items), min(k, items.shape[1]))
    rows = np.zeros(shape, dtype=np.int64)
    values = np.full(shape, -np.inf, dtype=np.float32)
    for number, left in enumerate(np.isfinite(scores)):
        pair = (items[number][left], scores[number][left])
        found = varied(*map(torch.from_numpy, pair), table, k, diversity)
        for filled, part in zip((rows, values), found, strict=True):
            filled[number, : len(part)] = part.numpy()
    return rows, values


def intra_list_distance(lists: np.ndarray, table: Tensor) -> np.ndarray:
    """(Q,) mean of 1 - cos over the pairs of each list (Q, K) of rows of the item table (R, D)
    (Ziegler et al., WWW 2005)."""
    vectors = F.normalize(table.float(), dim=1)[torch.from_numpy(lists)]
    # Of all pairs, and of each with itself.
    total = vectors.sum(1).square().sum(1)
    size = lists.shape[1]
    alike = (total - size) / max(1, size * (size - 1))
    return (1 - alike).numpy()
