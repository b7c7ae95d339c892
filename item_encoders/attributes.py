"""Films by what is known of them: genres and release year. Axes: V films, F genres, S encoder size, D width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_processor import FIRST_ITEM, Catalogue
from item_encoders.encoder import ItemEncoder
from settings import ModelSettings

YEAR_CENTRES = 16
SIZE = 32  # S
NEAREST = 5  # known films in whose place a new one is put (ablations/LOG.md)


def nearest_films(new: Tensor, known: Tensor, counts: Tensor) -> Tensor:
    """Weights (n, V) of known films for new ones, rows summing to 1: of the NEAREST by cosine similarity of what the
    encoders say, and those as near as the last of them, by how often they are watched. new: (n, D), known: (V, D),
    counts: (V,) interactions; one more is counted."""
    similar = F.normalize(new, dim=1) @ F.normalize(known, dim=1).T  # (n, V)
    last = similar.topk(min(NEAREST, len(known)), dim=1).values[:, -1:]
    watched = (similar >= last - 1e-6) * (counts + 1)
    return watched / watched.sum(1, keepdim=True)


def like_genres(new: Tensor, known: Tensor) -> Tensor:
    """Weights (n, V) of known films for new ones, rows summing to 1: alike for those whose genres are nearest by cosine
    similarity. new: (n, F), known: (V, F) multi-hot. What is left where nothing but genres can place a film."""
    similar = F.normalize(new, dim=1) @ F.normalize(known, dim=1).T  # (n, V)
    nearest = (similar >= similar.amax(1, keepdim=True) - 1e-6).float()
    return nearest / nearest.sum(1, keepdim=True)


class GenreEncoder(ItemEncoder):
    """Mean of the vectors of a film's genres, projected."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        shares = torch.from_numpy(catalogue.genre_shares[FIRST_ITEM:])
        self.register_buffer("shares", shares, persistent=False)  # (V, F)
        self.embed = nn.Linear(shares.shape[1], SIZE, bias=False)
        self.project = nn.Linear(SIZE, settings.hidden_size)

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        return self.project(self.embed(self.shares[films]))  # (n, F) -> (n, S) -> (n, D)


class YearEncoder(ItemEncoder):
    """A film's age relative to the newest film of the catalogue, as smooth bumps on a logarithmic scale.

    Neighbouring years share their bumps, so a rare year borrows from those beside it; an unknown year has a bump of
    its own.
    """

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        years = torch.from_numpy(catalogue.years[FIRST_ITEM:])  # (V,), 0 = unknown
        # Kept in the state: a newer film that joins the catalogue later must not move the others.
        self.register_buffer("newest", years.max())
        self.register_buffer("years", years, persistent=False)
        self.embed = nn.Linear(YEAR_CENTRES + 1, SIZE, bias=False)
        self.project = nn.Linear(SIZE, settings.hidden_size)

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        years = self.years[films]
        known = (years > 0)[:, None]  # (n, 1)
        age = (self.newest - years).clamp_min(0).float().log1p()
        centres = torch.linspace(0, math.log1p(100), YEAR_CENTRES, device=years.device)
        bumps = torch.exp(-((age[:, None] - centres) / (centres[1] - centres[0])).square() / 2)  # (n, centres)
        bumps = torch.cat([bumps * known, ~known], dim=1)
        return self.project(self.embed(bumps))  # (n, centres + 1) -> (n, S) -> (n, D)
