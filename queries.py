"""`Query`: which items a user may be shown and by what they are ranked; and its answer as rows.

B queries of a batch, R rows of the item table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from answers import Id
from batches import Batch, History
from dataset import Catalogue
from histories import item_rows
from item_search import rows_where
from profiles import mean_value
from reranking import LikedRanker, candidates, lifted, varied
from schema import Schema
from scorer import Blocks, Scorer, best_items
from support.errors import require

RANKINGS = ("next", "liked")


@dataclass(frozen=True)
class Query:
    """A request: the `k` best items after a history.

    filter_seen: leave out items of the history; None = as the schema says. where: conditions on the
    items' columns (item_search.py). only, without: ids of the items that alone may, or may not be
    on the list. If fewer items are left, the list is shorter. rank_by: `next`
    or `liked`, diversity: from 0 to 1 (reranking.py). prefer_expected: what the values that are
    expected of the list's items, such as ratings, shall be on average (`lifted` in reranking.py);
    'mean' is the mean of the history.
    """

    history: History
    k: int = 10
    filter_seen: bool | None = None
    where: Sequence[str] = ()
    only: Sequence[Id] | None = None
    without: Sequence[Id] = ()
    rank_by: str = "next"
    diversity: float = 0.0
    prefer_expected: float | Literal["mean"] | None = None

    def __post_init__(self) -> None:
        """Raises `UserError` for what no answer can be given to."""
        check_choices(self.k, self.rank_by, self.diversity)
        wanted = self.prefer_expected
        if isinstance(wanted, str):
            number = wanted == "mean"
        else:
            number = wanted is None or math.isfinite(wanted)
        require(
            number,
            f"--prefer_expected {wanted!r} is neither a number nor 'mean'",
        )

    @property
    def judges(self) -> bool:
        """Whether the answer depends on the values that are expected of items."""
        return self.rank_by == "liked" or self.prefer_expected is not None


def check_choices(
    k: int, rank_by: str = "next", diversity: float = 0.0
) -> None:
    """Raise `UserError` for a list that cannot be made."""
    require(k >= 1, f"--k {k}: a list has at least one item")
    require(
        rank_by in RANKINGS,
        f"--rank_by {rank_by!r}: choose {' or '.join(RANKINGS)}",
    )
    require(
        0 <= diversity <= 1, f"--diversity {diversity} is not between 0 and 1"
    )


def hides_seen(schema: Schema, filter_seen: bool | None) -> bool:
    """Whether items of the history are left out; None = as the schema says."""
    return not schema.repeats if filter_seen is None else filter_seen


def allowed_items(catalogue: Catalogue, query: Query) -> np.ndarray:
    """(R,) which items may answer a query, whatever value is expected of them."""
    allowed = rows_where(catalogue.items, query.where)
    if hides_seen(catalogue.schema, query.filter_seen):
        allowed[query.history.items] = False
        if query.history.also_seen is not None:
            allowed[query.history.also_seen] = False
    if query.only is not None:
        chosen = np.zeros_like(allowed)
        chosen[item_rows(catalogue, query.only, "--only")] = True
        allowed &= chosen
    allowed[item_rows(catalogue, query.without, "--without")] = False
    return allowed


def best_of(
    scorer: Scorer,
    catalogue: Catalogue,
    queries: Sequence[Query],
    batch: Batch,
    states: Tensor,
) -> list[tuple[Tensor, Tensor]]:
    """(rows of items, their scores) of each query, best first.

    batch: the histories of the queries; states: of this batch (B, D).
    """
    blocks = _allowed_blocks(scorer, catalogue, queries, batch, states)
    most = max(candidates(query.k, query.diversity) for query in queries)
    rows, scores = best_items(blocks, most)
    found = []
    for query, items, best in zip(queries, rows, scores, strict=True):
        number = _number(query, best)
        found.append(_list_of(scorer, query, items[:number], best[:number]))
    return found


def _list_of(scorer, query, items, scores):
    """The list of a query from its candidates, best first, and their scores."""
    table = getattr(scorer, "table", None)  # popularity has none
    return varied(items, scores, table, query.k, query.diversity)


def place_of(
    scorer: Scorer,
    catalogue: Catalogue,
    query: Query,
    batch: Batch,
    row: int,
) -> int | None:
    """The place of an item among all that may answer a query, from 1, ties against it, without
    diversity; None if it may not answer."""
    states = scorer.states(batch)
    blocks = _allowed_blocks(scorer, catalogue, [query], batch, states)
    scores = torch.cat([part[0] for _, part in blocks])
    if scores[row] == -torch.inf:
        return None
    return int((scores >= scores[row]).sum())


def similar_rows(
    scorer: Scorer,
    catalogue: Catalogue,
    row: int,
    k: int,
    where: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """(rows, cosines) of the items whose vectors are most like that of an item, best first."""
    check_choices(k)
    vectors = F.normalize(scorer.table.float(), dim=1)
    allowed = rows_where(catalogue.items, where)
    allowed[row] = False
    alike = vectors @ vectors[row]
    alike.masked_fill_(~torch.from_numpy(allowed), -torch.inf)
    best = alike.topk(min(k, int(allowed.sum())))
    return best.indices, best.values


def _allowed_blocks(scorer, catalogue, queries, batch, states) -> Blocks:
    """The scores by which queries rank, -inf for items that may not answer them."""
    barred = np.stack([~allowed_items(catalogue, query) for query in queries])
    barred = torch.from_numpy(barred)
    judged = any(query.judges for query in queries)
    for first, scores in _blocks(scorer, batch, states, judged):
        part = barred[:, first : first + scores.shape[1]]
        scores.masked_fill_(part, -torch.inf)
        if judged:
            _judge(scorer, catalogue, queries, batch, states, scores)
        yield first, scores


def _blocks(scorer, batch, states, together) -> Blocks:
    """The scores of all items; in one block if there is no other way, or `together`."""
    if isinstance(scorer, Scorer) and not together:
        yield from scorer.blocks(states, batch)
    else:
        yield 0, scorer.scores(states, batch)


def _judge(scorer, catalogue, queries, batch, states, scores):
    """Change the scores (B, R) of all items by the values that the model expects."""
    ranker = LikedRanker(scorer, catalogue)
    least = ranker.least(batch)
    for place, query in enumerate(queries):
        if not query.judges:
            continue
        row, shares = scores[place], ranker.shares(states[place])
        if query.rank_by == "liked":
            row += ranker.log_liked(shares, least[place])
        if query.prefer_expected is not None:
            expected = ranker.expected(shares)
            row.copy_(_lifted(ranker, catalogue, query, row, expected))


def _lifted(ranker, catalogue, query, scores, expected):
    """Scores (R,) by which the list is expected to be as valuable as a query wants it."""
    least = query.prefer_expected
    if least == "mean":
        least = mean_value(catalogue, query.history, ranker.column)
    if least is None:
        least = ranker.numbers.mean().item()

    def chosen(changed: Tensor) -> Tensor:
        best, items = changed.topk(_number(query, changed))
        return _list_of(ranker.scorer, query, items, best)[0]

    return lifted(scores, expected, float(least), chosen)


def _number(query, scores):
    """How many candidates (C,) or items (R,) a list is made of: fewer if no more are left."""
    left = int((scores > -torch.inf).sum())
    return min(candidates(query.k, query.diversity), left)
