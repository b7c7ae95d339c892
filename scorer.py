"""`Scorer`: a trained model for ranking and explaining, with its item table computed once."""

from collections.abc import Iterator, Set

import torch
from torch import Tensor, nn

from batches import Batch

NOTHING: frozenset[str] = frozenset()
BLOCK = 1 << 17  # items that are scored at once where there are more


# (row of the first item, scores (B, W) of the W items from there on), until all have had their turn
Blocks = Iterator[tuple[int, Tensor]]


def best_items(blocks: Blocks, k: int) -> tuple[Tensor, Tensor]:
    """(rows of items (B, K), their scores (B, K)), best first; K is k, or the number of items."""
    rows, values = [], []
    for first, scores in blocks:
        found = scores.topk(min(k, scores.shape[1]))
        rows.append(found.indices + first)
        values.append(found.values)
    among = torch.cat(values, dim=1)
    best = among.topk(min(k, among.shape[1]))
    return torch.cat(rows, dim=1).gather(1, best.indices), best.values


class Scorer(nn.Module):
    """The result of `model.frozen()`: the model in evaluation mode and a cached item table.

    All other weights are the model's own. After training steps, make a new one; the table is old
    then. A family of features is 'items.NAME', 'interactions.NAME', 'users.NAME', 'users.id',
    'times' or 'graph'. without: families of the item table that are left out, 'items.NAME' or
    'graph', or one tag of the items, 'items.NAME=CODE'; the others are left out of the histories
    (explanations/question.py). cloze: rank by the cloze head, with a mask appended, even if there
    is a next-item head.
    """

    def __init__(self, model: nn.Module, cloze: bool = False) -> None:
        super().__init__()
        self.model, self.cloze = model.eval(), cloze
        with torch.no_grad():
            self.register_buffer("table", model.item_table(), persistent=False)
        # Whether users without a history can be served; families of features; columns of
        # interactions, and of items that come next, which a head predicts.
        self.starts = model.starts
        self.families = model.families
        self.value_columns = tuple(getattr(model, "value_heads", ()))
        self.preference_columns = tuple(getattr(model, "preference_heads", ()))
        # Counts that are added to logits; the cloze head is shown as it is.
        self.transitions = None if cloze else model.transitions

    def states(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """(B, D) state that predicts the interaction after each history. table: another item table
        (R, D)."""
        batch = self.model.as_request(batch, self.cloze)
        table = self.table if table is None else table
        x, attend = self.model.embed(batch, table)
        return self.model.encoder.last_state(x, attend, batch.lengths - 1)

    def scores(
        self,
        states: Tensor,
        batch: Batch,
        table: Tensor | None = None,
    ) -> Tensor:
        """States (B, D) to logits (B, R), -inf for PAD and MASK, in fp32 even under autocast.

        batch: the requests; histories may be empty. table: as in `states`.
        """
        table = self.table if table is None else table
        logits = self.model.rank(states, table, batch, self.cloze)
        if self.transitions is None:
            return logits
        return logits + self.transitions(batch)

    def score(self, batch: Batch, without: Set[str] = NOTHING) -> Tensor:
        """(B, R) logits of each item as the next interaction."""
        table = self.model.item_table(without) if without else self.table
        return self.scores(self.states(batch, table), batch, table)

    def blocks(self, states: Tensor, batch: Batch) -> Blocks:
        """`scores` of BLOCK items after the other, without the memory for all; of all items at once
        if they are no more."""
        if len(self.table) <= BLOCK:
            yield 0, self.scores(states, batch)
            return
        counts = self.transitions and self.transitions.pairs(batch)
        for first in range(0, len(self.table), BLOCK):
            part = slice(first, first + BLOCK)
            logits = self.model.rank(
                states, self.table, batch, self.cloze, part
            )
            if counts is not None:
                counts.add_to(logits, first)
            yield first, logits

    def value_probabilities(
        self, name: str, states: Tensor, items: Tensor
    ) -> Tensor:
        """States (N, D) and rows of items (N,) to the probabilities of an interaction column's
        values, (N, K)."""
        vectors = self.table[items]
        logits = self.model.value_heads[name](states, vectors)
        return logits.softmax(-1)

    def preferences(self, name: str, states: Tensor) -> Tensor:
        """States (B, D) to the distribution of an item column's values in what comes next, (B,
        F).
        """
        logits = self.model.preference_heads[name](states)
        return logits.softmax(-1)
