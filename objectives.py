"""What the item heads minimise, put together from the settings, the data and the teachers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from batches import Batch
from data_processor import FIRST_ITEM, SequenceData
from losses import SampledItemLoss, linear_cross_entropy, shifted, smoothed_cross_entropy
from settings import TrainSettings


def item_loss(train: TrainSettings, data: SequenceData, held_out: bool,
              device: torch.device) -> Callable[..., torch.Tensor]:
    """The loss of the item heads that the settings name, for training on the training part or on everything."""
    counts = np.bincount(data.items[data.training_rows(held_out)], minlength=data.catalogue.num_rows)
    popularity = torch.from_numpy(counts).float().clamp_min(1)  # an item that nobody has is drawn like one seen once
    if train.loss == "softmax":
        plain = partial(smoothed_cross_entropy, smoothing=train.label_smoothing) if train.label_smoothing else \
            linear_cross_entropy
        if not train.popularity_correction:
            return plain
        return shifted(plain, train.popularity_correction * popularity.log().to(device))
    weights = popularity if train.negative_sampling == "popularity" else torch.ones(data.catalogue.num_rows)
    weights[:FIRST_ITEM] = 0
    return SampledItemLoss(train.loss, weights.to(device), train.negatives, train.gbce_t)


@torch.no_grad()
def opinion(teacher: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(states, table, bias) from which a teacher would predict the batch's items."""
    heard = []

    def listen(states: torch.Tensor, table: torch.Tensor, bias: torch.Tensor, *_: object) -> torch.Tensor:
        heard.append((states, table, bias))
        return states.sum()

    teacher.item_loss = listen
    teacher(batch, frozenset({"next_item", "masked_item"}))
    return heard[0]
