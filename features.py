"""An encoder for each kind of column, and encoders of items, users, interactions and times.

    category   a vector per value, row 0 for unknown
    tags       mean of the tags' vectors, row 0 where there is none
    number     Gaussian bumps centred on quantiles of the known values, one more for unknown:
               b_k(x) = exp(-(p(x) - k)^2 / 2), p the piecewise linear map from quantile to place
    text       fixed vectors (text_vectors.py), projected
    vector     projected, with a learned vector if it is missing

Axes: n rows, V items, B sequences, L positions, D width, T metadata tokens, M tags.
"""

from collections.abc import Iterator, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset import NO_TIME, Table
from fields import Field
from settings import ModelSettings
from support.arguments import names_of
from support.errors import UserError
from text_vectors import SIZE, text_vectors
from transformer import EVERY

CENTRES = 16  # bumps of a number
# floor(ln(1 + seconds) / 0.301): the last one starts at 60 years
BUCKET, GAP_BUCKETS = 0.301, 72
DAYS = np.arange("1970-01-01", "2300-01-01", dtype="datetime64[D]")
DAY_OF_YEAR = torch.from_numpy(
    (DAYS - DAYS.astype("datetime64[Y]")).astype(int)
)
# Different tags up to which a product is faster than looking them up.
MOST_SHARES = 512


class ByColumn(nn.ModuleDict):
    """Modules by column. Each key gets a prefix, because torch refuses names that a module already
    has, such as 'type'."""

    def __setitem__(self, name: str, module: nn.Module) -> None:
        super().__setitem__(f"of_{name}", module)

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(f"of_{name}")

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix("of_") for key in self._modules)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Pairs of column and module."""
        return zip(self, self._modules.values(), strict=True)


class CategoryEncoder(nn.Module):
    """A vector per value."""

    def __init__(self, entry: Field, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(len(entry.values) + 1, width)

    def forward(self, codes: Tensor) -> Tensor:
        """(...,) codes to (..., D)."""
        # Unlike by an index, gradients are added in a fixed order.
        return self.table(codes)


class TagsEncoder(CategoryEncoder):
    """Mean of the vectors of the tags."""

    def forward(self, tags: Tensor) -> Tensor:
        """(n, M) codes, padded with 0, or their `tag_shares`, to (n, D)."""
        if tags.is_floating_point():
            return tags @ self.table.weight
        vectors = self.table(tags)  # (n, M, D)
        return (vectors * _tag_weights(tags)[..., None]).sum(1)


def _tag_weights(codes: Tensor) -> Tensor:
    """(n, M) equal shares of the tags; without tags, 1 for the first place, which is 'unknown'."""
    counted = codes > 0
    counted[:, 0] |= ~counted.any(1)
    return counted / counted.sum(1, keepdim=True)


def tag_shares(codes: Tensor, values: int) -> Tensor:
    """(n, values + 1) of codes (n, M): the mean of their vectors as one product."""
    shares = torch.zeros(codes.shape[0], values + 1, device=codes.device)
    return shares.scatter_add_(1, codes, _tag_weights(codes))


def without_tags(tags: Tensor, codes: set[int]) -> Tensor:
    """Codes (n, M) or `tag_shares` (n, values + 1) without some tags."""
    if not tags.is_floating_point():
        left_out = torch.isin(
            tags, torch.tensor(sorted(codes), device=tags.device)
        )
        return tags.masked_fill(left_out, 0)
    left = tags.clone()
    left[:, sorted(codes)] = 0.0
    left[left.sum(1) == 0, 0] = 1.0  # 'unknown'
    return left / left.sum(1, keepdim=True)


def _codes_in(families, column):
    """The codes of the values of a column that are left out, as in 'items.colour=3'."""
    begins = f"{column}="
    return {
        int(family.removeprefix(begins))
        for family in families
        if family.startswith(begins)
    }


class NumberEncoder(nn.Module):
    """Gaussian bumps at quantiles of the known values.

    Neighbouring values share their bumps, so a rare value borrows from those beside it.
    """

    def __init__(self, entry: Field, width: int) -> None:
        super().__init__()
        knots = torch.tensor(entry.knots, dtype=torch.float32)
        self.log = entry.column.log
        self.register_buffer("knots", knots)
        self.register_buffer(
            "places", torch.linspace(0, CENTRES - 1, len(knots))
        )
        self.project = nn.Linear(CENTRES + 1, width)

    def forward(self, values: Tensor) -> Tensor:
        """(...,) numbers, NaN where unknown, to (..., D)."""
        known = ~values.isnan()[..., None]
        numbers = values.nan_to_num(0.0)
        if self.log:
            numbers = numbers.clamp_min(0).log1p()
        centres = torch.arange(CENTRES, device=values.device)
        distance = self._place(numbers)[..., None] - centres  # (..., centres)
        bumps = torch.exp(-distance.square() / 2) * known
        return self.project(torch.cat([bumps, ~known], dim=-1))

    def _place(self, numbers: Tensor) -> Tensor:
        """Where numbers lie among the knots, from 0 to CENTRES - 1, linear in between."""
        if len(self.knots) == 1:
            return torch.zeros_like(numbers)
        # Not torch.searchsorted, which ONNX lacks; there are few knots.
        below = (self.knots < numbers[..., None]).sum(-1)
        right = below.clamp(1, len(self.knots) - 1)
        left = right - 1
        share = (numbers - self.knots[left]) / (
            self.knots[right] - self.knots[left]
        )
        return self.places[left] + share.clamp(0, 1) * (
            self.places[right] - self.places[left]
        )


class VectorEncoder(nn.Module):
    """A projected vector."""

    def __init__(self, entry: Field, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(entry.size, width)
        self.unknown = nn.Embedding(1, width)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, E), NaN where unknown, to (n, D)."""
        missing = vectors.isnan().any(1, keepdim=True)
        known = self.project(vectors.nan_to_num(0.0))
        return torch.where(missing, self.unknown.weight, known)


class TextEncoder(nn.Module):
    """Fixed vectors of texts, projected. The checkpoint contains them, so inference needs no
    texts."""

    def __init__(
        self, count: int, kind: str, _entry: Field, width: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer(
            "vectors", torch.zeros(count, SIZE, dtype=torch.float16)
        )
        self.project = nn.Linear(SIZE, width)

    def forward(self, items: Tensor | slice) -> Tensor:
        """(n, D) of some items."""
        vectors = self.vectors[items]
        return self.project(vectors.to(self.project.weight.dtype))


KINDS = {
    "category": CategoryEncoder,
    "tags": TagsEncoder,
    "number": NumberEncoder,
    "vector": VectorEncoder,
}


class Columns(nn.Module):
    """Columns of interactions or of users: an encoder for each column that a setting names (all,
    none, or some), and a vector for each of `users` rows of users (0: none)."""

    def __init__(
        self,
        flag: str,
        settings: ModelSettings,
        fields: Mapping[str, Field],
        users: int = 0,
        text: Any = None,
    ) -> None:
        """text: builds the encoder of a text column; without it texts are not read. Raises
        `UserError` for an unknown column."""
        super().__init__()
        width, wanted = settings.hidden_size, getattr(settings, flag)
        self.ids = nn.Embedding(users, width) if users else None
        self.encoders = ByColumn()
        names = fields if wanted == "all" else names_of(wanted)
        for name in names:
            if name not in fields:
                raise UserError(
                    f"--{flag} {name!r} is none of this data set's columns: "
                    f"{', '.join(fields) or 'there are none'}"
                )
            build = KINDS.get(fields[name].column.kind, text)
            if build is None and wanted != "all":
                raise UserError(
                    f"--{flag} {name!r} is a text, which is read with --text_encoder ngrams or "
                    f"sentence, as a column of items"
                )
            if build is not None:
                self.encoders[name] = build(fields[name], width)

    def forward(
        self, columns: Mapping[str, Tensor], users: Tensor | None = None
    ) -> list[Tensor]:
        """(..., D) of the user, if there are vectors of users, and of each column."""
        found = [] if self.ids is None else [self.ids(users)]
        for name, encoder in self.encoders.items():
            found.append(encoder(columns[name]))
        return found


class ItemColumns(Columns):
    """Encoders of the columns of the items. The values are kept here; none is in the checkpoint."""

    def __init__(self, items: Table, settings: ModelSettings) -> None:
        text = None
        if settings.text_encoder != "none":
            text = partial(TextEncoder, len(items.ids), settings.text_encoder)
        super().__init__("item_features", settings, items.fields, text=text)
        read = settings.item_ids or settings.graph or len(self.encoders)
        if not read:
            raise UserError(
                "--no_item_ids: no column of the items is read, so all would be alike"
            )
        for name in self.encoders:
            values = items.data[name][items.first :]
            if values.dtype != object:
                values = torch.from_numpy(values)
                number = len(items.fields[name].values)
                if (
                    items.fields[name].column.kind == "tags"
                    and number < MOST_SHARES
                ):
                    values = tag_shares(values, number)
                self.register_buffer(
                    f"values_{name}", values, persistent=False
                )

    def prepare(self, items: Table, rows: np.ndarray) -> None:
        """Read the texts of some items, once."""
        for name, encoder in self.encoders.items():
            if isinstance(encoder, TextEncoder) and len(rows):
                texts = items.data[name][items.first + rows].tolist()
                vectors = torch.from_numpy(text_vectors(texts, encoder.kind))
                encoder.vectors[rows] = vectors.to(encoder.vectors.dtype)

    def forward(
        self,
        without: Set[str] = frozenset(),
        items: Tensor | slice = EVERY,
    ) -> list[Tensor]:
        """(V, D) of each column but those of the families left out, as in 'items.colour'; without a
        tag if 'items.tags=CODE' is left out. items: the places of some, instead of all."""
        found = []
        for name, encoder in self.encoders.items():
            if f"items.{name}" in without:
                continue
            if isinstance(encoder, TextEncoder):
                found.append(encoder(items))
            else:
                values = getattr(self, f"values_{name}")[items]
                codes = _codes_in(without, f"items.{name}")
                if codes:
                    values = without_tags(values, codes)
                found.append(encoder(values))
        return found


class TimeEncoder(nn.Module):
    """The time of an interaction: season, and time since the one before. Each can be off."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, parts = settings.hidden_size, settings.time_parts
        self.season = nn.Linear(4, width) if "season" in parts else None
        self.register_buffer("days", DAY_OF_YEAR, persistent=False)
        # 0 = unknown
        self.gap = (
            nn.Embedding(GAP_BUCKETS + 1, width) if "gap" in parts else None
        )

    def forward(self, moments: Tensor, previous: Tensor) -> Tensor:
        """(B, L) times and those before them, in seconds, NO_TIME if unknown, to (B, L, D)."""
        known = moments != NO_TIME
        total = 0.0
        if self.season is not None:
            # div(rounding_mode="floor") would pass through fp32 in an exported model
            day = (moments // 86_400).clamp(0, len(self.days) - 1)
            angle = 2 * torch.pi * self.days[day] / 365.25
            waves = [
                angle.sin(),
                angle.cos(),
                (2 * angle).sin(),
                (2 * angle).cos(),
            ]
            season = self.season(torch.stack(waves, dim=-1))
            total = season * known[..., None].to(season.dtype)
        if self.gap is not None:
            # On a logarithmic scale; below 0 as 0.
            gap = (moments - previous).clamp_min(0).float().log1p_()
            bucket = gap.mul_(1 / BUCKET).clamp_(max=GAP_BUCKETS - 1).int() + 1
            total = total + self.gap(bucket * (known & (previous != NO_TIME)))
        return total
