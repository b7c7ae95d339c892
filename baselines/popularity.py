"""The items most frequent in training: at any time, or in a time window."""

import numpy as np
import torch
from torch import Tensor

from batches import Batch
from dataset import ITEM_ROWS, Dataset
from transformer import pick

DAY = 86_400
MOST = 10_000_000  # interactions that count


class Popularity:
    """Scores an item by its number of training interactions."""

    starts = True
    value_columns = ()

    def __init__(self, data: Dataset) -> None:
        counts = torch.from_numpy(data.item_counts()).float()  # (R,)
        counts[:ITEM_ROWS] = -torch.inf
        self.counts = counts

    def states(self, batch: Batch) -> Tensor:
        """(B, 1) zeros: the history does not matter."""
        return torch.zeros(len(batch.lengths), 1)

    def scores(self, states: Tensor, _batch: Batch | None = None) -> Tensor:
        """(B, R) counts."""
        return self.counts.to(states.device).repeat(len(states), 1)

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts."""
        states = self.states(batch)
        return self.scores(states.to(batch.items.device))


class RecentPopularity:
    """Scores an item by its number of training interactions in the `days` before the newest
    interaction of a history.

    Later interactions do not count, although the leave-one-out training part has them. Items
    without an interaction in the window are ordered by their popularity at any time. Of more than
    MOST interactions those of every second, third, ... user count. Counts on the CPU, wherever the
    batch is.
    """

    starts = True

    def __init__(self, data: Dataset, days: float) -> None:
        step = max(1, -(-int(data.train_lengths.sum()) // MOST))
        items, times = [], []
        for part in data.chunks():
            rows = part.training_rows()
            if step > 1:
                rows = rows[part.user_of[rows] % step == 0]
            items.append(part.items[rows])
            times.append(part.times[rows])
        times = np.concatenate(times)
        order = np.argsort(times, kind="stable")
        self.times = times[order]
        self.items = np.concatenate(items)[order]
        self.rows = len(data.catalogue.items)
        self.window = int(days * DAY)
        ever = Popularity(data).counts
        # below 1; -inf for PAD and MASK
        self.fallback = ever / (ever.max() + 1)

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts in the window, plus less than 1 by popularity at any time."""
        newest = pick(batch.times, batch.lengths - 1)  # (B, 1)
        now = newest[:, 0].cpu().numpy()
        first = np.searchsorted(self.times, now - self.window)
        last = np.searchsorted(self.times, now)
        counts = np.zeros((len(now), self.rows), dtype=np.float32)
        window = np.zeros(self.rows, dtype=np.int64)
        start = end = 0
        # From one window to the next: what enters, what leaves.
        for row in np.argsort(now, kind="stable"):
            window += self._counts(end, last[row])
            window -= self._counts(start, first[row])
            counts[row] = window
            start = first[row]
            end = last[row]
        scores = torch.from_numpy(counts) + self.fallback
        return scores.to(batch.items.device)

    def _counts(self, start, end):
        items = self.items[start:end]
        return np.bincount(items, minlength=self.rows)
