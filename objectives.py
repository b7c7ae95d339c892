"""The losses of the tasks, from the predictions of the heads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from batches import Batch
from dataset import PAD
from losses import (
    contrastive_loss,
    distillation_loss,
    linear_cross_entropy,
    preference_loss,
    sampled_softmax_loss,
    value_loss,
)
from outputs import ItemPrediction, Outputs

# of the item losses that follows teachers; the rest follows the interactions
TEACHER_SHARE = 0.5
TASKS = {"causal": "next_item", "bidirectional": "masked_item"}


def task_losses(
    outputs: Outputs,
    batch: Batch,
    teachers: Sequence[nn.Module] = (),
) -> dict[str, Tensor]:
    """Mean loss of each task that the outputs hold.

    teachers: frozen models of the same kind whose distributions the item heads follow.
    """
    loss = item_loss(outputs.item, batch)
    if teachers:
        with torch.no_grad():
            theirs = [teacher(batch).item for teacher in teachers]
        followed = distillation_loss(outputs.item, theirs)
        loss = (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * followed
    if outputs.first_item is not None:
        # Mean over all positions; starts are few, and teachers say nothing of them.
        first = len(outputs.first_item.targets)
        share = first / ((outputs.item.targets != PAD).sum() + first)
        loss = torch.lerp(loss, item_loss(outputs.first_item, batch), share)
    losses = {TASKS[batch.pattern]: loss}
    for task, loss_of, columns in (
        ("value", value_loss, outputs.values),
        ("preference", preference_loss, outputs.preferences),
    ):
        if columns:
            parts = [loss_of(*pair) for pair in columns.values()]
            losses[task] = sum(parts) / len(parts)
    if outputs.views is not None:
        losses["contrastive"] = contrastive_loss(*outputs.views)
    return losses


def item_loss(prediction: ItemPrediction, batch: Batch) -> Tensor:
    """Softmax over the whole catalogue or, if the batch has a sample, over that."""
    sample = batch.sample
    if sample is None:
        return linear_cross_entropy(*prediction)
    return sampled_softmax_loss(
        *prediction, sample.negatives, sample.log_expected
    )
