"""Two views of each history for contrastive learning: what they share should be the person's taste.

Cut, masked or shuffled histories as in Xie et al. (CL4SRec, ICDE 2022, arXiv:2010.14395, section 3.2); a history that
led to the same film, drawn from all such, as in Qiu et al. (DuoRec, WSDM 2022, arXiv:2110.05730, section 4.2). A view
tells nothing of the person: with a token of its own each history would be found by that alone.

Axes: B users, L positions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from batches import Batch, history_batch, history_of
from data_processor import MASK, NO_RATING, PAD, UNKNOWN, SequenceData

CROPPED, MASKED, SHUFFLED = 0.6, 0.3, 0.6  # shares of a history, as in CL4SRec's experiments on ML-1M


def crop(batch: Batch, noise: np.random.Generator) -> Batch:
    """A run of each history."""
    start, length = _run(batch, CROPPED, noise)
    width = batch.items.shape[1]
    where = (np.arange(width) + start[:, None]).clip(max=width - 1)
    whole = batch.whole & torch.from_numpy(start == 0)
    return _gathered(batch.replace(lengths=torch.from_numpy(length), whole=whole), where)


def mask(batch: Batch, noise: np.random.Generator) -> Batch:
    """Some of the films replaced by MASK, with their ratings."""
    hidden = torch.from_numpy(noise.random(batch.items.shape) < MASKED) & (batch.items != PAD)
    return batch.replace(items=batch.items.masked_fill(hidden, MASK),
                         ratings=batch.ratings.masked_fill(hidden, NO_RATING))


def reorder(batch: Batch, noise: np.random.Generator) -> Batch:
    """A run of each history in another order, at the old times."""
    start, length = _run(batch, SHUFFLED, noise)
    place = np.arange(batch.items.shape[1])
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    key = np.where(inside, start[:, None] + noise.random(inside.shape) * length[:, None], place + 0.5)
    shuffled = _gathered(batch, np.argsort(key, axis=1, kind="stable"))
    return shuffled.replace(timestamps=batch.timestamps, request_times=batch.request_times)


FORMS: dict[str, Callable[[Batch, np.random.Generator], Batch]] = {"crop": crop, "mask": mask, "reorder": reorder}


def mixed(batch: Batch, noise: np.random.Generator) -> Batch:
    """Each history in one of the forms."""
    forms = [form(batch, noise).tensors() for form in FORMS.values()]
    rows = torch.arange(len(batch.lengths))
    chosen = torch.from_numpy(noise.integers(len(forms), size=len(rows)))
    return batch.replace(**{name: torch.stack([form[name] for form in forms])[chosen, rows] for name in forms[0]})


class Views:
    """The views of causal training batches that `--contrastive_views` names."""

    def __init__(self, kind: str, data: SequenceData, rows: np.ndarray, seq_length: int) -> None:
        """rows: of the training part, in the order of people and time."""
        self.kind, self.data, self.seq_length = kind, data, seq_length
        self.people = data.people
        people = self.people[rows]
        followers = rows[rows > data.offsets[people]]  # interactions with a history before them
        self.followers = followers[np.argsort(data.items[followers], kind="stable")]
        counts = np.bincount(data.items[followers], minlength=data.catalogue.num_rows)
        self.first, self.count = np.cumsum(counts) - counts, counts

    def of(self, batch: Batch, noise: np.random.Generator) -> tuple[Batch, Batch]:
        """Two views of each history of a batch."""
        anonymous = batch.replace(users=torch.full_like(batch.users, UNKNOWN),
                                  demographics=torch.full_like(batch.demographics, UNKNOWN))
        if self.kind == "same_target":
            return anonymous, self._others(batch, noise)
        first, second = (mixed(anonymous, noise) if self.kind == "mixed" else FORMS[self.kind](anonymous, noise)
                         for _ in range(2))
        return first, second

    def _others(self, batch: Batch, noise: np.random.Generator) -> Batch:
        """Histories of training that led to the films that these lead to."""
        targets = last_targets(batch).numpy()
        chosen = self.followers[self.first[targets] + (noise.random(len(targets)) * self.count[targets]).astype(int)]
        histories = [history_of(self.data, int(self.people[row]), int(row)) for row in chosen]
        found = history_batch(histories, self.seq_length)
        return found.replace(users=torch.full_like(found.users, UNKNOWN),
                             demographics=torch.full_like(found.demographics, UNKNOWN))


def last_targets(batch: Batch) -> torch.Tensor:
    """(B,) film that each causal training sequence leads to."""
    return batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]


def _run(batch: Batch, share: float, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of a random run of each history, at least one interaction long."""
    lengths = batch.lengths.numpy()
    length = np.maximum(1, (lengths * share).astype(int))
    return (noise.random(len(lengths)) * (lengths - length + 1)).astype(int), length


def _gathered(batch: Batch, where: np.ndarray) -> Batch:
    """Inputs taken from these positions (B, L), PAD beyond the lengths."""
    real = torch.from_numpy(np.arange(where.shape[1]) < batch.lengths.numpy()[:, None])
    taken = {name: getattr(batch, name).gather(1, torch.from_numpy(where)) * real
             for name in ("items", "ratings", "timestamps", "request_times")}
    return batch.replace(**taken)
