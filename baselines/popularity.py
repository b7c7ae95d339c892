"""The most rated films of the training part, the same for everybody."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from batches import Batch
from data_processor import FIRST_ITEM, SequenceData


class Popularity:
    """Scores a film by how often the training part has it."""

    def __init__(self, data: SequenceData) -> None:
        counts = np.bincount(data.items[data.training_rows()], minlength=data.catalogue.num_rows).astype(np.float32)
        self.scores = torch.from_numpy(counts)  # (R,)
        self.scores[:FIRST_ITEM] = -torch.inf

    def score(self, batch: Batch) -> Tensor:
        """(B, R) counts."""
        return self.scores.to(batch.items.device).repeat(len(batch.lengths), 1)
