"""Item-to-item scores, from the training part, that are added to a model's scores.

    S(a | h) = sum_k sum_j weight_k decay_k^j V_k(h_j, a)      h_0 is the newest item

The first kinds are transition counts: V_k(b, a) says how often a follows b at the same time (k = 0)
or at another time (k = 1). They read the REACH newest items (pair_counts.py). They have the form of
the log-likelihood of PCTM (Spotify Research, sequential-capacity-probes, RecSys 2026): a sum of
logarithms of smoothed transition probabilities, up to what is the same for all items. The last kind
is SCALE times the weight of b in a regression of item a on the items of users (item_regression.py);
it reads all items and does not decay. S is a sum over the history, so the part of each of its items
is known exactly.

Weights and decays are found on the validation items (blending.py). A model that knows the request
time has two sets of them: case 1 for a request at the newest item's time, case 0 for any other.

Axes: B histories, L their items, J items that a kind reads, K kinds, R rows of the item table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from batches import Batch
from dataset import NO_TIME, PAD, Catalogue, Dataset
from item_regression import item_regression
from pair_counts import REACH, largest_of_rows, transition_values
from settings import ModelSettings

# Pairs of an item that are kept of a kind, at most: those of the largest size.
KEPT = 250  # of what follows what
KEPT_LAST = 100  # of the last kind, for which more items are read
SCALE = 10.0  # so that the values of all kinds are of one size
LARGEST = 1e6  # no weight and no count come near such a value


@dataclass(frozen=True)
class Pairs:
    """Values that are added to the scores of items in a batch, sorted by item."""

    request: Tensor  # (P,) rows of the batch
    item: Tensor  # (P,) ascending
    value: Tensor  # (P,)

    @classmethod
    def of(cls, items: Tensor, values: Tensor) -> "Pairs":
        """From items (B, M) and values (B, M), of which zeros add nothing."""
        request, place = values.nonzero(as_tuple=True)
        item, order = items[request, place].sort(stable=True)
        return cls(request[order], item, values[request, place][order])

    def add_to(self, scores: Tensor, first: int) -> None:
        """Add to the scores (B, W) of W items from row `first` on, in place."""
        bounds = torch.tensor([first, first + scores.shape[1]])
        start, end = torch.searchsorted(self.item, bounds.to(self.item.device))
        part = slice(int(start), int(end))
        at = (self.request[part], self.item[part] - first)
        scores.index_put_(at, self.value[part], accumulate=True)


class Transitions(nn.Module):
    """See the module's head. It adds nothing until `hold` has given it values.

    The pairs of item b and kind k are `items` and `values` from `starts[kR + b]` to
    `starts[kR + b + 1]`.
    """

    def __init__(self, rows: int, kinds: int = 2, cases: int = 1) -> None:
        super().__init__()
        self.rows = rows
        self.kinds = kinds
        self.cases = cases
        starts = torch.zeros(kinds * rows + 1, dtype=torch.int64)
        # One pair that adds nothing, so that there is always one to look up.
        items = torch.zeros(1, dtype=torch.int32)
        # Half the memory; a rounding of 1/2000 moves no rank that matters.
        values = torch.zeros(1, dtype=torch.float16)
        self.register_buffer("starts", starts)
        self.register_buffer("items", items)
        self.register_buffer("values", values)
        self.register_buffer("weight", torch.zeros(cases, kinds))
        self.register_buffer("decay", torch.zeros(cases, kinds - 1))

    def hold(self, kinds: Iterable[sparse.csr_matrix]) -> "Transitions":
        """Store the values (R, R) of each kind: the largest of each row."""
        largest = [
            largest_of_rows(values, self._kept(kind))
            for kind, values in enumerate(kinds)
        ]
        values = sparse.vstack(largest).tocsr()
        starts = values.indptr.astype(np.int64)
        items = np.append(values.indices, PAD).astype(np.int32)
        amounts = np.append(values.data, 0).astype(np.float16)
        device = self.values.device
        self.starts = torch.from_numpy(starts).to(device)
        self.items = torch.from_numpy(items).to(device)
        self.values = torch.from_numpy(amounts).to(device)
        return self

    def clear(self) -> None:
        """Remove all counts."""
        nothing = sparse.csr_matrix((self.rows, self.rows))
        self.hold([nothing] * self.kinds)
        self.weight.zero_()

    def matrices(self) -> list[sparse.csr_matrix]:
        """(R, R) the values of each kind."""
        pairs = int(self.starts[-1])
        values = self.values[:pairs].float().cpu().numpy()
        items = self.items[:pairs].cpu().numpy()
        starts = self.starts.cpu().numpy()
        shape = (self.kinds * self.rows, self.rows)
        stacked = sparse.csr_matrix((values, items, starts), shape=shape)
        bounds = range(0, shape[0], self.rows)
        return [stacked[first : first + self.rows] for first in bounds]

    def forward(self, batch: Batch) -> Tensor:
        """(B, R) S of each item."""
        sums = [
            self._sums(*self._terms(batch, kind), self._kept(kind))
            for kind in range(self.kinds)
        ]
        return torch.stack(sums).sum(0)

    def parts(self, batch: Batch) -> Tensor:
        """(B, L, R) what each item, newest first, adds to S."""
        size, length = batch.items.shape
        parts = self.weight.new_zeros(size, length, self.rows)
        for kind in range(self.kinds):
            rows, weights = self._terms(batch, kind)
            each = self._sums(
                rows.reshape(-1, 1), weights.reshape(-1, 1), self._kept(kind)
            )
            parts[:, : rows.shape[1]] += each.reshape(size, -1, self.rows)
        return parts

    def of_kind(self, batch: Batch, kind: int, decay: float) -> Tensor:
        """(B, R) S of one kind with the weight 1."""
        items, age, there = self._read(batch, kind)
        rows = items + kind * self.rows
        return self._sums(rows, decay**age * there, self._kept(kind))

    def case_of(self, batch: Batch) -> Tensor:
        """(B,) 1 where the request is known to have the newest item's time, else 0."""
        if self.cases == 1:
            return torch.zeros_like(batch.lengths)
        newest = (batch.lengths - 1).clamp(min=0)[:, None]
        asked = batch.request_times.gather(1, newest)
        same = asked == batch.times.gather(1, newest)
        same &= asked != NO_TIME
        return same[:, 0].long()

    def _read(self, batch: Batch, kind: int) -> tuple[Tensor, Tensor, Tensor]:
        """The items (B, J) that a kind reads, newest first, their ages (J,), and which places
        have one (B, J)."""
        age = torch.arange(batch.items.shape[1], device=batch.items.device)
        if not self._is_last(kind):
            age = age[:REACH]
        place = batch.lengths[:, None] - 1 - age
        return batch.items.gather(1, place.clamp(min=0)), age, place >= 0

    def _terms(self, batch: Batch, kind: int) -> tuple[Tensor, Tensor]:
        """(B, J) the rows of values of a kind that make S, and the weight of each."""
        items, age, there = self._read(batch, kind)
        case = self.case_of(batch)
        weights = self.weight[case, kind][:, None] * there
        if not self._is_last(kind):
            decay = self.decay[case, kind][:, None]
            weights = weights * decay**age
        return items + kind * self.rows, weights

    def _is_last(self, kind):
        return kind == self.kinds - 1

    def _kept(self, kind):
        return KEPT_LAST if self._is_last(kind) else KEPT

    def pairs(self, batch: Batch) -> "Pairs":
        """What S is the sum of."""
        found = [
            self._weighted(*self._terms(batch, kind), self._kept(kind))
            for kind in range(self.kinds)
        ]
        items = torch.cat([items for items, _ in found], dim=1)
        return Pairs.of(
            items, torch.cat([values for _, values in found], dim=1)
        )

    def _sums(self, rows: Tensor, weights: Tensor, kept: int) -> Tensor:
        """(N, R) weighted sums of the values of some rows (N, M), which have at most `kept`."""
        items, values = self._weighted(rows, weights, kept)
        sums = values.new_zeros(rows.shape[0], self.rows)
        return sums.scatter_add(1, items, values)

    def _weighted(
        self, rows: Tensor, weights: Tensor, kept: int
    ) -> tuple[Tensor, Tensor]:
        """(N, M kept) items of the pairs of some rows (N, M), and their weighted values; 0 where
        a row has fewer."""
        first = self.starts[rows][..., None]  # (N, M, 1)
        end = self.starts[rows + 1][..., None]
        place = first + torch.arange(kept, device=rows.device)
        there = place < end  # (N, M, kept)
        place = place.where(there, 0)
        weights = weights[..., None] * there
        values = self.values[place].float() * weights
        items = self.items[place].long()
        return items.flatten(1), values.flatten(1)

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        # There may be any number of pairs.
        for name in ("items", "values"):
            given = state.get(prefix + name)
            if given is not None:
                own = getattr(self, name)
                setattr(self, name, own.new_empty(given.shape))
        super()._load_from_state_dict(state, prefix, *rest)
        if not self._fits():
            errors = rest[-1]
            errors.append(f"{prefix}: pairs that are none of this catalogue")

    def _fits(self) -> bool:
        """Whether the pairs are valid, as `hold` leaves them."""
        starts = self.starts
        items = self.items
        if items.ndim != 1 or self.values.shape != items.shape:
            return False
        if len(items) == 0 or starts[0] != 0 or starts[-1] > len(items):
            return False
        last = (self.kinds - 1) * self.rows
        limits = [
            (starts.diff(), KEPT),
            (starts[last:].diff(), KEPT_LAST),
            (items, self.rows - 1),
            (self.values.abs(), LARGEST),
            (self.weight, LARGEST),
            (self.decay, 1),
        ]
        # Compared as Python floats, since 1e6 is infinite in half precision. NaN fails both.
        return all(
            entries.min().item() >= 0 and entries.max().item() <= largest
            for entries, largest in limits
        )


def pair_values(data: Dataset, kinds: int) -> list[sparse.csr_matrix]:
    """(R, R) the values of each kind, the regression last. kinds: 3 if pairs with equal times are
    counted apart, else 2."""
    follow = transition_values(data, by_time=kinds == 3)
    return [*follow, SCALE * item_regression(data)]


def transitions_for(
    catalogue: Catalogue, settings: ModelSettings
) -> Transitions | None:
    """The empty `Transitions` of a model, or None if they are switched off."""
    if not settings.transitions:
        return None
    has_times = "time" in catalogue.schema.interactions.roles
    # For a model that reads no times, counts do not depend on times either.
    reads_times = bool(settings.time_parts) or settings.relative_time
    kinds = 3 if has_times and reads_times else 2
    cases = 2 if kinds == 3 and settings.query_time == "known" else 1
    return Transitions(len(catalogue.items), kinds, cases)
