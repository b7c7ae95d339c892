"""Training batches: windows, masks, truncated histories, hidden context.

Axes: B sequences, L positions. Batches gather sequences of similar length, so that little
arithmetic is spent on padding.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from batches import Batch, cut, hidden, padded_width
from dataset import MASK, NO_TIME, Dataset
from fields import UNKNOWN
from settings import TrainSettings
from views import two_views

# Shares of the sequences without one kind of side information, and without the user's id.
CONTEXT_DROPOUT, USER_ID_DROPOUT = 0.1, 0.5
# Streams of an epoch's noise beside those of its batches, which have their numbers: which windows
# of a process begin late, a batch's views, and the order of batches for all processes.
LATE, VIEWS, ALIKE = 2**40, 2**41, 2**42


class TrainingBatches:
    """The batches of each epoch, a pure function of (seed, epoch, step): a stopped run resumes
    exactly.

    A window is a run of interactions of one user: the newest `seq_length + 1` of the training
    part or, with `sliding_window`, half-overlapping windows over all of it. Causal batches
    predict each interaction of a window from those before it; cloze batches mask some of its
    newest `seq_length`. A share of the batches, evenly spread, carries the cloze task. A share of
    the windows loses its beginning (`late_start_share`), other windows in each epoch. Batches then
    gather windows of similar length. All epochs have as many batches, of as many windows, so
    `batch_tokens` is met exactly in the first epoch and nearly in the others.

    Of several processes (`rank` of `world`) each has the windows of a run of users, with as many
    interactions as the others. Its batches read no other part of the data. All take as many steps
    as the one with the fewest batches, and at each step their batches are of similar length.
    """

    def __init__(
        self,
        data: Dataset,
        seq_length: int,
        train: TrainSettings,
        cloze_share: float,
        views: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data, self.seq_length, self.train = data, seq_length, train
        self.cloze_share, self.views = cloze_share, views
        self.rank, self.world = rank, world
        self.size = seq_length + 1  # of a window
        self.half = self.size // 2
        steps = []
        # One after the other: the windows of all processes may need more memory than there is.
        for number, share in enumerate(self._shares()):
            users, starts, ends = self._windows(share)
            late, _ = self._late_starts(0, starts, ends, number)
            bounds = self._bounds(ends - late)
            steps.append(len(bounds) - 1)
            if number == rank:
                self.users, self.starts, self.ends = users, starts, ends
                self.bounds = bounds
        self.steps = min(steps)

    def __len__(self) -> int:
        """Steps in an epoch: a batch of each process."""
        return self.steps

    def _shares(self):
        """The users of each process, as slices whose windows have equally many interactions."""
        starts = self.data.offsets[:-1]
        lengths = self.data.split.train_ends - starts
        read = np.minimum(lengths, self.size) * self._numbers(lengths)
        read[lengths < self._shortest()] = 0
        total = np.append(0, np.cumsum(read))
        wanted = total[-1] * np.arange(1, self.world) / self.world
        places = [0, *np.searchsorted(total, wanted).tolist(), len(starts)]
        return [slice(*pair) for pair in itertools.pairwise(places)]

    def _shortest(self):
        """Interactions of a user who trains; a causal window needs an input and a target."""
        return 1 if self.cloze_share == 1 else 2

    def _numbers(self, lengths):
        """How many windows histories of these lengths have."""
        if not self.train.sliding_window:
            return np.ones_like(lengths)
        older = np.maximum(0, lengths - self.size)
        # The newest one, and one for each half window of older interactions that is begun.
        return 1 + (older + self.half - 1) // self.half

    def _windows(self, share):
        """(user, start, end) of each window of some users."""
        starts = self.data.offsets[:-1][share]
        ends = self.data.split.train_ends[share]
        users = np.flatnonzero(ends - starts >= self._shortest())
        starts, ends = starts[users], ends[users]
        users = users + share.start
        newest = np.maximum(starts, ends - self.size)
        counts = self._numbers(ends - starts)
        user = np.repeat(np.arange(len(users)), counts)  # of each window
        first_of_user = counts.cumsum() - counts
        # 0 is a user's newest window; each further one is half a window older.
        age = np.arange(len(user)) - first_of_user[user]
        first = np.maximum(starts[user], newest[user] - age * self.half)
        return users[user], first, np.minimum(ends[user], first + self.size)

    def _bounds(self, lengths):
        """Bounds of the batches among windows of these lengths, longest first. The widths are those
        of causal batches; a cloze batch also reads the last interaction."""
        widths = padded_width(np.sort(lengths)[::-1] - 1, self.seq_length)
        return cut(widths, self.train.batch_size, self.train.batch_tokens)

    def _late_starts(self, epoch, starts, ends, process):
        """(start of each window in an epoch, whether it is truncated) of a process.

        The remaining length is log-uniform, and at least an input and a target remain.
        """
        draw = np.random.default_rng((self.train.seed, epoch, LATE + process))
        late = draw.random(len(ends)) < self.train.late_start_share
        half = (ends - starts) / 2
        left = (2 * half ** draw.random(len(late))).astype(int)
        return np.where(late, ends - left, starts), late

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This process' batches of an epoch from `first_step` on."""
        draw = np.random.default_rng((self.train.seed, epoch))
        order = draw.permutation(len(self.users))
        starts, late = self._late_starts(
            epoch, self.starts, self.ends, self.rank
        )
        # Longest first, random among equals.
        order = order[np.argsort((starts - self.ends)[order], kind="stable")]
        # Of some more batches than steps each epoch leaves out others.
        batches = len(self.bounds) - 1
        shift = 0
        if self.world > 1:
            shift = draw.integers(batches)
            # Processes have drawn different orders; now all draw the same.
            draw = np.random.default_rng((self.train.seed, epoch, ALIKE))
        groups = draw.permutation(self.steps)
        for step in range(first_step, self.steps):
            number = step * self.world + self.rank
            group = (groups[step] * batches + shift) // self.steps
            rows = order[self.bounds[group] : self.bounds[group + 1]]
            noise = np.random.default_rng((self.train.seed, epoch, number))
            if self._is_cloze(epoch * self.steps + step):
                batch = self._cloze(rows, starts[rows], noise)
            else:
                batch = self._causal(rows, starts[rows])
            batch = hide_context(batch, late[rows], noise)
            if self.views and batch.pattern == "causal":
                # A stream of its own: views change no other draw.
                seed = (self.train.seed, epoch, VIEWS + number)
                view_noise = np.random.default_rng(seed)
                batch = batch.replace(views=two_views(batch, view_noise))
            yield batch

    def _is_cloze(self, step):
        """Whether a step of the run carries the cloze task: evenly spread, the same on all
        processes."""
        before = int(step * self.cloze_share)
        after = int((step + 1) * self.cloze_share)
        return after > before

    def _gather(self, starts, ends):
        """(lengths, (B, L) positions in the flat arrays, -1 on padding) of runs of interactions."""
        lengths = ends - starts
        grid = np.arange(padded_width(lengths.max(), self.seq_length))
        return lengths, np.where(
            grid < lengths[:, None], starts[:, None] + grid, -1
        )

    def _take(self, flat, where):
        unknown = np.nan if flat.dtype == np.float32 else 0
        return torch.from_numpy(
            np.where(where >= 0, flat[where], unknown).astype(flat.dtype)
        )

    def _columns(self, where):
        return {
            name: self._take(flat, where)
            for name, flat in self.data.columns.items()
        }

    def _user_fields(self, rows, starts):
        users = self.users[rows]
        columns = {
            name: torch.from_numpy(values[users])
            for name, values in self.data.catalogue.users.data.items()
            if values.dtype != object
        }
        whole = torch.from_numpy(starts == self.data.offsets[users])
        return {
            "users": torch.from_numpy(users),
            "user_columns": columns,
            "whole": whole,
        }

    def _causal(self, rows, starts):
        data = self.data
        lengths, inputs = self._gather(starts, self.ends[rows] - 1)
        following = np.where(inputs >= 0, inputs + 1, -1)
        return Batch(
            "causal",
            self._take(data.items, inputs),
            self._take(data.times, inputs),
            self._take(data.times, following),
            self._take(data.items, following),
            self._columns(inputs),
            self._columns(following),
            torch.from_numpy(lengths),
            **self._user_fields(rows, starts),
        )

    def _cloze(self, rows, starts, noise):
        # A full window has one interaction more than the model reads: its oldest goes.
        starts = np.maximum(starts, self.ends[rows] - self.seq_length)
        lengths, where = self._gather(starts, self.ends[rows])
        masked = torch.from_numpy(
            cloze_mask(lengths, where.shape[1], self.train, noise)
        )
        items = self._take(self.data.items, where)
        times = self._take(self.data.times, where)
        columns = self._columns(where)
        return Batch(
            "bidirectional",
            items.masked_fill(masked, MASK),
            visible_times(times, masked),
            times * masked,
            items * masked,
            hidden(columns, masked),
            hidden(columns, ~masked),
            torch.from_numpy(lengths),
            **self._user_fields(rows, starts),
        )


def cloze_mask(
    lengths: np.ndarray,
    width: int,
    train: TrainSettings,
    noise: np.random.Generator,
) -> np.ndarray:
    """(B, L) positions to mask, at least one a sequence, `train.mask_prob` of them on average
    (late, above .5: fewer).

    `train.masking` says which: uniform = each alike; late = the chance grows linearly from the
    oldest to the newest. In a share of the sequences the last position, which inference asks for,
    is masked alone.
    """
    place = np.arange(width)
    real, newest = place < lengths[:, None], place == lengths[:, None] - 1
    scores = np.where(real, noise.random(real.shape), 2.0)
    chance = train.mask_prob
    if train.masking == "late":
        chance = np.minimum(
            1.0, 2 * train.mask_prob * (place + 1) / (lengths[:, None] + 1)
        )
    masked = scores < chance
    lowest = scores == scores.min(1, keepdims=True)
    masked |= lowest & ~masked.any(1, keepdims=True)
    only_last = noise.random(len(lengths)) < train.last_mask_share
    masked[only_last] = newest[only_last]
    return masked


def hide_context(
    batch: Batch, late: np.ndarray, noise: np.random.Generator
) -> Batch:
    """Training batch in which some sequences lack their columns, times, user columns or user id,
    and truncated ones (B,) lack the user id.

    So the model learns to do without them. The history of an anonymous visitor has none of these,
    and explanations leave them out.
    """
    count = len(batch.lengths)

    def chosen(rate: float) -> Tensor:
        return torch.from_numpy(noise.random(count) < rate)

    timeless = chosen(CONTEXT_DROPOUT)[:, None]
    nobody = chosen(USER_ID_DROPOUT) | torch.from_numpy(late)
    no_user_columns = chosen(CONTEXT_DROPOUT)
    no_columns = chosen(CONTEXT_DROPOUT)
    return batch.replace(
        users=batch.users.masked_fill(nobody, UNKNOWN),
        user_columns=hidden(batch.user_columns, no_user_columns),
        columns=hidden(batch.columns, no_columns),
        times=batch.times * ~timeless,
        request_times=batch.request_times * ~timeless,
    )


def visible_times(times: Tensor, masked: Tensor) -> Tensor:
    """(B, L) times in which each masked position shows the time of the last visible one before
    it.

    So neither the time of a masked interaction nor the gap after it is visible. Positions before
    the first visible one show its time.
    """
    visible = times.masked_fill(masked, NO_TIME)
    place = torch.arange(times.shape[1]).expand_as(times)
    last_visible = place.masked_fill(masked, -1).cummax(1).values
    first_visible = masked.int().argmin(1, keepdim=True)
    return visible.gather(
        1, torch.where(last_visible < 0, first_visible, last_visible)
    )
