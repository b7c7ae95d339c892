"""Predictions of the heads for a training batch: the interface of models and losses."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class ItemPrediction(NamedTuple):
    """Prediction of an item head: logits are states @ table.T + bias."""

    states: Tensor  # (N, D)
    table: Tensor  # (R, D)
    bias: Tensor  # (R,) -inf at PAD and MASK
    targets: Tensor  # (N,) rows of items, or PAD where nothing is predicted

    def logits(self, chunk: slice) -> Tensor:
        """(C, R) of some positions, fp32."""
        return (self.states[chunk] @ self.table.T).float() + self.bias


@dataclass(frozen=True)
class Outputs:
    """Predictions of the heads for a training batch; None or empty if there is no such head."""

    item: ItemPrediction  # the masked or the next one, by the batch's pattern
    # of the starts, with biases of their own
    first_item: ItemPrediction | None = None
    # logits (N, K), codes (N,)
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    # logits, shares (N, F)
    preferences: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    # states (B, D) of two views, last targets (B,)
    views: tuple[Tensor, Tensor, Tensor] | None = None
