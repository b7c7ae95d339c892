"""`Batch`: the named tensors that a model reads, and how they are cut out of a `Dataset`.

Axes: B sequences, L positions. Sequences are padded on the right. Batches gather sequences of
similar length, so that little arithmetic is spent on padding.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset import MASK, NO_TIME, PAD, Catalogue, Dataset
from fields import UNKNOWN
from transformer import Pattern

WIDTH_STEP, ROW_STEP = 8, 64
Columns = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Histories, and in training their targets.

    Under the causal pattern position i predicts `targets[:, i]`, the interaction after i; under
    the bidirectional one it predicts the item that MASK replaced at i. PAD in `targets`: nothing
    is predicted there. `request_times` is the time of the request for which a position predicts;
    only a model with query_time 'known' may read it. `views`: two other forms of each history, for
    contrastive learning, or none. With a `sample` (sampling.py), rows of items and of targets are
    places among the rows of the sample.
    """

    pattern: Pattern
    items: Tensor  # (B, L) rows of items, PAD and MASK among them
    times: Tensor  # (B, L) seconds, 0 = unknown
    request_times: Tensor  # (B, L) seconds, 0 = unknown
    targets: Tensor  # (B, L) rows of items, or PAD
    columns: Columns  # (B, L) each: what is known of the interactions
    target_columns: Columns  # (B, L) each: what is known of the targets
    lengths: Tensor  # (B,)
    # (B,) bool, False where earlier interactions of the user are not here
    whole: Tensor
    users: Tensor  # (B,) rows of users, 0 = unknown
    user_columns: Columns  # (B, ...) each
    views: "tuple[Batch, ...]" = ()
    sample: "Sample | None" = None

    def each(
        self,
        grid: Callable[[Tensor], Tensor],
        row: Callable[[Tensor], Tensor] | None = None,
    ) -> "Batch":
        """Copy without views, with one function applied to every (B, L) tensor, and another one,
        or the same, to every (B, ...) one."""
        changes: dict[str, Any] = {}
        for name, value in vars(self).items():
            function = row if row and name in ROWS else grid
            if isinstance(value, Tensor):
                changes[name] = function(value)
            elif isinstance(value, dict):
                changes[name] = {
                    key: function(part) for key, part in value.items()
                }
        return self.replace(views=(), **changes)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a column as 'columns.rating'."""
        named = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                named[name] = value
            elif isinstance(value, dict):
                named |= {f"{name}.{key}": part for key, part in value.items()}
        return named

    def to(self, device: torch.device) -> "Batch":
        """Copy on a device."""
        moved = self.each(lambda tensor: tensor.to(device))
        return moved.replace(
            views=tuple(view.to(device) for view in self.views)
        )

    def replace(self, **changes: Any) -> "Batch":
        """Copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Tensor | slice) -> "Batch":
        """Some of the sequences, without views, no wider than the longest of them needs."""
        width = padded_width(
            int(self.lengths[rows].max()), self.items.shape[1]
        )
        return self.each(
            lambda tensor: tensor[rows, :width], lambda tensor: tensor[rows]
        )

    def parts(self, positions: int) -> "list[Batch]":
        """The batch in pieces of sequences of similar length, no wider than they need to be.

        A piece has at most so many positions with its padding, and at least one sequence. A batch
        with views stays whole, because each view is compared with all others.
        """
        count, width = self.items.shape
        number = math.ceil(count / max(1, positions // width))
        if self.views or number == 1:
            return [self]
        # few shapes, see padded_width
        number = min(count, 2 ** math.ceil(math.log2(number)))
        order = self.lengths.argsort(descending=True, stable=True)
        groups = order.split(math.ceil(count / number))
        return [self.select(rows) for rows in groups]

    def predicted(self) -> Tensor:
        """(N,) flat positions (row * L + column) at which something is predicted.

        Filled up to a multiple of ROW_STEP with positions whose target is PAD, as far as there
        are any: few shapes, see `padded_width`.
        """
        targets = self.targets.flatten()
        positions = targets.nonzero()[:, 0]
        missing = -len(positions) % ROW_STEP
        if not missing:
            return positions
        return torch.cat([positions, (targets == PAD).nonzero()[:missing, 0]])

    def with_first_target(self) -> "Batch":
        """A causal batch with one more position in front, which predicts the first item."""
        columns = {}
        for name, values in self.target_columns.items():
            first = self.columns[name][:, :1]
            columns[name] = torch.cat([first, values], dim=1)
        targets = torch.cat([self.items[:, :1], self.targets], dim=1)
        return self.replace(targets=targets, target_columns=columns)

    def chosen(self, values: Tensor) -> Tensor:
        """Values of all rows of items, or those of the sample's rows."""
        return values if self.sample is None else values[self.sample.rows]

    def rows_of(self, items: Tensor) -> Tensor:
        """Rows of items in the catalogue, of items or targets of this batch."""
        return items if self.sample is None else self.sample.rows[items]

    @property
    def num_targets(self) -> int:
        """Positions at which something is predicted."""
        return int((self.targets != PAD).sum())

    @property
    def tokens(self) -> int:
        """Real positions."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Sample:
    """The part of the catalogue that a pass of sampled softmax reads."""

    rows: Tensor  # (U,) rows of items, ascending, PAD and MASK first
    negatives: Tensor  # (K,) places among the rows
    log_expected: Tensor  # (K,) logarithm of how often each is drawn on average


ROWS = ("lengths", "whole", "users", "user_columns")


@dataclass(frozen=True)
class History:
    """One user's history, oldest first, and the time of the request.

    A column that is not given is unknown.
    """

    items: np.ndarray  # (L,) rows of items
    times: np.ndarray | int = NO_TIME  # (L,) seconds
    # (L,) each
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    user: int = UNKNOWN  # row of users
    # a row each
    user_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    request_time: int = NO_TIME
    whole: bool = True  # False if there may be earlier interactions
    # rows of items that the user had, but that are no part of the history (--keep)
    also_seen: np.ndarray | None = None

    def select(self, chosen: np.ndarray | slice) -> "History":
        """Some of the interactions."""
        times = np.broadcast_to(self.times, self.items.shape)[chosen]
        columns = {
            name: values[chosen] for name, values in self.columns.items()
        }
        return dataclasses.replace(
            self, items=self.items[chosen], times=times, columns=columns
        )


def history_of(data: Dataset, user: int, end: int | None = None) -> History:
    """A user's history before position `end` of the flat arrays, asked for at that interaction's
    time; without `end` the whole.

    For a user unknown to training, `user` is UNKNOWN.
    """
    start, last = int(data.offsets[user]), int(data.offsets[user + 1])
    end = last if end is None else int(end)
    trained = data.split.train_ends[user] > start
    columns = {
        name: values[start:end] for name, values in data.columns.items()
    }
    facts = data.catalogue.users.data.items()
    seen = None if data.left_out is None else data.seen(user, end)
    return History(
        data.items[start:end],
        data.times[start:end],
        columns,
        user if trained else UNKNOWN,
        {name: values[user] for name, values in facts},
        int(data.times[end]) if end < last else NO_TIME,
        also_seen=seen,
    )


def history_batch(
    histories: Sequence[History], catalogue: Catalogue, seq_length: int
) -> Batch:
    """What a model needs to rank items for each history: its newest `seq_length` interactions."""
    read = [history.select(slice(-seq_length, None)) for history in histories]
    items = [history.items for history in read]
    lengths = np.array([len(rows) for rows in items])
    times = [history.times for history in read]
    # The moment for which a position predicts is that of the next interaction, last the request.
    request = [
        np.append(moments[1:], history.request_time)
        for history, moments in zip(read, times, strict=True)
    ]
    columns, user_columns = {}, {}
    for name, entry in catalogue.interaction_fields.items():
        parts = [_part(history, name, entry) for history in read]
        columns[name] = _stack(parts, lengths, seq_length, entry.unknown)
    for name, entry in catalogue.users.fields.items():
        if entry.column.kind != "text":  # no model reads texts of users
            # As wide as the data's, where there are any.
            unknown = catalogue.users.data.get(name, [entry.unknown])[UNKNOWN]
            rows = [
                history.user_columns.get(name, unknown) for history in read
            ]
            user_columns[name] = _rows(rows)
    whole = [
        history.whole and len(history.items) <= seq_length
        for history in histories
    ]
    # In one call, as a single request is often all there is.
    together = _stack(
        [*items, *times, *request],
        np.concatenate([lengths, lengths, lengths.clip(1)]),
        seq_length,
    )
    shape = (3, len(read), together.shape[1])
    rows, moments, request_times = together.view(shape)
    return Batch(
        pattern="causal",
        items=rows,
        times=moments,
        request_times=request_times,
        targets=torch.zeros_like(rows),
        columns=columns,
        target_columns={},
        lengths=torch.from_numpy(lengths),
        whole=torch.tensor(whole),
        users=torch.tensor([history.user for history in read]),
        user_columns=user_columns,
    )


def _part(history, name, entry):
    """A history's values of a column, all unknown where it has none."""
    given = history.columns.get(name)
    if given is None:
        given = np.broadcast_to(entry.unknown, len(history.items))
    return given


def _rows(rows):
    """(B, ...) from one row each; lists of codes are padded to the longest."""
    if np.ndim(rows[0]) == 1 and np.asarray(rows[0]).dtype == np.int64:
        width = max(len(row) for row in rows)
        rows = [np.pad(row, (0, width - len(row))) for row in rows]
    return torch.from_numpy(np.stack(rows))


def append_mask(batch: Batch, seq_length: int) -> Batch:
    """The cloze form of a ranking request: each history followed by MASK, bidirectional.

    If the mask does not fit, the oldest interaction is dropped.
    """
    kept = batch.lengths.clamp(max=seq_length - 1)
    dropped = (batch.lengths - kept)[:, None]  # (B, 1)
    width = batch.items.shape[1]
    column = torch.arange(
        max(width, int(kept.max()) + 1), device=batch.lengths.device
    )
    old_column = (column + dropped).clamp(max=width - 1)
    is_interaction = column < kept[:, None]
    is_mask = column == kept[:, None]

    def moved(values: Tensor) -> Tensor:
        taken = values.gather(1, old_column)
        return taken.where(is_interaction, unknown_like(taken))

    extended = batch.each(moved, lambda tensor: tensor)
    newest = (batch.lengths - 1).clamp_min(0)[:, None]
    newest_time = batch.times.gather(1, newest)
    request_time = batch.request_times.gather(1, newest)
    return extended.replace(
        pattern="bidirectional",
        items=extended.items.masked_fill(is_mask, MASK),
        times=newest_time.where(is_mask, extended.times),
        request_times=request_time * is_mask,
        lengths=kept + 1,
        whole=batch.whole & (dropped[:, 0] == 0),
    )


def unknown_like(values: Tensor) -> Tensor:
    """A tensor of the same shape, all unknown: 0 for codes, rows and times, NaN for numbers."""
    return torch.full_like(
        values, torch.nan if values.is_floating_point() else 0
    )


def _stack(rows, lengths, most, unknown=0):
    """Right-padded (B, L) tensor, L a multiple of WIDTH_STEP or `most`."""
    dtype = np.asarray(unknown).dtype
    width = padded_width(lengths.max(initial=1), most)
    table = np.full((len(rows), width), unknown, dtype=dtype)
    if len(rows):
        table[np.arange(width) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(table)


def padded_width(longest: int | np.ndarray, most: int) -> int | np.ndarray:
    """Width of a batch: the next multiple of WIDTH_STEP, so that few shapes occur.

    oneDNN builds a kernel for each new shape of a product (0.4 ms) and keeps a thousand of them
    (benchmarks/LOG.md).
    """
    return np.minimum(most, -(-longest // WIDTH_STEP) * WIDTH_STEP)


def hidden(columns: Columns, mask: Tensor) -> dict[str, Tensor]:
    """Columns that are unknown where a mask over their first axes is True."""
    result = {}
    for name, values in columns.items():
        where = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
        result[name] = unknown_like(values).where(where, values)
    return result


def cut(lengths: np.ndarray, most_rows: int, most_tokens: int) -> np.ndarray:
    """Bounds of groups of sorted (longest first) sequences that respect both limits."""
    bounds, start = [0], 0
    while start < len(lengths):
        rows = most_rows
        if most_tokens:
            rows = min(
                rows, max(1, most_tokens // max(1, int(lengths[start])))
            )
        start = min(len(lengths), start + rows)
        bounds.append(start)
    return np.array(bounds)
