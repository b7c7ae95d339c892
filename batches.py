"""`Batch`: the named tensors that a model reads, and how they are cut out of `SequenceData`.

Axes: B users, L positions. Sequences are padded on the right. Batches gather people of similar length, so that little
arithmetic is spent on padding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_processor import MASK, NO_RATING, NO_TIME, PAD, UNKNOWN, SequenceData
from settings import TrainSettings
from transformer import Pattern, positions_before

WIDTH_STEP, ROW_STEP = 8, 64
# Shares of the training sequences without one kind of side information, and without the person's own token.
CONTEXT_DROPOUT, USER_ID_DROPOUT = 0.1, 0.5
# Streams of an epoch's noise: batches have their own numbers, LATE says which windows begin late, VIEWS + a batch's
# number how its views are made.
LATE, VIEWS = 2**40, 2**41


@dataclass(frozen=True)
class Batch:
    """Histories, and in training what is to be predicted from them.

    Under the causal pattern position i predicts `targets[:, i]`, the interaction after i; under the bidirectional one
    it predicts the film that MASK replaced at i. PAD in `targets` = nothing is predicted there.
    `request_times` is the moment for which a position predicts; only a model with query_time 'known' may read it.
    `views`: two other forms of each history, for contrastive learning (views.py), or none.
    """

    pattern: Pattern
    users: Tensor  # (B,) user_index, 0 = unknown
    demographics: Tensor  # (B, 3) indices of gender, age group, occupation, 0 = unknown
    items: Tensor  # (B, L) item_index, PAD and MASK among them
    ratings: Tensor  # (B, L) 1-5, 0 = none
    timestamps: Tensor  # (B, L) seconds, 0 = unknown
    lengths: Tensor  # (B,)
    request_times: Tensor  # (B, L) seconds, 0 = unknown
    targets: Tensor  # (B, L) item_index, or PAD
    target_ratings: Tensor  # (B, L) 1-5, or 0
    whole: Tensor  # (B,) bool, False where earlier interactions of the person are not here
    views: tuple[Batch, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """All tensor fields by name."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)
                if isinstance(getattr(self, entry.name), Tensor)}

    def to(self, device: torch.device) -> Batch:
        """Copy on a device."""
        if device.type == "cpu":
            return self
        return self.replace(**{name: value.to(device) for name, value in self.tensors().items()},
                            views=tuple(view.to(device) for view in self.views))

    def replace(self, **changes: Tensor | str | tuple[Batch, ...]) -> Batch:
        """Copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Sequence[int] | Tensor) -> Batch:
        """Some of the users, without views."""
        return self.replace(**{name: value[rows] for name, value in self.tensors().items()}, views=())

    def narrowed(self, most: int) -> Batch:
        """The same, no wider than the longest sequence needs, up to `most`."""
        width = padded_width(int(self.lengths.max()), most)
        return self.replace(**{name: value[:, :width] for name, value in self.tensors().items()
                               if value.dim() == 2 and name != "demographics"})

    def parts(self, positions: int) -> list[Batch]:
        """The batch in pieces of people of similar length, each of at most so many positions (and at least one
        person), padding counted, and no wider than it needs to be. With views it stays whole: they are compared with
        those of all the others."""
        count, width = self.items.shape
        number = 1 if self.views else math.ceil(count / max(1, positions // width))
        if number == 1:
            return [self]
        number = min(count, 2 ** math.ceil(math.log2(number)))  # halves of halves: few shapes, see padded_width
        order = self.lengths.argsort(descending=True, stable=True)
        return [self.select(rows).narrowed(width) for rows in order.split(math.ceil(count / number))]

    def predicted(self) -> Tensor:
        """(N,) flat positions (row * L + column) at which something is predicted.

        Filled up to a multiple of ROW_STEP with positions whose target is PAD, as far as there are any: few shapes,
        see `padded_width`.
        """
        targets = self.targets.flatten()
        positions = targets.nonzero()[:, 0]
        missing = -len(positions) % ROW_STEP
        return torch.cat([positions, (targets == PAD).nonzero()[:missing, 0]]) if missing else positions

    @property
    def num_targets(self) -> int:
        """Positions at which something is predicted."""
        return int((self.targets != PAD).sum())

    @property
    def tokens(self) -> int:
        """Real positions."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class History:
    """One person's past as arrays of equal length, oldest first, and the moment of the request."""

    items: np.ndarray  # (L,) item_index
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    user: int = UNKNOWN  # user_index
    demographics: tuple[int, int, int] = (UNKNOWN, UNKNOWN, UNKNOWN)
    request_time: int = NO_TIME
    whole: bool = True  # False if there may be earlier interactions


def history_of(data: SequenceData, person: int, end: int | None = None) -> History:
    """A person's history before position `end` of the flat arrays, asked for at that interaction's time; or the whole.

    Somebody whom training never saw has no token of their own: their `user` is UNKNOWN.
    """
    start, last = int(data.offsets[person]), int(data.offsets[person + 1])
    end = last if end is None else int(end)
    trained = data.split.train_ends[person] > start
    return History(data.items[start:end], data.ratings[start:end], data.timestamps[start:end],
                   person + 1 if trained else UNKNOWN, tuple(data.demographics[person].tolist()),
                   int(data.timestamps[end]) if end < last else NO_TIME)


def history_batch(histories: Sequence[History], seq_length: int) -> Batch:
    """What a model needs to rank films for each history; only the newest `seq_length` interactions are kept."""
    cut = [history.items[-seq_length:] for history in histories]
    lengths = np.array([len(items) for items in cut])
    blank = [np.zeros(len(items), dtype=np.int64) for items in cut]
    times = [none if history.timestamps is None else history.timestamps[-seq_length:]
             for history, none in zip(histories, blank, strict=True)]
    request = [np.append(moments[1:], history.request_time)  # of one entry for an empty history
               for history, moments in zip(histories, times, strict=True)]
    ratings = [none if history.ratings is None else history.ratings[-seq_length:]
               for history, none in zip(histories, blank, strict=True)]
    items, stars, moments, none = (_stack(rows, lengths, seq_length) for rows in (cut, ratings, times, blank))
    asked = _stack(request, lengths.clip(1), seq_length)
    return Batch("causal", torch.tensor([history.user for history in histories]),
                 torch.tensor([history.demographics for history in histories]), items, stars, moments,
                 torch.from_numpy(lengths), asked, none, none,
                 torch.tensor([history.whole and len(history.items) <= seq_length for history in histories]))


def append_mask(batch: Batch, seq_length: int) -> Batch:
    """The cloze form of a ranking request: each history followed by MASK, under the bidirectional pattern.

    The oldest interaction goes where the mask would not fit.
    """
    if int(batch.lengths.max()) >= seq_length:
        batch = _drop_oldest(batch, seq_length - 1)
    rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
    newest = batch.lengths - 1
    asked = batch.request_times[rows, newest.clamp_min(0)]

    room = int(batch.lengths.max()) < batch.items.shape[1]

    def extended(values: Tensor, last: Tensor | int) -> Tensor:
        wide = values.clone() if room else torch.cat([values, values.new_zeros(len(values), 1)], dim=1)
        wide[rows, batch.lengths] = last
        return wide

    request = torch.zeros_like(extended(batch.items, 0))
    request[rows, batch.lengths] = asked
    return batch.replace(
        pattern="bidirectional", items=extended(batch.items, MASK), ratings=extended(batch.ratings, NO_RATING),
        timestamps=extended(batch.timestamps, batch.timestamps[rows, newest.clamp_min(0)]), request_times=request,
        lengths=batch.lengths + 1, targets=extended(batch.targets, PAD),
        target_ratings=extended(batch.target_ratings, NO_RATING))


def _drop_oldest(batch: Batch, keep: int) -> Batch:
    """Each sequence's newest `keep` positions."""
    drop = (batch.lengths - keep).clamp_min(0)  # (B,)
    source = (torch.arange(keep, device=drop.device) + drop[:, None]).clamp(max=batch.items.shape[1] - 1)  # (B, keep)
    lengths = batch.lengths - drop
    real = positions_before(lengths, keep)
    return batch.replace(lengths=lengths, whole=batch.whole & (drop == 0), **{
        name: value.gather(1, source) * real for name, value in batch.tensors().items()
        if value.dim() == 2 and name != "demographics"})


def _stack(rows: Sequence[np.ndarray], lengths: np.ndarray, most: int) -> Tensor:
    """Right-padded (B, L) tensor, L a multiple of WIDTH_STEP or `most`."""
    table = np.zeros((len(rows), padded_width(lengths.max(initial=1), most)), dtype=np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(rows) if len(rows) else 0
    return torch.from_numpy(table)


class TrainingBatches:
    """The batches of each epoch, a pure function of (seed, epoch, step), so that a stopped run resumes exactly.

    A window is a run of interactions of one person: the newest `seq_length + 1` of the training part or, with
    `sliding_window`, half-overlapping windows over all of it. Causal batches predict each interaction of a window from
    those before it; cloze batches mask some of its newest `seq_length`. The two kinds alternate: of every 1 / share
    batches one carries the cloze task. A share of the windows begins late (`late_start_share`), others in each epoch;
    batches are of windows of similar length after that, and as many and of as many windows in all epochs, so that
    `batch_tokens` is kept exactly in the first one and nearly in the others.

    held_out: train on the training part; False = on everything.
    """

    def __init__(self, data: SequenceData, seq_length: int, train: TrainSettings, cloze_share: float,
                 held_out: bool = True) -> None:
        self.data, self.seq_length, self.train, self.cloze_share = data, seq_length, train, cloze_share
        self.people, self.starts, self.ends = self._windows(held_out)
        lengths = np.sort(self.ends - self._begun(0)[0])[::-1]
        self.bounds = cut(padded_width(lengths - 1, seq_length), train.batch_size, train.batch_tokens)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.bounds) - 1

    def _windows(self, held_out: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size, people, starts, ends = self.seq_length + 1, [], [], []
        shortest = 1 if self.cloze_share == 1 else 2  # a causal window needs an input and a target
        for user, (start, end) in enumerate(zip(self.data.offsets[:-1].tolist(),
                                                self.data.training_ends(held_out).tolist(), strict=True)):
            if end - start < shortest:
                continue
            first = [max(start, end - size)]
            while self.train.sliding_window and first[-1] > start:
                first.append(max(start, first[-1] - max(1, size // 2)))
            people += [user] * len(first)
            starts += first
            ends += [min(end, begin + size) for begin in first]
        return np.array(people), np.array(starts), np.array(ends)

    def _begun(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(where each window starts in an epoch, whether late): the logarithm of what is left is uniform then, and at
        least an input and a target are."""
        late = np.zeros(len(self.starts), dtype=bool)
        if not self.train.late_start_share:
            return self.starts, late
        draw = np.random.default_rng((self.train.seed, epoch, LATE))
        late = draw.random(len(late)) < self.train.late_start_share
        left = (2 * ((self.ends - self.starts) / 2)**draw.random(len(late))).astype(int)
        return np.where(late, self.ends - left, self.starts), late

    def epoch(self, epoch: int, first_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on; with several processes each takes every `world`-th."""
        draw = np.random.default_rng((self.train.seed, epoch))
        order, (starts, late) = draw.permutation(len(self.people)), self._begun(epoch)
        order = order[np.argsort((starts - self.ends)[order], kind="stable")]  # longest first, random among equals
        groups = draw.permutation(len(self))
        for step in range(first_step, len(self) // world):
            number = step * world + rank
            group = groups[number]
            rows = order[self.bounds[group]:self.bounds[group + 1]]
            # All processes do the same kind of batch at the same step, spread evenly over the epochs.
            count = epoch * (len(self) // world) + step
            cloze = int((count + 1) * self.cloze_share) > int(count * self.cloze_share)
            noise = np.random.default_rng((self.train.seed, epoch, number))
            batch = self._cloze(rows, starts[rows], noise) if cloze else self._causal(rows, starts[rows])
            batch = batch.replace(users=batch.users.masked_fill(torch.from_numpy(late[rows]), UNKNOWN))
            yield hide_context(batch, noise)

    def _gather(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, (B, L) positions in the flat arrays, -1 on padding) of runs of interactions."""
        lengths = ends - starts
        grid = np.arange(padded_width(lengths.max(), self.seq_length))
        return lengths, np.where(grid < lengths[:, None], starts[:, None] + grid, -1)

    def _take(self, flat: np.ndarray, where: np.ndarray) -> Tensor:
        return torch.from_numpy(np.where(where >= 0, flat[where], 0))

    def _whole(self, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        return torch.from_numpy(starts == self.data.offsets[self.people[rows]])

    def _people(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        people = self.people[rows]
        return torch.from_numpy(people + 1), torch.from_numpy(self.data.demographics[people])

    def _causal(self, rows: np.ndarray, starts: np.ndarray) -> Batch:
        lengths, inputs = self._gather(starts, self.ends[rows] - 1)
        following = np.where(inputs >= 0, inputs + 1, -1)
        data = self.data
        return Batch("causal", *self._people(rows), self._take(data.items, inputs), self._take(data.ratings, inputs),
                     self._take(data.timestamps, inputs), torch.from_numpy(lengths),
                     self._take(data.timestamps, following), self._take(data.items, following),
                     self._take(data.ratings, following), self._whole(rows, starts))

    def _cloze(self, rows: np.ndarray, starts: np.ndarray, noise: np.random.Generator) -> Batch:
        # A full window has one interaction more than the model reads: its oldest goes.
        begun = np.maximum(starts, self.ends[rows] - self.seq_length)
        lengths, where = self._gather(begun, self.ends[rows])
        masked = cloze_mask(lengths, where.shape[1], self.train, noise)
        data, items = self.data, self._take(self.data.items, where)
        masked = torch.from_numpy(masked)
        times, ratings = self._take(data.timestamps, where), self._take(data.ratings, where)
        return Batch("bidirectional", *self._people(rows), items.masked_fill(masked, MASK),
                     ratings.masked_fill(masked, NO_RATING), visible_times(times, masked), torch.from_numpy(lengths),
                     times * masked, items * masked, ratings * masked, self._whole(rows, begun))


def padded_width(longest: int | np.ndarray, most: int) -> int | np.ndarray:
    """Width of a batch: the next multiple of WIDTH_STEP, so that few shapes occur.

    oneDNN builds a kernel for each new shape of a product (0.4 ms) and keeps a thousand of them (benchmarks/LOG.md).
    """
    return np.minimum(most, -(-longest // WIDTH_STEP) * WIDTH_STEP)


def cloze_mask(lengths: np.ndarray, width: int, train: TrainSettings, noise: np.random.Generator) -> np.ndarray:
    """(B, L) positions to mask, at least one a sequence, `train.mask_prob` of them on average (late, above .5: fewer).

    `train.masking` says which: uniform = each alike; late = the chance grows linearly from the oldest to the newest. In
    a share of the sequences the last position, which inference asks for, is masked alone.
    """
    place = np.arange(width)
    real, newest = place < lengths[:, None], place == lengths[:, None] - 1
    scores = np.where(real, noise.random(real.shape), 2.0)
    chance = np.full(real.shape, train.mask_prob)
    if train.masking == "late":
        chance = np.minimum(1.0, 2 * train.mask_prob * (place + 1) / (lengths[:, None] + 1))
    masked = scores < chance
    masked |= (scores == scores.min(1, keepdims=True)) & ~(masked & real).any(1, keepdims=True)
    only_last = noise.random(len(lengths)) < train.last_mask_share
    masked[only_last] = newest[only_last]
    return masked & real


def hide_context(batch: Batch, noise: np.random.Generator) -> Batch:
    """Training batch in which some sequences lack their ratings, their times, their metadata or their person's token.

    What a model has learned to do without may be missing when it is used: an anonymous visitor's history has none of
    it, and an explanation leaves it out to see what changes.
    """
    count = len(batch.lengths)

    def chosen(rate: float) -> Tensor:
        return torch.from_numpy(noise.random(count) < rate)

    known_time = ~chosen(CONTEXT_DROPOUT)[:, None]
    return batch.replace(
        users=batch.users.masked_fill(chosen(USER_ID_DROPOUT), UNKNOWN),
        demographics=batch.demographics.masked_fill(chosen(CONTEXT_DROPOUT)[:, None], UNKNOWN),
        ratings=batch.ratings.masked_fill(chosen(CONTEXT_DROPOUT)[:, None], NO_RATING),
        timestamps=batch.timestamps * known_time, request_times=batch.request_times * known_time)


def visible_times(timestamps: Tensor, masked: Tensor) -> Tensor:
    """(B, L) times in which each masked position shows the time of the last visible one before it.

    So neither a masked interaction's own moment nor the gap after it tells when it happened. Before the first visible
    position the first visible time stands.
    """
    visible = timestamps.masked_fill(masked, NO_TIME)
    place = torch.arange(timestamps.shape[1]).expand_as(timestamps)
    last_visible = place.masked_fill(masked, -1).cummax(1).values
    first_visible = masked.long().cumprod(1).sum(1, keepdim=True).clamp(max=timestamps.shape[1] - 1)
    return visible.gather(1, torch.where(last_visible < 0, first_visible, last_visible))


def cut(lengths: np.ndarray, most_rows: int, most_tokens: int) -> np.ndarray:
    """Bounds of groups of sorted (longest first) sequences that respect both limits, padding counted."""
    bounds, start = [0], 0
    while start < len(lengths):
        rows = min(most_rows, max(1, most_tokens // max(1, int(lengths[start]))) if most_tokens else most_rows)
        start = min(len(lengths), start + rows)
        bounds.append(start)
    return np.array(bounds)
