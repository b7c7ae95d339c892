"""Items that can rank before the targets when transition counts are added to a model.

For each request these are its rivals and the DEPTH best of the items to which the counts add
nothing. A rival is an item to which they add something, and whose score or counts are not below
those of the target. So memory does not grow with the catalogue.

Axes: Q requests, T targets of a request, B requests of a batch, R rows of the item table, S sums
(each kind of counts with each decay), N rivals of all requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataset import Dataset
from evaluation.protocols import (
    Ranker,
    filters_seen,
    hide_seen,
    request_batches,
)
from settings import Settings
from splits import Requests
from transitions import Transitions

DEPTH = 10  # places that the metric of blending.py looks at
REQUESTS = 40_000  # at most, spread evenly
RIVALS = 1 << 24  # at most: bounds memory
SAMPLE = 200  # requests that tell how many rivals there are of one


@dataclass
class Rivals:
    """The scores that decide the ranks of the targets of some requests."""

    users: np.ndarray  # (Q,)
    targets: Tensor  # (Q, T) scores of the targets by the model alone
    target_sums: Tensor  # (S, Q, T) what each sum adds to them
    request: Tensor  # (N,) place of the request that the rival belongs to
    scores: Tensor  # (N,) by the model alone
    sums: Tensor  # (S, N) what each sum adds to them
    others: Tensor  # (Q, DEPTH) largest scores of the items to which no sum adds anything

    def sample(self, step: int) -> "Rivals":
        """The rivals of every `step`-th request."""
        kept = self.request % step == 0
        return Rivals(
            self.users[::step],
            self.targets[::step],
            self.target_sums[:, ::step],
            self.request[kept] // step,
            self.scores[kept],
            self.sums[:, kept],
            self.others[::step],
        )


def _can_pass(scores, sums, targets, target_sums):
    """(B, R) True where an item ranks before a target with some weights, none of them negative.

    scores (B, R), sums (S, B, R) of the items; targets (B, T), target_sums (S, B, T).
    """
    least = targets.min(dim=1, keepdim=True).values
    can = scores >= least
    # One sum at a time: all at once would need S (B, R) tensors more.
    for items, of_targets in zip(sums, target_sums, strict=True):
        can |= items > of_targets.min(dim=1, keepdim=True).values
    return can


class Collector:
    """Makes the `Rivals` of requests, with a sum for each kind of counts and each of its decays."""

    def __init__(
        self,
        transitions: Transitions,
        decays: Sequence[Sequence[float]],
        base: Ranker,
        data: Dataset,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.transitions = transitions
        self.sums = [
            (kind, decay)
            for kind, tried in enumerate(decays)
            for decay in tried
        ]
        self.base = base
        self.data, self.device = data, device
        self.length = settings.model.seq_length
        self.hides = filters_seen(settings.eval, data)

    def affordable(self, requests: Requests) -> Rivals:
        """The rivals of as many requests as REQUESTS and RIVALS allow."""
        sample = requests.spread(SAMPLE)
        each = len(self.of(sample).request) / len(sample)
        most = int(RIVALS / max(1.0, each))
        most = min(REQUESTS, max(SAMPLE, most))
        return self.of(requests.spread(most))

    @torch.no_grad()
    def of(self, requests: Requests) -> Rivals:
        """The rivals of all these requests."""
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
        return Rivals(
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
                for kind, decay in self.sums
            ]
        )  # (S, B, R)
        targets = torch.from_numpy(self.data.items[part.target_rows])
        targets = targets.to(scores.device)  # (B, T)
        of_targets = scores.gather(1, targets)
        target_sums = sums.gather(2, targets.expand(len(sums), -1, -1))
        # Targets are ranked among themselves later.
        scores.scatter_(1, targets, -torch.inf)
        counted = (sums != 0).any(0) & (scores > -torch.inf)
        others = scores.masked_fill(counted, -torch.inf)
        counted &= _can_pass(scores, sums, of_targets, target_sums)
        request, item = counted.nonzero(as_tuple=True)
        return Rivals(
            part.users,
            of_targets,
            target_sums,
            request,
            scores[request, item],
            sums[:, request, item],
            others.topk(min(DEPTH, others.shape[1])).values,
        )
