"""Weights and decays of the transition counts (transitions.py), tuned on the validation items.

A coordinate search of ROUNDS passes. For each case and kind it takes the pair (weight, decay) with
the best NDCG@10 while those of the other kinds stay; of equal ones the first. If no counts at all
rank as well, all weights are 0. A case uses at most REQUESTS requests, spread evenly, and fewer
where there are very many items. Without validation items the pair is WITHOUT.
"""

import math

import numpy as np
import torch
from torch import Tensor

from batches import Batch
from dataset import Dataset
from evaluation.metrics import per_user
from evaluation.protocols import (
    CPU,
    Ranker,
    filters_seen,
    ranks_within,
    request_batches,
)
from evaluation.slices import same_time
from pair_counts import pair_values
from settings import Settings
from splits import Requests
from training_state import SELECTION_METRIC
from transitions import Transitions

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
WEIGHTS += (0.8, 1.2, 2.0, 3.0, 5.0, 8.0)
DECAYS = (0.4, 0.7)
WITHOUT = 0.15, 0.7  # weight, decay
CHOSEN = ("weight", "decay")
ROUNDS = 2
PATIENCE = 2  # weights that may be worse than the best before no larger one is tried
REQUESTS, FEWEST = 10_000, 200
MOST_SCORES = 1 << 26  # of some requests, held a few times: bounds memory


@torch.no_grad()
def weigh(
    transitions: Transitions,
    base: Ranker,
    data: Dataset,
    settings: Settings,
    device: torch.device = CPU,
) -> dict[str, list[list[float]]]:
    """Count, and set the weights and decays, which are returned: each (cases, kinds).

    base: what they are added to, which ranks without them.
    """
    transitions.hold(pair_values(data, transitions.kinds))
    weight, decay = WITHOUT
    transitions.weight.fill_(weight)
    transitions.decay.fill_(decay)
    if "validation" in data.split.requests:
        for case, requests in enumerate(_by_case(transitions, data)):
            if len(requests):
                trial = _Trial(
                    transitions, base, data, settings, requests, device
                )
                trial.choose(case)
    return {name: getattr(transitions, name).tolist() for name in CHOSEN}


def _by_case(transitions, data):
    """The validation requests of each case, some of many."""
    asked = data.split.requests["validation"]
    affordable = MOST_SCORES // len(data.catalogue.items)
    most = min(REQUESTS, max(FEWEST, affordable))
    case = np.zeros(len(asked), dtype=int)
    if transitions.cases > 1:
        case += same_time(data, "validation")
    for number in range(transitions.cases):
        chosen = np.flatnonzero(case == number)
        step = max(1, math.ceil(len(chosen) / most))
        yield asked.part(chosen[::step])


class _Trial:
    """The requests of a case, their scores by the model alone, and what is added to them."""

    def __init__(
        self,
        transitions: Transitions,
        base: Ranker,
        data: Dataset,
        settings: Settings,
        requests: Requests,
        device: torch.device,
    ) -> None:
        self.transitions = transitions
        self.data, self.requests = data, requests
        self.hides = filters_seen(settings.eval, data)
        self.sums: dict[tuple[int, float], list[Tensor]] = {}
        self.groups: list[tuple[np.ndarray, Requests, Batch, Tensor]] = []
        length = settings.model.seq_length
        for chosen, part, batch in request_batches(
            data, requests, length, device
        ):
            batch = batch.to(device)
            scores = base.score(batch).float()
            self.groups.append((chosen, part, batch, scores))

    def choose(self, case: int) -> None:
        """Set the weights and decays of a case, one kind after the other."""
        alone = [scores for _, _, _, scores in self.groups]
        nothing = self._quality(alone, self._sums(0, DECAYS[0]), 0.0)
        chosen = [WITHOUT] * self.transitions.kinds
        best = -1.0
        for kind in [*range(len(chosen))] * ROUNDS:
            without = self._without(kind, chosen)
            found = {}
            for decay in DECAYS:
                sums = self._sums(kind, decay)
                for weight, quality in self._qualities(without, sums):
                    found[weight, decay] = quality
            # Of equal ones the first: the smallest weight.
            chosen[kind] = max(found, key=found.__getitem__)
            best = found[chosen[kind]]
        if nothing >= best:
            chosen = [(0.0, WITHOUT[1])] * len(chosen)
        for kind, (weight, decay) in enumerate(chosen):
            self.transitions.weight[case, kind] = weight
            self.transitions.decay[case, kind] = decay

    def _without(self, kind, chosen):
        """The scores of each group by the model and by all kinds but one, as chosen so far."""
        scores = [alone for _, _, _, alone in self.groups]
        for other, (weight, decay) in enumerate(chosen):
            if other != kind:
                added = zip(scores, self._sums(other, decay), strict=True)
                scores = [before + weight * sums for before, sums in added]
        return scores

    def _sums(self, kind, decay):
        """What a kind with the weight 1 adds to the scores of each group, computed once."""
        if (kind, decay) not in self.sums:
            self.sums[kind, decay] = [
                self.transitions.of_kind(batch, kind, decay)
                for _, _, batch, _ in self.groups
            ]
        return self.sums[kind, decay]

    def _qualities(self, without, sums):
        """(weight, NDCG@10) of what a kind adds, in rising order, until PATIENCE weights in a row
        are worse than the best. Where few requests are asked, small weights often change no rank;
        that is not worse."""
        best, worse = -1.0, 0
        for weight in WEIGHTS:
            quality = self._quality(without, sums, weight)
            yield weight, quality
            worse = worse + 1 if quality < best else 0
            best = max(best, quality)
            if worse == PATIENCE:
                return

    def _quality(self, without, sums, weight):
        """NDCG@10 of all requests."""
        shape = len(self.requests), self.requests.count
        rank = np.zeros(shape, dtype=np.int64)
        for group, before, added in zip(
            self.groups, without, sums, strict=True
        ):
            chosen, part, _, _ = group
            scores = before + weight * added
            rank[chosen] = ranks_within(scores, self.data, part, self.hides)
        metrics = per_user(rank, self.requests.users)
        return float(metrics[SELECTION_METRIC].mean())
