"""The films that training has most often: ever, among people alike, or in a window of time before each request."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from batches import Batch
from data_processor import FIRST_ITEM, SequenceData
from item_encoders.attributes import like_genres
from transformer import pick

DAY = 86_400


class Popularity:
    """Scores a film by how often the training part has it."""

    def __init__(self, data: SequenceData) -> None:
        counts = np.bincount(data.items[data.training_rows()], minlength=data.catalogue.num_rows).astype(np.float32)
        self.scores = torch.from_numpy(counts)  # (R,)
        self.scores[:FIRST_ITEM] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts."""
        return self.scores.to(batch.items.device).repeat(len(batch.lengths), 1)


class GroupPopularity:
    """Scores a film by how many of the training interactions of people of the same gender and age group are with it.

    Films at par, and all films for somebody of whom neither or only one is known, follow in the order of their
    popularity among all.
    """

    def __init__(self, data: SequenceData) -> None:
        rows, size = data.training_rows(), data.catalogue.num_rows
        people = data.people[rows]
        gender, age, _ = data.demographics.max(0, initial=1) + 1
        shape = (int(gender), int(age), size)
        cells = np.ravel_multi_index((*data.demographics[people, :2].T, data.items[rows]), shape)
        counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.float32)
        counts[0], counts[:, 0] = 0, 0
        ever = Popularity(data).scores
        self.scores = torch.from_numpy(counts) + ever / (ever.max() + 1)  # (genders, ages, R)

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts in the group, plus less than 1 by popularity among all."""
        gender, age, _ = batch.demographics.T
        return self.scores[gender, age]


class GenrePopularity:
    """Scores a film by how often training has the films with the nearest genres, in the mean: what the popularity of a
    new film might become."""

    def __init__(self, data: SequenceData) -> None:
        counts = Popularity(data).scores
        known = (counts > 0).nonzero()[:, 0]
        genres = torch.from_numpy(data.catalogue.genres)
        self.scores = like_genres(genres, genres[known]) @ counts[known]  # (R,)
        self.scores[:FIRST_ITEM] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) mean counts."""
        return self.scores.repeat(len(batch.lengths), 1)


class RecentPopularity:
    """Scores a film by how often the training part has it in the `days` before the newest event of a history.

    What came later does not count, though a leave-one-out training part has it; films without an event in the window
    follow in the order of their popularity at any time. Runs on a CPU.
    """

    def __init__(self, data: SequenceData, days: float) -> None:
        rows = data.training_rows()
        order = rows[np.argsort(data.timestamps[rows], kind="stable")]
        self.times, self.items = data.timestamps[order], data.items[order]
        self.window, self.rows = int(days * DAY), data.catalogue.num_rows
        ever = Popularity(data).scores
        self.fallback = ever / (ever.max() + 1)  # below 1; -inf for PAD and MASK

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts in the window, plus less than 1 by popularity at any time."""
        now = pick(batch.timestamps, batch.lengths - 1)[:, 0].numpy()
        first, last = (np.searchsorted(self.times, moment) for moment in (now - self.window, now))
        counts = np.stack([np.bincount(self.items[start:end], minlength=self.rows)
                           for start, end in zip(first, last, strict=True)])
        return torch.from_numpy(counts).float() + self.fallback
