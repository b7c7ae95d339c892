"""How what is known of a film becomes one vector, `--fusion`. Axes: V films, K parts (item_encoders/), D width.

    sum               e = sum_k e_k
    concat            e = W [e_1; ..; e_K]
    gate              e = K sum_k a_k e_k,  a = softmax_k(w . tanh(A e_k))
    cross_attention   e = e_id + CrossAttention(query e_id, keys and values: the other parts)
    query_key         e = e_id; the other parts, ratings, times and positions are seen by the queries and keys of
                      attention alone, the person by its values too (after NOVA, Liu et al., AAAI 2021,
                      arXiv:2103.03578, and DIF-SR, Xie et al., SIGIR 2022, arXiv:2204.11046; here one sum steers all
                      heads and blocks)

A part that is left out, for an explanation, is absent from sums, and from what is weighed or asked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from settings import ModelSettings
from transformer import CrossAttention

Parts = dict[str, Tensor]  # name of an encoder -> (V, D), never empty


class Sum(nn.Module):
    """All parts alike."""

    steers = False  # whether the parts but the id are for the queries and keys of attention, and not of the vector

    def __init__(self, names: list[str], settings: ModelSettings) -> None:
        super().__init__()

    def forward(self, parts: Parts) -> Tensor:
        """(V, D)."""
        return sum(parts.values())


class Concat(Sum):
    """One linear map of all parts side by side."""

    def __init__(self, names: list[str], settings: ModelSettings) -> None:
        super().__init__(names, settings)
        self.maps = nn.ModuleDict({name: nn.Linear(settings.hidden_size, settings.hidden_size, bias=False)
                                   for name in names})

    def forward(self, parts: Parts) -> Tensor:
        """(V, D)."""
        return sum(self.maps[name](part) for name, part in parts.items())


class Gate(Sum):
    """A weight for each part of each film."""

    def __init__(self, names: list[str], settings: ModelSettings) -> None:
        super().__init__(names, settings)
        self.hidden = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.out = nn.Linear(settings.hidden_size, 1, bias=False)

    def forward(self, parts: Parts) -> Tensor:
        """(V, D)."""
        stacked = torch.stack(list(parts.values()), dim=1)  # (V, K, D)
        weights = self.out(self.hidden(stacked).tanh()).softmax(1)  # (V, K, 1)
        return len(parts) * (weights * stacked).sum(1)


class Ask(Sum):
    """The film's own vector asks the other parts."""

    def __init__(self, names: list[str], settings: ModelSettings) -> None:
        super().__init__(names, settings)
        self.ask = CrossAttention(settings.hidden_size, settings.num_heads)

    def forward(self, parts: Parts) -> Tensor:
        """(V, D)."""
        others = [part for name, part in parts.items() if name != "id"]
        if not others:
            return parts["id"]
        own = parts["id"] if "id" in parts else torch.zeros_like(others[0])
        return own + self.ask(own[:, None], torch.stack(others, dim=1))[:, 0]


class IdAlone(Sum):
    """The other parts steer attention instead."""

    steers = True

    def forward(self, parts: Parts) -> Tensor:
        """(V, D)."""
        return parts["id"]


FUSIONS: dict[str, type[Sum]] = {
    "sum": Sum, "concat": Concat, "gate": Gate, "cross_attention": Ask, "query_key": IdAlone}
