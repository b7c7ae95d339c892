"""What the item heads minimise, put together from the settings, the data and the teachers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from batches import Batch
from data_processor import FIRST_ITEM, SequenceData
from losses import SampledItemLoss, linear_cross_entropy
from settings import TrainSettings


def item_loss(train: TrainSettings, data: SequenceData, device: torch.device) -> Callable[..., torch.Tensor]:
    """The loss of the item heads that the settings name."""
    if train.loss == "softmax":
        return linear_cross_entropy
    candidates = torch.arange(data.catalogue.num_rows, device=device) >= FIRST_ITEM
    return SampledItemLoss(candidates, train.negatives)


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
