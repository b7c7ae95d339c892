"""How much the counts of transitions.py weigh beside a model: tried on the validation items.

Each pair of a weight and a sharpness ranks the validation items of all requests, or of REQUESTS to
twice as many, spread evenly, where there are more (fewer for very many items). The best by NDCG@10
is taken, of equal ones the first. Without validation items it is WITHOUT.
"""

import numpy as np
import torch

from dataset import Dataset
from evaluation.metrics import per_user
from evaluation.protocols import (
    CPU,
    Ranker,
    filters_seen,
    ranks_within,
    request_batches,
)
from settings import Settings
from training_state import SELECTION_METRIC
from transitions import Transitions, transition_counts

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SHARPNESS = (1.0, 4.0, 16.0)
WITHOUT = (1.0, 4.0)
REQUESTS, FEWEST = 10_000, 1000
MOST_SCORES = 1 << 28  # of a pair: what bounds the time for very many items


def blended(
    base: Ranker,
    data: Dataset,
    settings: Settings,
    weights: tuple[float, ...] = WEIGHTS,
    device: torch.device = CPU,
) -> tuple[Transitions, dict[str, float]]:
    """(counts to be added to the scores of a ranker that has none, weight and sharpness)."""
    counts = transition_counts(data)
    rows = len(data.catalogue.items)
    pairs = [(one, other) for one in weights for other in SHARPNESS]
    best = WITHOUT
    if "validation" in data.split.requests:
        tables = {
            sharpness: Transitions(rows).hold(counts, 1.0, sharpness)
            for sharpness in SHARPNESS
        }
        found = _qualities(base, tables, weights, data, settings, device)
        best = max(pairs, key=found.__getitem__)
    weight, sharpness = best
    held = Transitions(rows).hold(counts, weight, sharpness).to(device)
    return held, {"weight": weight, "sharpness": sharpness}


@torch.no_grad()
def _qualities(base, tables, weights, data, settings, device):
    """(weight, sharpness) -> validation NDCG@10."""
    asked = data.split.requests["validation"]
    affordable = max(FEWEST, MOST_SCORES // len(data.catalogue.items))
    step = max(1, len(asked) // min(REQUESTS, affordable))
    requests = asked.part(np.arange(0, len(asked), step))
    hides = filters_seen(settings.eval, data)
    shape = (len(requests), requests.count)
    found = {
        (weight, sharpness): np.zeros(shape, dtype=np.int64)
        for weight in weights
        for sharpness in tables
    }
    length = settings.model.seq_length
    for chosen, part, batch in request_batches(data, requests, length, device):
        batch = batch.to(device)
        scores = base.score(batch).float()
        for sharpness, table in tables.items():
            added = table.to(device)(batch)
            for weight in weights:
                rank = ranks_within(scores + weight * added, data, part, hides)
                found[weight, sharpness][chosen] = rank
    return {
        pair: float(per_user(rank, requests.users)[SELECTION_METRIC].mean())
        for pair, rank in found.items()
    }
