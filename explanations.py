"""Why a film is recommended: leave each thing out, score again, see what changes.

The effect of a history item or of a feature family is the candidate's log-probability with it minus that without it,
so a positive effect speaks for the film. Probabilities are over the films that may be recommended. Effects are
measured one at a time on the model itself; they need not add up, since the model is not additive.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from batches import History, history_batch
from enhanced_model import FEATURE_FAMILIES, EnhancedBERT4Rec

BATCH = 64


@dataclass(frozen=True)
class Effects:
    """Effects on C candidates: `history` (C, L) of the newest L interactions, oldest first, `families` name -> (C,)."""

    positions: np.ndarray  # (L,) index of each interaction in the full history
    history: np.ndarray
    families: dict[str, np.ndarray]


@torch.no_grad()
def leave_one_out_effects(model: nn.Module, history: History, candidates: np.ndarray, allowed: Tensor,
                          seq_length: int) -> Effects:
    """Effects of every history item the model reads and of every feature family it has.

    candidates: (C,) item_index; allowed: (R,) True at the films over which probabilities are formed. A history of one
    interaction keeps it: there is nothing to rank from without it, and its effect is given as 0.
    """
    total = len(history.items)
    positions = np.arange(max(0, total - seq_length), total)
    variants = [history]
    if total > 1:
        variants += [_without(history, position) for position in positions]
    rows = torch.cat([_log_probabilities(model, variants[start:start + BATCH], candidates, allowed, seq_length)
                      for start in range(0, len(variants), BATCH)])  # (1 + L, C)
    effects = (rows[0] - rows[1:]).T if total > 1 else rows.new_zeros(len(candidates), 1)
    families = {}
    if isinstance(model, EnhancedBERT4Rec):
        for family in (name for name in FEATURE_FAMILIES if used_families(model)[name]):
            without = _log_probabilities(model, [history], candidates, allowed, seq_length, frozenset({family}))
            families[family] = (rows[0] - without[0]).numpy()
    return Effects(positions, effects.numpy(), families)


def used_families(model: EnhancedBERT4Rec) -> dict[str, bool]:
    """Which feature families a model has at all."""
    settings = model.settings
    return {"ratings": settings.rating_input,
            "times": model.time is not None or model.request_time is not None or settings.relative_time
            or settings.time_bias,
            "demographics": settings.gender or settings.age or settings.occupation, "user_id": settings.user_id,
            **{family: family in model.encoders for family in ("genres", "year", "title", "graph")}}


def _without(history: History, position: int) -> History:
    def drop(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.delete(values, position)

    return dataclasses.replace(history, items=drop(history.items), ratings=drop(history.ratings),
                               timestamps=drop(history.timestamps))


def _log_probabilities(model: nn.Module, histories: list[History], candidates: np.ndarray, allowed: Tensor,
                       seq_length: int, families: frozenset[str] = frozenset()) -> Tensor:
    """(len(histories), C)."""
    batch = history_batch(histories, seq_length)
    scores = model.score(batch, families) if families else model.score(batch)
    return scores.masked_fill(~allowed, -torch.inf).log_softmax(1)[:, torch.from_numpy(candidates)]
