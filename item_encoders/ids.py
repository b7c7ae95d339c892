"""One free vector a film: what collaborative filtering learns."""

from __future__ import annotations

from torch import Tensor, nn


class IdEncoder(nn.Module):
    """V films to V vectors of width D."""

    def __init__(self, num_films: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_films, width)

    def forward(self, films: Tensor) -> Tensor:
        """(n,) positions in the catalogue to (n, D)."""
        return self.table(films)  # (n, D)
