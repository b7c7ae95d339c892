"""One free vector a film: what collaborative filtering learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data_processor import Catalogue
from item_encoders.encoder import ItemEncoder
from settings import ModelSettings


class IdEncoder(ItemEncoder):
    """V films to V vectors of width D."""

    by_experience = True

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        self.table = nn.Embedding(len(catalogue.movie_ids), settings.hidden_size)

    def take_over(self, older: IdEncoder, place: Tensor, larger: Catalogue) -> None:
        """As in `ItemEncoder`; a new film's vector is 0 until others give it one."""
        with torch.no_grad():
            self.table.weight.zero_()[place] = older.table.weight

    @torch.no_grad()
    def stand_in(self, fresh: Tensor, known: Tensor, weights: Tensor) -> None:
        """As in `ItemEncoder`."""
        self.table.weight[fresh] = weights @ self.table.weight[known]

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        return self.table(films)  # (n, D)
