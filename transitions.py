"""Which items follow which: counts of the training part, added to a model's scores.

    S(a | h) = sum_j TAIL^j V(h_j, a)            h_0 is the newest item of the history, j < REACH
    V(b, a)  = weight log(1 + sharpness C(b, a))
    C(b, a)  = sum_{d <= REACH} d^(-1/2) N_d(b, a)

N_d(b, a): how often a stands d interactions after b in the training part. S is weight times the
log-likelihood of PCTM (Spotify Research, sequential-capacity-probes, RecSys 2026), up to what is
the same for all items: a product of smoothed transition probabilities. It is linear in the items
of the history, so each one's part in it is known exactly. Weight and sharpness are found on the
validation items (blending.py).

Axes: B histories, J = REACH newest items, R rows of the item table, K = KEPT.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from batches import Batch
from dataset import PAD, Dataset

REACH = 10
COUNTED = [distance**-0.5 for distance in range(1, REACH + 1)]
TAIL = 0.7
KEPT = 500  # pairs of an item at most, those that count most
LARGEST = 1e6  # no weight and no count come near such a value


class Transitions(nn.Module):
    """See the module's head. It adds nothing until `hold` has given it counts.

    The pairs of item b are `items` and `values` from `starts[b]` to `starts[b + 1]`.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.register_buffer(
            "starts", torch.zeros(rows + 1, dtype=torch.int64)
        )
        # One that adds nothing, so that there is always something to look up.
        self.register_buffer("items", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("values", torch.zeros(1))

    def hold(
        self, counts: sparse.csr_matrix, weight: float, sharpness: float
    ) -> "Transitions":
        """Take the values from counts (R, R)."""
        values = counts.copy()
        values.data = weight * np.log1p(sharpness * values.data)
        return self.hold_values(values)

    def hold_values(self, values: sparse.csr_matrix) -> "Transitions":
        """Take these values (R, R), of each row the KEPT largest."""
        values = largest_of_rows(values, KEPT)
        device = self.values.device
        found = {
            "starts": values.indptr.astype(np.int64),
            "items": np.append(values.indices, PAD).astype(np.int32),
            "values": np.append(values.data, 0).astype(np.float32),
        }
        for name, array in found.items():
            setattr(self, name, torch.from_numpy(array).to(device))
        return self

    def clear(self) -> None:
        """Add nothing any more."""
        self.hold_values(sparse.csr_matrix((self.rows, self.rows)))

    def matrix(self) -> sparse.csr_matrix:
        """(R, R) the values."""
        pairs = int(self.starts[-1])
        arrays = [
            part.cpu().numpy()
            for part in (self.values[:pairs], self.items[:pairs], self.starts)
        ]
        return sparse.csr_matrix(tuple(arrays), shape=(self.rows, self.rows))

    def forward(self, batch: Batch) -> Tensor:
        """(B, R) S of each item."""
        newest, weights = self._newest(batch)
        return self._sums(newest, weights)

    def parts(self, batch: Batch) -> Tensor:
        """(B, J, R) what each of the newest items, newest first, adds to S."""
        newest, weights = self._newest(batch)
        each = self._sums(newest.reshape(-1, 1), weights.reshape(-1, 1))
        return each.reshape(*newest.shape, self.rows)

    def _newest(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, J) the newest items, newest first, and how much each counts; 0 for none."""
        age = torch.arange(REACH, device=batch.items.device)
        place = batch.lengths[:, None] - 1 - age
        items = batch.items.gather(1, place.clamp(min=0))
        return items, TAIL**age * (place >= 0)

    def _sums(self, items: Tensor, weights: Tensor) -> Tensor:
        """(N, R) weighted sums of the values of items (N, J)."""
        first, end = self.starts[items], self.starts[items + 1]  # (N, J)
        place = first[..., None] + torch.arange(KEPT, device=items.device)
        there = place < end[..., None]  # (N, J, K)
        place = place.where(there, 0)
        values = self.values[place] * (weights[..., None] * there)
        sums = values.new_zeros(len(items), self.rows)
        found = self.items[place].long()
        return sums.scatter_add(1, found.flatten(1), values.flatten(1))

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
        """Whether the pairs are some that `hold_values` could have left."""
        starts, items, values = self.starts, self.items, self.values
        if items.ndim != 1 or values.shape != items.shape or not len(items):
            return False
        counts = starts.diff()
        return bool(
            starts[0] == 0
            and starts[-1] <= len(items)
            and counts.min() >= 0
            and counts.max() <= KEPT
            and items.min() >= 0
            and items.max() < self.rows
            and values.min() >= 0
            and values.max() <= LARGEST
        )


def transition_counts(
    data: Dataset, weights: Sequence[float] = COUNTED
) -> sparse.csr_matrix:
    """sum_d weights[d - 1] N_d (R, R) of the training part."""
    rows = data.training_rows()
    users, items = data.user_of[rows], data.items[rows]
    size = len(data.catalogue.items)
    counts = sparse.csr_matrix((size, size))
    for distance, weight in enumerate(weights, 1):
        same = users[distance:] == users[:-distance]
        pairs = (items[:-distance][same], items[distance:][same])
        each = np.full(int(same.sum()), weight)
        counts += sparse.csr_matrix((each, pairs), shape=counts.shape)
    return counts


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
