"""From what the heads say of a batch to the losses that training minimises."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from batches import Batch
from dataset import ITEM_ROWS, PAD
from losses import (
    contrastive_loss,
    distillation_loss,
    linear_cross_entropy,
    preference_loss,
    sampled_softmax_loss,
    value_loss,
)
from outputs import ItemPrediction, Outputs
from settings import TrainSettings

ItemLoss = Callable[..., Tensor]
# of the item losses that follows teachers; the rest follows the interactions
TEACHER_SHARE = 0.5


class Objective:
    """The losses of a run, by task.

    teachers: frozen models of the same kind whose distributions the item heads follow.
    """

    def __init__(
        self, train: TrainSettings, teachers: Sequence[nn.Module] = ()
    ) -> None:
        self.teachers = teachers
        self.item_loss: ItemLoss = linear_cross_entropy
        if train.loss == "sampled_softmax":
            self.item_loss = partial(_with_negatives, train.negatives)

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Mean loss of each task that the outputs hold."""
        with torch.no_grad():
            theirs = [teacher(batch) for teacher in self.teachers]
        losses = {}
        if outputs.masked_item is not None:
            wanted = [other.masked_item for other in theirs]
            losses["masked_item"] = self._item(outputs.masked_item, wanted)
        if outputs.next_item is not None:
            wanted = [other.next_item for other in theirs]
            losses["next_item"] = self._item(outputs.next_item, wanted)
        if outputs.first_item is not None:
            losses["next_item"] = self._with_first(losses["next_item"], outputs)
        if outputs.values:
            parts = [value_loss(*pair) for pair in outputs.values.values()]
            losses["value"] = sum(parts) / len(parts)
        if outputs.preferences:
            parts = [preference_loss(*pair) for pair in outputs.preferences.values()]
            losses["preference"] = sum(parts) / len(parts)
        if outputs.views is not None:
            losses["contrastive"] = contrastive_loss(*outputs.views)
        return losses

    def _item(self, own: ItemPrediction, teachers: Sequence[ItemPrediction]) -> Tensor:
        loss = self._plain(own)
        if not teachers:
            return loss
        parts = [(other.states, other.table, other.bias) for other in teachers]
        counted = own.targets != PAD
        followed = distillation_loss(own.states, own.table, own.bias, parts, counted)
        return (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * followed

    def _plain(self, own: ItemPrediction) -> Tensor:
        return self.item_loss(own.states, own.table, own.bias, own.targets, PAD)

    def _with_first(self, later: Tensor, outputs: Outputs) -> Tensor:
        """Mean over all positions; starts are few, and teachers say nothing of them."""
        first = len(outputs.first_item.targets)
        others = (outputs.next_item.targets != PAD).sum()
        return torch.lerp(
            later, self._plain(outputs.first_item), first / (others + first)
        )


def _with_negatives(
    count: int,
    states: Tensor,
    table: Tensor,
    bias: Tensor,
    targets: Tensor,
    ignore_index: int,
) -> Tensor:
    """`sampled_softmax_loss` with fresh negatives, which follow torch's global stream."""
    negatives = torch.randint(ITEM_ROWS, len(table), (count,), device=table.device)
    return sampled_softmax_loss(states, table, bias, targets, negatives, ignore_index)
