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

from dataset import MASK, NO_TIME, PAD, UNKNOWN, Catalogue, Dataset
from transformer import Pattern, positions_before

WIDTH_STEP, ROW_STEP = 8, 64
Columns = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Histories, and in training what is to be predicted from them.

    Under the causal pattern position i predicts `targets[:, i]`, the interaction after i; under
    the bidirectional one it predicts the item that MASK replaced at i. PAD in `targets`: nothing
    is predicted there. `request_times` is the moment for which a position predicts; only a model
    with query_time 'known' may read it. `views`: two other forms of each history, for contrastive
    learning, or none.
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

    def each(
        self, grid: Callable[[Tensor], Tensor], row: Callable[[Tensor], Tensor]
    ) -> "Batch":
        """Copy with one function applied to every (B, L) tensor and another to every (B, ...)
        one.
        """
        changes: dict[str, Any] = {name: grid(getattr(self, name)) for name in GRIDS}
        changes |= {name: row(getattr(self, name)) for name in ROWS}
        for name, function in (
            ("columns", grid),
            ("target_columns", grid),
            ("user_columns", row),
        ):
            columns = getattr(self, name)
            changes[name] = {key: function(value) for key, value in columns.items()}
        return self.replace(**changes)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those of a column as 'columns.rating'."""
        named = {name: getattr(self, name) for name in (*GRIDS, *ROWS)}
        for name in ("columns", "target_columns", "user_columns"):
            for key, value in getattr(self, name).items():
                named[f"{name}.{key}"] = value
        return named

    def to(self, device: torch.device) -> "Batch":
        """Copy on a device."""
        if device.type == "cpu":
            return self
        moved = self.each(
            lambda tensor: tensor.to(device), lambda tensor: tensor.to(device)
        )
        return moved.replace(views=tuple(view.to(device) for view in self.views))

    def replace(self, **changes: Any) -> "Batch":
        """Copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Sequence[int] | Tensor) -> "Batch":
        """Some of the sequences, without views."""
        chosen = self.each(lambda tensor: tensor[rows], lambda tensor: tensor[rows])
        return chosen.replace(views=())

    def narrowed(self, most: int) -> "Batch":
        """The same, no wider than the longest sequence needs, up to `most`."""
        width = padded_width(int(self.lengths.max()), most)
        return self.each(lambda tensor: tensor[:, :width], lambda tensor: tensor)

    def parts(self, positions: int) -> "list[Batch]":
        """The batch in pieces of sequences of similar length, each of at most so many positions
        (and at least one sequence), padding counted, and no wider than it needs to be.

        With views it stays whole: they are compared with those of all the others.
        """
        count, width = self.items.shape
        number = math.ceil(count / max(1, positions // width))
        if self.views or number == 1:
            return [self]
        # few shapes, see padded_width
        number = min(count, 2 ** math.ceil(math.log2(number)))
        order = self.lengths.argsort(descending=True, stable=True)
        groups = order.split(math.ceil(count / number))
        return [self.select(rows).narrowed(width) for rows in groups]

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

    @property
    def num_targets(self) -> int:
        """Positions at which something is predicted."""
        return int((self.targets != PAD).sum())

    @property
    def tokens(self) -> int:
        """Real positions."""
        return int(self.lengths.sum())


GRIDS = ("items", "times", "request_times", "targets")
ROWS = ("lengths", "whole", "users")


@dataclass(frozen=True)
class History:
    """One user's past, oldest first, and the moment of the request.

    A column that is not given is unknown.
    """

    items: np.ndarray  # (L,) rows of items
    times: np.ndarray | None = None  # (L,) seconds
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # (L,) each
    user: int = UNKNOWN  # row of users
    user_columns: Mapping[str, np.ndarray] = field(default_factory=dict)  # a row each
    request_time: int = NO_TIME
    whole: bool = True  # False if there may be earlier interactions

    def select(self, chosen: np.ndarray) -> "History":
        """Some of the interactions."""
        times = None if self.times is None else self.times[chosen]
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return dataclasses.replace(
            self, items=self.items[chosen], times=times, columns=columns
        )


def history_of(data: Dataset, user: int, end: int | None = None) -> History:
    """A user's history before position `end` of the flat arrays, asked for at that interaction's
    time; without `end` the whole.

    A user whom training never saw has no token: `user` is UNKNOWN then.
    """
    start, last = int(data.offsets[user]), int(data.offsets[user + 1])
    end = last if end is None else int(end)
    trained = data.split.train_ends[user] > start
    columns = {name: values[start:end] for name, values in data.columns.items()}
    return History(
        data.items[start:end],
        data.times[start:end],
        columns,
        user if trained else UNKNOWN,
        data.catalogue.users.take(user),
        int(data.times[end]) if end < last else NO_TIME,
    )


def history_batch(
    histories: Sequence[History], catalogue: Catalogue, seq_length: int
) -> Batch:
    """What a model needs to rank items for each history: its newest `seq_length` interactions."""
    cut = [history.items[-seq_length:] for history in histories]
    lengths = np.array([len(items) for items in cut])
    nothing = [np.zeros(len(items), dtype=np.int64) for items in cut]
    times = [
        none if history.times is None else history.times[-seq_length:]
        for history, none in zip(histories, nothing, strict=True)
    ]
    # The moment for which a position predicts is that of the next interaction, last the request.
    request = [
        np.append(moments[1:], history.request_time)
        for history, moments in zip(histories, times, strict=True)
    ]
    columns = {}
    for name, entry in catalogue.interaction_fields.items():
        unknown = entry.unknown
        parts = [
            history.columns[name][-seq_length:]
            if name in history.columns
            else np.broadcast_to(unknown, len(items))
            for history, items in zip(histories, cut, strict=True)
        ]
        columns[name] = _stack(parts, lengths, seq_length, unknown)
    user_columns = _user_columns(histories, catalogue)
    empty = _stack(nothing, lengths, seq_length)
    whole = [
        history.whole and len(history.items) <= seq_length for history in histories
    ]
    return Batch(
        "causal",
        _stack(cut, lengths, seq_length),
        _stack(times, lengths, seq_length),
        _stack(request, lengths.clip(1), seq_length),
        empty,
        columns,
        {},
        torch.from_numpy(lengths),
        torch.tensor(whole),
        torch.tensor([history.user for history in histories]),
        user_columns,
    )


def _user_columns(
    histories: Sequence[History], catalogue: Catalogue
) -> dict[str, Tensor]:
    columns = {}
    for name, values in catalogue.users.data.items():
        if values.dtype == object:  # no model reads texts of users
            continue
        unknown = values[UNKNOWN]
        rows = [history.user_columns.get(name, unknown) for history in histories]
        columns[name] = _rows(rows)
    return columns


def _rows(rows: Sequence[np.ndarray]) -> Tensor:
    """(B, ...) of a row each; lists of codes are filled up to the longest."""
    if np.ndim(rows[0]) == 1 and np.asarray(rows[0]).dtype == np.int64:
        width = max(len(row) for row in rows)
        rows = [np.pad(row, (0, width - len(row))) for row in rows]
    return torch.from_numpy(np.stack(rows))


def append_mask(batch: Batch, seq_length: int) -> Batch:
    """The cloze form of a ranking request: each history followed by MASK, bidirectional.

    The oldest interaction goes where the mask would not fit.
    """
    if int(batch.lengths.max()) >= seq_length:
        batch = _drop_oldest(batch, seq_length - 1)
    rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
    newest = (batch.lengths - 1).clamp_min(0)
    asked, last_time = batch.request_times[rows, newest], batch.times[rows, newest]
    room = int(batch.lengths.max()) < batch.items.shape[1]

    def extended(values: Tensor, last: Tensor | int | None = None) -> Tensor:
        if last is None:
            last = unknown_like(values[:, 0])
        wide = values.clone()
        if not room:
            wide = torch.cat([values, unknown_like(values[:, :1])], dim=1)
        wide[rows, batch.lengths] = last
        return wide

    request = torch.zeros_like(extended(batch.items))
    request[rows, batch.lengths] = asked
    columns = {name: extended(values) for name, values in batch.columns.items()}
    return batch.replace(
        pattern="bidirectional",
        items=extended(batch.items, MASK),
        times=extended(batch.times, last_time),
        request_times=request,
        targets=extended(batch.targets),
        columns=columns,
        lengths=batch.lengths + 1,
    )


def _drop_oldest(batch: Batch, keep: int) -> Batch:
    """Each sequence's newest `keep` positions."""
    drop = (batch.lengths - keep).clamp_min(0)  # (B,)
    place = torch.arange(keep, device=drop.device) + drop[:, None]
    source = place.clamp(max=batch.items.shape[1] - 1)  # (B, keep)
    lengths = batch.lengths - drop
    real = positions_before(lengths, keep)

    def shifted(values: Tensor) -> Tensor:
        taken = values.gather(1, source)
        return taken.where(real, unknown_like(taken))

    moved = batch.each(shifted, lambda tensor: tensor)
    return moved.replace(lengths=lengths, whole=batch.whole & (drop == 0))


def unknown_like(values: Tensor) -> Tensor:
    """The same shape, all unknown: 0 for codes, rows and times, NaN for numbers."""
    return torch.full_like(values, torch.nan if values.is_floating_point() else 0)


def _stack(
    rows: Sequence[np.ndarray],
    lengths: np.ndarray,
    most: int,
    unknown: np.ndarray | int = 0,
) -> Tensor:
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


def hidden(columns: Columns, rows: Tensor) -> dict[str, Tensor]:
    """Columns (B, ...) that say 'unknown' in these rows (B,)."""
    result = {}
    for name, values in columns.items():
        where = rows.reshape(-1, *[1] * (values.dim() - 1))
        result[name] = unknown_like(values).where(where, values)
    return result


def cut(lengths: np.ndarray, most_rows: int, most_tokens: int) -> np.ndarray:
    """Bounds of groups of sorted (longest first) sequences that respect both limits."""
    bounds, start = [0], 0
    while start < len(lengths):
        rows = most_rows
        if most_tokens:
            rows = min(rows, max(1, most_tokens // max(1, int(lengths[start]))))
        start = min(len(lengths), start + rows)
        bounds.append(start)
    return np.array(bounds)
