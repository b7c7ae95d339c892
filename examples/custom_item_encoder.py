"""Another encoder of films in the place of a shipped one: decades instead of years.

`python -m examples.custom_item_encoder`. An encoder turns positions in the catalogue into vectors; whatever is
registered in ITEM_ENCODERS is built, trained and saved like the others, and explained under the name it takes over.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

import enhanced_model
from data_processor import FIRST_ITEM, Catalogue
from examples import train_and_recommend
from item_encoders.encoder import ItemEncoder
from settings import ModelSettings
from support.errors import run_command


class DecadeEncoder(ItemEncoder):
    """One vector a decade, 0 = not known."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        years = torch.from_numpy(catalogue.years[FIRST_ITEM:])  # (V,)
        self.register_buffer("decades", ((years - 1890) // 10).clamp(0, 19), persistent=False)
        self.table = nn.Embedding(20, settings.hidden_size)

    def forward(self, films: Tensor) -> Tensor:
        """(n,) to (n, D)."""
        return self.table(self.decades[films])


def main(**changes: Any) -> None:
    """changes: settings by name, as in settings.py."""
    shipped = enhanced_model.ITEM_ENCODERS["year"]
    enhanced_model.ITEM_ENCODERS["year"] = ("year_encoder", DecadeEncoder)
    try:
        train_and_recommend.main(**{"folder": "checkpoints/decades", **changes})
    finally:
        enhanced_model.ITEM_ENCODERS["year"] = shipped


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
