"""Weights and decays of the item-to-item scores (transitions.py), tuned on the validation items.

Coordinate ascent on NDCG@10. The choice of a kind is a pair (weight, decay); the last kind has a
weight alone.

1. From each of STARTS (one weight for all kinds), on about FEW requests: each kind in turn takes
   the best pair of the grid while the other kinds stay, for ROUNDS rounds or until nothing changes.
2. From each result, on all requests: the same, with weights at most NEAR grid steps away.
3. The best result is taken; all weights are 0 if that is as good.

Without validation items all weights are WITHOUT. Axes as in rivals.py.
"""

from collections.abc import Sequence

import numpy as np
import torch

from dataset import Dataset
from evaluation.metrics import METRIC, METRIC_CUTOFFS, per_user
from evaluation.protocols import CPU, Ranker
from evaluation.slices import same_time
from rivals import Collector, Rivals
from settings import Settings
from transitions import Transitions, pair_values

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
WEIGHTS += (0.8, 1.2, 2.0, 3.0, 5.0, 8.0)
DECAYS = (0.7, 0.4)
WITHOUT = 0.15  # with the first decay
STARTS = (0.0, 0.15, 0.6)  # weights of all kinds
ROUNDS = 4  # at most
FEW, NEAR = 1000, 2
Choice = tuple[float, float]  # weight, decay
Choices = Sequence[Choice]  # of all kinds


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
    transitions.weight.fill_(WITHOUT)
    transitions.decay.fill_(DECAYS[0])
    if "validation" in data.split.requests:
        grid = decays_of(transitions.kinds)
        collector = Collector(transitions, grid, base, data, settings, device)
        for case, requests in enumerate(_by_case(transitions, data)):
            if len(requests):
                rivals = collector.affordable(requests)
                choices = _best(Search(rivals, grid))
                weights, decays = torch.tensor(choices).T
                transitions.weight[case] = weights
                transitions.decay[case] = decays[:-1]
    return {
        "weight": transitions.weight.tolist(),
        "decay": transitions.decay.tolist(),
    }


def _by_case(transitions, data):
    """The validation requests of each case."""
    asked = data.split.requests["validation"]
    case = np.zeros(len(asked), dtype=int)
    if transitions.cases > 1:
        case += same_time(data, "validation")
    for number in range(transitions.cases):
        yield asked.part(np.flatnonzero(case == number))


def decays_of(kinds: int) -> list[tuple[float, ...]]:
    """The decays to try for each kind. The last kind does not decay."""
    return [DECAYS] * (kinds - 1) + [(1.0,)]


def _best(full):
    """The best choice found for each kind, as a tuple. full: a Search with all requests."""
    few = full.with_few()
    ends = [few.climb(few.start(weight), len(WEIGHTS)) for weight in STARTS]
    nothing = full.start(0.0)
    found = {nothing: full.quality(nothing)}
    for choices in dict.fromkeys(ends):
        end = full.climb(choices, NEAR)
        found[end] = full.quality(end)
    # Of equal ones the first.
    return max(found, key=found.__getitem__)


class Search:
    """Searches the choices of all kinds for some requests."""

    def __init__(
        self, rivals: Rivals, decays: Sequence[tuple[float, ...]]
    ) -> None:
        self.rivals, self.decays = rivals, decays

    def with_few(self) -> "Search":
        """The same search with about FEW of the requests."""
        step = max(1, len(self.rivals.users) // FEW)
        return Search(self.rivals.sample(step), self.decays)

    def start(self, weight: float) -> Choices:
        """One weight for all kinds, each with its first decay."""
        return tuple((weight, first) for first, *_ in self.decays)

    def climb(self, choices: Choices, near: int) -> Choices:
        """Change one kind's choice at a time, until no change is better.

        near: how many steps of WEIGHTS a weight may change at once.
        """
        choices = list(choices)
        for _ in range(ROUNDS):
            before = list(choices)
            for kind, (weight, _) in enumerate(before):
                place = WEIGHTS.index(weight)
                weights = WEIGHTS[max(0, place - near) : place + near + 1]
                found = self.qualities(kind, choices, weights)
                choices[kind] = max(found, key=found.__getitem__)
            if choices == before:
                break
        return tuple(choices)

    def quality(self, choices: Choices) -> float:
        """NDCG@10 with a choice for each kind."""
        scores, targets = self._without(None, choices)
        return self._ndcg(scores, targets)

    def qualities(
        self, kind: int, choices: Choices, weights: Sequence[float] = WEIGHTS
    ) -> dict[Choice, float]:
        """Choice -> NDCG@10 with it for one kind, and with those of the others."""
        scores, targets = self._without(kind, choices)
        found = {}
        for weight in weights:
            for decay in self.decays[kind]:
                place = self._place(kind, decay)
                found[weight, decay] = self._ndcg(
                    scores + weight * self.rivals.sums[place],
                    targets + weight * self.rivals.target_sums[place],
                )
        return found

    def _without(self, kind, choices):
        """Scores (N,) and targets (Q, T) with the choices of all kinds but one."""
        scores, targets = self.rivals.scores, self.rivals.targets
        for other, (weight, decay) in enumerate(choices):
            if other != kind and weight:
                place = self._place(other, decay)
                scores = scores + weight * self.rivals.sums[place]
                targets = targets + weight * self.rivals.target_sums[place]
        return scores, targets

    def _place(self, kind, decay):
        """Index of a sum among the S."""
        first = sum(map(len, self.decays[:kind]))
        return first + self.decays[kind].index(decay)

    def _ndcg(self, scores, targets):
        """NDCG@10 from scores (N,) of the rivals and of the targets (Q, T)."""
        rivals = self.rivals
        others = rivals.others[:, None]  # (Q, 1, DEPTH)
        before = (others >= targets[..., None]).sum(2)  # (Q, T)
        for place, own in enumerate(targets.T):
            better = rivals.request[scores >= own[rivals.request]]
            before[:, place] += better.bincount(minlength=len(targets))
        order = targets.argsort(dim=1, descending=True, stable=True)
        rank = before + order.argsort(1) + 1
        rank = rank.sort(1).values.cpu().numpy()
        metrics = per_user(rank, rivals.users, METRIC_CUTOFFS)
        return float(metrics[METRIC].mean())
