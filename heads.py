"""Heads beside those of items: values of an interaction, such as a rating, before it is given, and
values of later items, such as genres. One head for each column with `predict: true`.

Axes: B sequences, L positions, N positions that predict something, D width, R rows of the item
table, K values of an interaction column, F values of an item column.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch
from dataset import Table
from features import ByColumn
from fields import Field

# Later interactions that the preference target averages over.
PREFERENCE_HORIZON = 20
# column -> logits and what is true
Predictions = dict[str, tuple[Tensor, Tensor]]


class ValueHead(nn.Module):
    """An interaction column's value for a candidate item, from the state before the interaction."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.hidden, self.out = (
            nn.Linear(3 * width, width),
            nn.Linear(width, values),
        )

    def forward(self, states: Tensor, items: Tensor) -> Tensor:
        """states (N, D), item vectors (N, D) to logits (N, K)."""
        joined = torch.cat([states, items, states * items], dim=-1)  # (N, 3 D)
        return self.out(F.gelu(self.hidden(joined)))


class ValueHeads(ByColumn):
    """P(r | h_i, e_v) for each predicted column of interactions."""

    def __init__(self, fields: Mapping[str, Field], width: int) -> None:
        super().__init__()
        for name, entry in fields.items():
            if entry.predicted:
                self[name] = ValueHead(width, len(entry.values))

    def forward(
        self, batch: Batch, predicted: Tensor, states: Tensor, table: Tensor
    ) -> Predictions:
        """Logits (N, K) and codes (N,) at the predicted positions (N,), for the targets there."""
        found = {}
        targets = batch.targets.flatten()[predicted]  # (N,)
        for name, head in self.items():
            codes = batch.target_columns[name].flatten()[predicted]  # (N,)
            if bool(codes.any()):
                # Unlike table[targets], this adds gradients in a fixed order.
                items = F.embedding(targets, table)  # (N, D)
                found[name] = head(states, items), codes
        return found


class PreferenceHeads(ByColumn):
    """P(f | h_i) for each predicted column of items: its mean shares in what comes next."""

    def __init__(
        self, fields: Mapping[str, Field], items: Table, width: int
    ) -> None:
        super().__init__()
        for name, entry in fields.items():
            if not entry.predicted:
                continue
            self[name] = nn.Linear(width, len(entry.values))
            shares = torch.from_numpy(items.shares(name))  # (R, F)
            self.register_buffer(f"shares_{name}", shares, persistent=False)

    def forward(
        self, batch: Batch, predicted: Tensor, states: Tensor
    ) -> Predictions:
        """Logits and true shares, (N, F) each, at the predicted positions (N,)."""
        found = {}
        for name, head in self.items():
            shares = self.later_shares(name, batch.rows_of(batch.targets))
            wanted = shares.flatten(0, 1)[predicted]  # (N, F)
            if bool(wanted.any()):
                found[name] = head(states), wanted
        return found

    def later_shares(self, name: str, targets: Tensor) -> Tensor:
        """(B, L, F) mean shares of a column's values in the next PREFERENCE_HORIZON
        interactions."""
        shares = getattr(self, f"shares_{name}")[targets]  # (B, L, F)
        total = F.pad(shares.cumsum(1), (0, 0, 1, 0))  # (B, L + 1, F)
        start = torch.arange(targets.shape[1], device=targets.device)
        end = (start + PREFERENCE_HORIZON).clamp(max=len(start))
        window = total[:, end] - total[:, :-1]
        return window / window.sum(-1, keepdim=True).clamp_min(1e-6)
