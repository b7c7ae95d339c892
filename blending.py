"""Weights and decays of the transition counts (transitions.py), tuned on the validation items.

Every pair (weight, decay) of a grid is tried for one kind of counts after the other, while the
pairs of the other kinds stay. The pair with the best NDCG@10 is taken, of equal ones the first.
This goes on until nothing changes, with FEW of the requests, from each of the STARTS. From each
end it goes on with all requests, and with weights at most NEAR steps away. If no counts at all
rank as well as the best of these, all weights are 0. Without validation items the pair is WITHOUT.

Only what can stand before a target is held: of each request the items that counts say something
about, and the DEPTH best of the others. So memory does not grow with the catalogue.

Axes: Q requests, T targets of a request, S sums (each kind of counts with each decay), N pairs of
a request and an item that counts say something about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset import Dataset
from evaluation.metrics import per_user
from evaluation.protocols import (
    CPU,
    Ranker,
    filters_seen,
    hide_seen,
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
STARTS = (0.0, 0.15, 0.6)  # weights of all kinds
ROUNDS = 4  # at most
FEW, NEAR = 1000, 2
DEPTH = 10  # places that SELECTION_METRIC looks at
REQUESTS = 40_000  # at most, spread evenly
PAIRS = 1 << 24  # at most: bounds memory
SAMPLE = 200  # requests that tell how many pairs there are of one
Pair = tuple[float, float]  # weight, decay
Pairs = Sequence[Pair]  # of all kinds


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
        rivals = _Collector(transitions, base, data, settings, device)
        for case, requests in enumerate(_by_case(transitions, data)):
            if len(requests):
                pairs = _chosen(rivals.affordable(requests), transitions.kinds)
                for kind, (weight, decay) in enumerate(pairs):
                    transitions.weight[case, kind] = weight
                    transitions.decay[case, kind] = decay
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


def _spread(requests, most):
    """At most so many of the requests, evenly."""
    step = max(1, math.ceil(len(requests) / most))
    return requests.part(np.arange(len(requests))[::step])


@dataclass
class _Rivals:
    """What decides the places of the targets of some requests."""

    users: np.ndarray  # (Q,)
    targets: Tensor  # (Q, T) scores of the targets by the model alone
    target_sums: Tensor  # (S, Q, T) what each sum adds to them
    request: Tensor  # (N,) of a pair
    scores: Tensor  # (N,) of its item by the model alone
    sums: Tensor  # (S, N) what each sum adds to it
    others: Tensor  # (Q, DEPTH) largest scores of the items to which no sum adds anything

    def every(self, step: int) -> "_Rivals":
        """Those of every so many-th request."""
        kept = self.request % step == 0
        return _Rivals(
            self.users[::step],
            self.targets[::step],
            self.target_sums[:, ::step],
            self.request[kept] // step,
            self.scores[kept],
            self.sums[:, kept],
            self.others[::step],
        )


class _Collector:
    """Makes the `_Rivals` of requests."""

    def __init__(
        self,
        transitions: Transitions,
        base: Ranker,
        data: Dataset,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.transitions, self.base = transitions, base
        self.data, self.device = data, device
        self.length = settings.model.seq_length
        self.hides = filters_seen(settings.eval, data)

    def affordable(self, requests: Requests) -> _Rivals:
        """Of as many of the requests as REQUESTS and PAIRS allow."""
        sample = _spread(requests, SAMPLE)
        pairs = len(self.of(sample).request) / len(sample)
        most = int(PAIRS / max(1.0, pairs))
        return self.of(_spread(requests, min(REQUESTS, max(SAMPLE, most))))

    @torch.no_grad()
    def of(self, requests: Requests) -> _Rivals:
        """Of all the requests."""
        parts, order = [], []
        for chosen, part, batch in request_batches(
            self.data, requests, self.length, self.device
        ):
            parts.append(self._of_batch(part, batch.to(self.device)))
            order.append(chosen)
        first = np.cumsum([0, *(len(part.users) for part in parts)])
        request = [
            part.request + int(start)
            for part, start in zip(parts, first[:-1], strict=True)
        ]
        return _Rivals(
            requests.users[np.concatenate(order)],
            torch.cat([part.targets for part in parts]),
            torch.cat([part.target_sums for part in parts], dim=1),
            torch.cat(request),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.sums for part in parts], dim=1),
            torch.cat([part.others for part in parts]),
        )

    def _of_batch(self, part, batch):
        scores = self.base.score(batch).float()  # (B, R)
        if self.hides:
            hide_seen(scores, self.data, part)
        sums = torch.stack(
            [
                self.transitions.of_kind(batch, kind, decay)
                for kind in range(self.transitions.kinds)
                for decay in DECAYS
            ]
        )  # (S, B, R)
        targets = torch.from_numpy(self.data.items[part.target_rows])
        targets = targets.to(scores.device)  # (B, T)
        of_targets = scores.gather(1, targets)
        target_sums = sums.gather(2, targets.expand(len(sums), -1, -1))
        # Targets are ranked among themselves later.
        scores.scatter_(1, targets, -torch.inf)
        counted = (sums != 0).any(0) & (scores > -torch.inf)
        request, item = counted.nonzero(as_tuple=True)
        others = scores.masked_fill(counted, -torch.inf)
        return _Rivals(
            part.users,
            of_targets,
            target_sums,
            request,
            scores[request, item],
            sums[:, request, item],
            others.topk(min(DEPTH, others.shape[1])).values,
        )


def _chosen(rivals, kinds):
    """The best pair of each kind found."""
    step = max(1, len(rivals.users) // FEW)
    some, every = _Trial(rivals.every(step), kinds), _Trial(rivals, kinds)
    ends = [
        some.climb([(weight, DECAYS[-1])] * kinds, len(WEIGHTS))
        for weight in STARTS
    ]
    nothing = ((0.0, DECAYS[-1]),) * kinds
    found = {nothing: every.quality(nothing)}
    for pairs in dict.fromkeys(ends):
        end = every.climb(pairs, NEAR)
        found[end] = every.quality(end)
    # Of equal ones the first.
    return max(found, key=found.__getitem__)


class _Trial:
    """Searches the pairs of all kinds for some requests."""

    def __init__(self, rivals: _Rivals, kinds: int) -> None:
        self.rivals, self.kinds = rivals, kinds

    def climb(self, pairs: Pairs, near: int) -> Pairs:
        """Change one kind's pair at a time, until no change is better.

        near: how many steps of WEIGHTS a weight may change at once.
        """
        pairs = list(pairs)
        for _ in range(ROUNDS):
            before = list(pairs)
            for kind, (weight, _) in enumerate(before):
                place = WEIGHTS.index(weight)
                weights = WEIGHTS[max(0, place - near) : place + near + 1]
                found = self.qualities(kind, pairs, weights)
                pairs[kind] = max(found, key=found.__getitem__)
            if pairs == before:
                break
        return tuple(pairs)

    def quality(self, pairs: Pairs) -> float:
        """NDCG@10 with a pair for each kind."""
        scores, targets = self._without(None, pairs)
        return self._ndcg(scores, targets)

    def qualities(
        self, kind: int, pairs: Pairs, weights: Sequence[float] = WEIGHTS
    ) -> dict[Pair, float]:
        """Pair -> NDCG@10 with it for one kind, and with the pairs of the others."""
        scores, targets = self._without(kind, pairs)
        found = {}
        for weight in weights:
            for decay in DECAYS:
                place = self._place(kind, decay)
                found[weight, decay] = self._ndcg(
                    scores + weight * self.rivals.sums[place],
                    targets + weight * self.rivals.target_sums[place],
                )
        return found

    def _without(self, kind, pairs):
        """Scores (N,) and targets (Q, T) with the pairs of all kinds but one."""
        scores, targets = self.rivals.scores, self.rivals.targets
        for other, (weight, decay) in enumerate(pairs):
            if other != kind and weight:
                place = self._place(other, decay)
                scores = scores + weight * self.rivals.sums[place]
                targets = targets + weight * self.rivals.target_sums[place]
        return scores, targets

    def _place(self, kind, decay):
        """Of a sum among the S."""
        return kind * len(DECAYS) + DECAYS.index(decay)

    def _ndcg(self, scores, targets):
        """NDCG@10 of scores of the pairs (N,) and of the targets (Q, T)."""
        rivals = self.rivals
        before = (rivals.others[:, None] >= targets[..., None]).sum(
            2
        )  # (Q, T)
        for place, own in enumerate(targets.T):
            better = rivals.request[scores >= own[rivals.request]]
            before[:, place] += better.bincount(minlength=len(targets))
        order = targets.argsort(dim=1, descending=True, stable=True)
        rank = before + order.argsort(1) + 1
        rank = rank.sort(1).values.cpu().numpy()
        metrics = per_user(rank, rivals.users)
        return float(metrics[SELECTION_METRIC].mean())
