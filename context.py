"""What the enhanced model is told beside the films: when things happened, and who the person is.

Ways for the person to enter, `--user_context`:

    cross_attention   x_i + CrossAttention(query x_i, keys and values m_1..m_T)
    mean              x_i + mean_t m_t
    prefix            [mean_t m_t, x_1, .., x_L]: a position of its own before the history
    adaptive_norm     norm(x) -> (1 + A m) norm(x) + B m in every block, m = mean_t m_t (transformer.py, `Norm`)

Axes: B users, L positions, D width, T metadata tokens m, H heads.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import Batch
from data_processor import NO_TIME, Catalogue, calendar
from readers.interactions import AGE_GROUPS, GENDERS
from settings import ModelSettings
from transformer import Attend, CrossAttention, Dropout

BUCKET, GAP_BUCKETS = 0.301, 72  # floor(ln(1 + seconds) / 0.301): the last one starts at 60 years
NEVER = 2**31 - 1  # seconds, 68 years


def time_buckets(seconds: Tensor) -> Tensor:
    """0 to GAP_BUCKETS - 1 (int32) for times between events, on a logarithmic scale; negative ones count as 0."""
    return seconds.clamp_min(0).float().log1p_().mul_(1 / BUCKET).clamp_(max=GAP_BUCKETS - 1).int()


class TimeEncoder(nn.Module):
    """When an interaction happened: season, weekday and hour, time since the one before. Each part can be off."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.season = nn.Linear(4, width) if settings.day_of_year else None
        self.weekday = nn.Embedding(7, width) if settings.weekday_hour else None
        self.hour = nn.Embedding(24, width) if settings.weekday_hour else None
        self.gap = nn.Embedding(GAP_BUCKETS + 1, width) if settings.time_gap else None  # 0 = unknown

    def forward(self, moments: Tensor, previous: Tensor) -> Tensor:
        """(B, L) moments and those before them, in seconds, NO_TIME where unknown, to (B, L, D)."""
        known = moments != NO_TIME
        day, weekday, hour = calendar(moments)
        parts = []
        if self.season is not None:
            angle = 2 * torch.pi * day / 365.25
            waves = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()], dim=-1)
            parts.append(self.season(waves))
        if self.weekday is not None and self.hour is not None:
            parts.append(self.weekday(weekday) + self.hour(hour))
        total = sum(parts) * known[..., None].to(parts[0].dtype) if parts else 0.0
        if self.gap is not None:
            bucket = 1 + time_buckets(moments - previous)
            total = total + self.gap(bucket * (known & (previous != NO_TIME)))
        return total


class TimeBias(nn.Module):
    """One number a head for the time between two events, in logarithmic buckets, added where attention compares them.

    As relative positions in Raffel et al. (arXiv:1910.10683, section 2.1) with the buckets of HSTU's time bias (Zhai et
    al., arXiv:2402.17152, appendix D.1); all blocks share it.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(GAP_BUCKETS + 1, heads)  # 0 = a time is unknown

    def forward(self, timestamps: Tensor) -> Tensor:
        """(B, L) seconds to (B, H, L, L), in autocast's type where autocast is on."""
        known = timestamps != NO_TIME
        first = timestamps.where(known, NEVER).amin(1, keepdim=True)
        elapsed = (timestamps - first).clamp(0, NEVER).int()  # (B, L); what follows is of L x L and so in small numbers
        bucket = 1 + time_buckets((elapsed[:, :, None] - elapsed[:, None, :]).abs_())  # (B, L, L)
        bucket *= known[:, :, None] & known[:, None, :]
        return _LookUp.apply(self.table.weight, bucket)


class _LookUp(torch.autograd.Function):
    """table (K, H), bucket (B, L, L) -> (B, H, L, L). An embedding whose gradient is a histogram: K is small."""

    @staticmethod
    def forward(ctx, table: Tensor, bucket: Tensor) -> Tensor:
        device = table.device.type
        ctx.save_for_backward(bucket)
        ctx.rows = len(table)
        columns = table.T.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype)
        return torch.stack([column.index_select(0, bucket.flatten()).view(bucket.shape) for column in columns], dim=1)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        bucket = ctx.saved_tensors[0].flatten()
        return torch.stack([bucket.bincount(grad.flatten().float(), ctx.rows) for grad in grad_output.unbind(1)],
                           dim=1).float(), None


def in_front(first: Tensor, x: Tensor, attend: Attend) -> tuple[Tensor, Attend]:
    """x (B, L, D) with a position (B, 1, D) before it that is no interaction and stands at the first one's time, and
    what the blocks are told of the whole."""
    before = {"prefix": attend.prefix + 1}
    if attend.padding is not None:
        before["padding"] = F.pad(attend.padding, (1, 0), value=True)
    if attend.rotation is not None:
        before["rotation"] = tuple(torch.cat([angle[:, :, :1], angle], dim=2) for angle in attend.rotation)
    if attend.bias is not None:
        before["bias"] = F.pad(attend.bias, (1, 0, 1, 0))
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

    conditions = False  # whether the blocks' norms follow the person

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.ask = CrossAttention(settings.hidden_size, settings.num_heads)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, attend: Attend, tokens: Tensor) -> tuple[Tensor, Attend]:
        """x (B, L, D), tokens (B, T, D) to what the blocks read and are told."""
        return x + self.dropout(self.ask(x, tokens)), attend


class AddPerson(nn.Module):
    """The mean of the person's tokens is added at each position."""

    conditions = False

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, attend: Attend, tokens: Tensor) -> tuple[Tensor, Attend]:
        """As in `AskPerson`."""
        return x + self.dropout(tokens.mean(1, keepdim=True)), attend


class PrefixPerson(AddPerson):
    """The mean of the person's tokens is a position of its own, before the first interaction and at its time."""

    def forward(self, x: Tensor, attend: Attend, tokens: Tensor) -> tuple[Tensor, Attend]:
        """x (B, L, D) to (B, 1 + L, D)."""
        return in_front(self.dropout(tokens.mean(1, keepdim=True)), x, attend)


class ConditionOnPerson(AddPerson):
    """The norms of all blocks follow the mean of the person's tokens."""

    conditions = True

    def forward(self, x: Tensor, attend: Attend, tokens: Tensor) -> tuple[Tensor, Attend]:
        """As in `AskPerson`."""
        return x, dataclasses.replace(attend, condition=self.dropout(tokens.mean(1, keepdim=True)))


USER_CONTEXTS: dict[str, type[nn.Module]] = {
    "cross_attention": AskPerson, "mean": AddPerson, "prefix": PrefixPerson, "adaptive_norm": ConditionOnPerson}
