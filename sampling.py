"""Negatives of sampled softmax, and the part of the catalogue that a pass reads.

A pass needs the items of its histories, their targets and its negatives: some thousand rows,
however large the catalogue is. Half of the negatives are drawn uniformly, half as often as items
occur in training:

    q(v) = 1 / 2V + n_v / 2N      V items, n_v of N interactions are of item v

A negative that is drawn K q(v) times on average stands for 1 / (K q(v)) of its like, so the loss
follows that of the full softmax (losses.sampled_softmax_loss).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from batches import Batch, Sample
from dataset import ITEM_ROWS, MASK, PAD, Dataset
from settings import TrainSettings

# Items up to which --loss auto is the full softmax.
FULL = 100_000


class Sampler:
    """Draws from torch's global random stream, so that a resumed run draws the same."""

    def __init__(self, data: Dataset, negatives: int) -> None:
        counts = data.item_counts()[ITEM_ROWS:].astype(float)
        share = 0.5 / len(counts) + 0.5 * counts / max(1, counts.sum())
        self.bounds = torch.from_numpy(np.cumsum(share))
        self.logarithms = torch.from_numpy(np.log(share)).float()
        self.negatives = negatives

    def draw(self) -> tuple[Tensor, Tensor]:
        """(K,) rows of items, and the logarithms of how often each is drawn on average."""
        point = torch.rand(self.negatives, dtype=torch.float64)
        found = torch.searchsorted(self.bounds, point * self.bounds[-1])
        found = found.clamp(max=len(self.bounds) - 1)
        expected = math.log(self.negatives) + self.logarithms[found]
        return found + ITEM_ROWS, expected

    def __call__(self, batch: Batch) -> Batch:
        """The batch with a sample."""
        negatives, expected = self.draw()
        device = batch.items.device
        every = (batch, *batch.views)
        read = [one.items.flatten() for one in every]
        read += [one.targets.flatten() for one in every]
        first = torch.tensor([PAD, MASK], device=device)
        parts = [first, negatives.to(device), *read]
        # The rows that are read, and the place of each id among them.
        rows, place = torch.cat(parts).unique(return_inverse=True)
        _, negatives, *places = place.split([len(part) for part in parts])
        sample = Sample(rows, negatives, expected.to(device))
        items, targets = places[: len(every)], places[len(every) :]
        sampled = []
        for one, own_items, own_targets in zip(
            every, items, targets, strict=True
        ):
            sampled.append(
                one.replace(
                    items=own_items.view_as(one.items),
                    targets=own_targets.view_as(one.targets),
                    sample=sample,
                )
            )
        return sampled[0].replace(views=tuple(sampled[1:]))


def sampler_for(
    model: nn.Module, data: Dataset, train: TrainSettings
) -> Sampler | None:
    """What --loss asks for; None is the full softmax.

    Gives tables of more than FULL vectors sparse gradients: a step then takes time by the rows
    that it reads.
    """
    large = len(data.catalogue.items.ids) > FULL
    sampled = train.loss == "sampled_softmax"
    sampled |= train.loss == "auto" and large
    for module in model.modules():
        # A full softmax reads the whole table of items.
        if isinstance(module, nn.Embedding) and (sampled or not large):
            module.sparse = module.num_embeddings > FULL
    return Sampler(data, train.negatives) if sampled else None
