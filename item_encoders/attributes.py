"""Films by what is known of them: genres and release year. Axes: V films, F genres, S encoder size, D width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

YEAR_CENTRES = 16


class GenreEncoder(nn.Module):
    """Mean of the vectors of a film's genres, projected."""

    def __init__(self, genres: Tensor, size: int, width: int) -> None:
        """genres: (V, F) multi-hot."""
        super().__init__()
        self.register_buffer("shares", genres / genres.sum(1, keepdim=True).clamp_min(1), persistent=False)  # (V, F)
        self.embed = nn.Linear(genres.shape[1], size, bias=False)
        self.project = nn.Linear(size, width)

    def forward(self, films: Tensor) -> Tensor:
        """(n,) positions in the catalogue to (n, D)."""
        return self.project(self.embed(self.shares[films]))  # (n, F) -> (n, S) -> (n, D)


class YearEncoder(nn.Module):
    """A film's age relative to the newest film of the catalogue, as smooth bumps on a logarithmic scale.

    Neighbouring years share their bumps, so a rare year borrows from those beside it; an unknown year has a bump of
    its own.
    """

    def __init__(self, years: Tensor, size: int, width: int) -> None:
        """years: (V,) release years, 0 = unknown."""
        super().__init__()
        known = years > 0
        age = torch.where(known, years.max() - years, 0).float().log1p()  # (V,)
        centres = torch.linspace(0, math.log1p(100), YEAR_CENTRES)
        bumps = torch.exp(-((age[:, None] - centres) / (centres[1] - centres[0])).square() / 2)  # (V, centres)
        bumps = torch.cat([bumps * known[:, None], ~known[:, None]], dim=1)
        self.register_buffer("bumps", bumps, persistent=False)
        self.embed = nn.Linear(YEAR_CENTRES + 1, size, bias=False)
        self.project = nn.Linear(size, width)

    def forward(self, films: Tensor) -> Tensor:
        """(n,) positions in the catalogue to (n, D)."""
        return self.project(self.embed(self.bumps[films]))  # (n, centres + 1) -> (n, S) -> (n, D)
