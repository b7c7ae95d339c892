"""What the enhanced model is told beside the films: when things happened, and who the person is.

    x_i + CrossAttention(query x_i, keys and values m_1..m_T)      the person's metadata tokens

Axes: B users, L positions, D width, T metadata tokens m, H heads.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch
from data_processor import NO_TIME, Catalogue, day_of_year
from readers.interactions import AGE_GROUPS, GENDERS
from settings import ModelSettings
from transformer import Attend, CrossAttention, Dropout

BUCKET, GAP_BUCKETS = 0.301, 72  # floor(ln(1 + seconds) / 0.301): the last one starts at 60 years


def time_buckets(seconds: Tensor) -> Tensor:
    """0 to GAP_BUCKETS - 1 (int32) for times between events, on a logarithmic scale; negative ones count as 0."""
    return seconds.clamp_min(0).float().log1p_().mul_(1 / BUCKET).clamp_(max=GAP_BUCKETS - 1).int()


class TimeEncoder(nn.Module):
    """When an interaction happened: season, time since the one before. Each part can be off."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.season = nn.Linear(4, width) if settings.day_of_year else None
        self.gap = nn.Embedding(GAP_BUCKETS + 1, width) if settings.time_gap else None  # 0 = unknown

    def forward(self, moments: Tensor, previous: Tensor) -> Tensor:
        """(B, L) moments and those before them, in seconds, NO_TIME where unknown, to (B, L, D)."""
        known = moments != NO_TIME
        total = 0.0
        if self.season is not None:
            angle = 2 * torch.pi * day_of_year(moments) / 365.25
            waves = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=-1)
            season = self.season(waves)
            total = season * known[..., None].to(season.dtype)
        if self.gap is not None:
            bucket = 1 + time_buckets(moments - previous)
            total = total + self.gap(bucket * (known & (previous != NO_TIME)))
        return total


def in_front(first: Tensor, x: Tensor, attend: Attend) -> tuple[Tensor, Attend]:
    """x (B, L, D) with a position (B, 1, D) before it that is no interaction and stands at the first one's time, and
    what the blocks are told of the whole."""
    before = {"prefix": attend.prefix + 1}
    if attend.padding is not None:
        before["padding"] = F.pad(attend.padding, (1, 0), value=True)
    if attend.rotation is not None:
        before["rotation"] = tuple(torch.cat([angle[:, :, :1], angle], dim=2) for angle in attend.rotation)
    return torch.cat([first.to(x.dtype), x], dim=1), dataclasses.replace(attend, **before)


class MetadataTokens(nn.Module):
    """The person as several tokens, one a fact: id, gender, age group, occupation; index 0 = unknown."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        sizes = {"user_id": len(catalogue.user_ids), "gender": len(GENDERS), "age": len(AGE_GROUPS),
                 "occupation": len(catalogue.occupations)}
        self.tables = nn.ModuleDict({name: nn.Embedding(size + 1, settings.hidden_size)
                                     for name, size in sizes.items() if getattr(settings, name)})

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, D)."""
        index = {"user_id": batch.users, **dict(zip(("gender", "age", "occupation"), batch.demographics.T,
                                                    strict=True))}
        return torch.stack([table(index[name]) for name, table in self.tables.items()], dim=1)


class AskPerson(nn.Module):
    """Each position takes from the person's tokens what it asks for."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.ask = CrossAttention(settings.hidden_size, settings.num_heads)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (B, L, D), tokens (B, T, D) to (B, L, D)."""
        return x + self.dropout(self.ask(x, tokens))
