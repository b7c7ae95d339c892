"""The transformer blocks and attention patterns that every model here uses.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(D / H)) V   (Vaswani et al., arXiv:1706.03762, eq. 1)
    FFN(x) = GELU(x W1 + b1) W2 + b2                       (Sun et al., arXiv:1904.06690, eq. 4)

Axes: B sequences, L positions, D width, H heads, P pairs of numbers in a head (P = D / H / 2).
Sequences are padded on the right: under the causal pattern no real position can then see the
padding.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dataset import ITEM_ROWS
from settings import ModelSettings

EVERY = slice(None)

Pattern = Literal["bidirectional", "causal"]
# seconds: a minute to four years
SHORTEST_PERIOD, LONGEST_PERIOD = 60.0, 4 * 365.25 * 86_400.0


@dataclass(frozen=True)
class Attend:
    """The attention pattern of a batch, and the other inputs of the blocks."""

    pattern: Pattern
    # (B, 1, 1, L) True where a key may be seen; None when every key may
    padding: Tensor | None
    # (B, L, P) of `time_rotation`, each; None without times
    query_rotation: Tensor | None = None
    key_rotation: Tensor | None = None
    # leading positions that are no interactions; L counts them here
    prefix: int = 0


class Dropout(nn.Module):
    """Inverted dropout whose rate is rounded to 1/256.

    On a CPU the mask comes from raw random bytes, eight from each draw. That takes about a fifth
    of the time of `F.dropout`, which draws once for each number. It follows torch's seed like any
    other draw.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = max(1, round(rate * 256)) if rate else 0

    def forward(self, x: Tensor) -> Tensor:
        """x with a random share of its numbers set to 0 and the others scaled up, in training."""
        if not self.training or self.threshold == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.threshold / 256)
        words = math.ceil(x.numel() / 8)
        draws = torch.empty(words, dtype=torch.int64)
        draws = draws.random_(-(2**63), None).view(torch.uint8)
        draws = draws[: x.numel()].view(x.shape)
        # Compared as numbers of x's type (0 to 255 are exact in bf16): many times faster than by
        # way of booleans.
        kept = draws.to(x.dtype).ge_(self.threshold)
        return x * kept.mul_(256 / (256 - self.threshold))


class Block(nn.Module):
    """Multi-head attention, then a position-wise network, each with dropout, residual, layer
    norm.

    pre_norm: normalise each sub-layer's input (trains faster) instead of the sum after it
    (BERT4Rec as published). ffn_multiplier: inner width of the position-wise network in multiples
    of the width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        pre_norm: bool,
        ffn_multiplier: int = 4,
    ) -> None:
        super().__init__()
        self.heads, self.pre_norm = heads, pre_norm
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.expand = nn.Linear(width, ffn_multiplier * width)
        self.contract = nn.Linear(ffn_multiplier * width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.network_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, attend: Attend, last: Tensor | None = None
    ) -> Tensor:
        """(B, L, D) to (B, L, D).

        With `last` (B,), the newest real position of each sequence, to (B, 1, D): its state
        alone, at the cost of one position and of everybody's keys and values.
        """
        queries = x if last is None else pick(x, last)  # (B, L or 1, D)
        if self.pre_norm:
            # The residual path stays free of norms: gradients reach the table unchanged.
            mixed = self.attention(self.attention_norm(x), attend, last)
            queries = queries + self.dropout(mixed)
            changed = self.network(self.network_norm(queries))
            return queries + self.dropout(changed)
        mixed = self.attention(x, attend, last)
        queries = self.attention_norm(queries + self.dropout(mixed))
        changed = self.network(queries)
        return self.network_norm(queries + self.dropout(changed))

    def attention(
        self, x: Tensor, attend: Attend, last: Tensor | None
    ) -> Tensor:
        """Self-attention under a pattern."""
        if last is None:
            q, k, v = self._maps(x, 0, 3)
        else:
            # Right of the newest position is only padding: under either pattern it sees every
            # real one.
            attend = dataclasses.replace(attend, pattern="bidirectional")
            (q,) = self._maps(pick(x, last), 0, 1)
            k, v = self._maps(x, 1, 3)
        turn = attend.query_rotation
        if turn is not None:
            q = rotate(q, turn if last is None else pick(turn, last))
            # Keys keep the rotation of all positions when one query is asked.
            k = rotate(k, attend.key_rotation)
        mixed = attention(q, k, v, attend)
        return self.attention_out(rearrange(mixed, "b h l d -> b l (h d)"))

    def attention_map(self, x: Tensor, attend: Attend) -> Tensor:
        """(B, L, D) to the weights of the block's self-attention, (B, H, L, L), as `forward`
        uses.
        """
        # As the fused kernel, which does not give its weights away.
        x = self.attention_norm(x) if self.pre_norm else x
        q, k = self._maps(x, 0, 2)
        if attend.query_rotation is not None:
            q = rotate(q, attend.query_rotation)
            k = rotate(k, attend.key_rotation)
        return attention_weights(q, k, attend)

    def _maps(self, x: Tensor, first: int, end: int) -> list[Tensor]:
        """(B, L, D) to some of (queries, keys, values), each (B, H, L, D / H)."""
        # One matrix for all three, of which a part is multiplied.
        width = x.shape[-1]
        rows = slice(first * width, end * width)
        mapped = F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
        maps = mapped.chunk(end - first, dim=-1)
        return [_by_head(one, self.heads) for one in maps]

    def network(self, x: Tensor) -> Tensor:
        """Position-wise feed-forward network."""
        return self.contract(F.gelu(self.expand(x)))


def attention(q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
    """Equation 1 for q, k and v (B, H, L, D / H) under a pattern.

    torch's fused kernel, except in bf16 on a CPU, where the weights as a whole, (B, H, L, L),
    take a quarter of its time: two batched products run at the processor's bf16 speed, which the
    fused kernel does not reach (benchmarks/LOG.md).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        causal = attend.pattern == "causal"
        mask = None if causal else attend.padding
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal
        )
    # it would widen the weights; softmax sums in fp32
    with torch.autocast("cpu", enabled=False):
        # One copy each; the products would make slower ones.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return attention_weights(q, k, attend) @ v


def attention_weights(q: Tensor, k: Tensor, attend: Attend) -> Tensor:
    """(B, H, L, L) weights of equation 1 for q and k (B, H, L, D / H) under a pattern."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if attend.pattern == "causal":
        scores += torch.full_like(scores[0, 0], -torch.inf).triu(1)
    elif attend.padding is not None:
        hidden = torch.zeros_like(attend.padding, dtype=scores.dtype)
        scores += hidden.masked_fill_(~attend.padding, -torch.inf)
    return scores.softmax(-1)


class Encoder(nn.Module):
    """A stack of blocks; the attention pattern is an argument, so one set of weights
    serves both."""

    def __init__(self, settings: ModelSettings, pre_norm: bool) -> None:
        super().__init__()
        width, heads = settings.hidden_size, settings.num_heads
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, pre_norm, settings.ffn_multiplier)
            for dropout in settings.block_dropouts
        )
        self.final_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, attend: Attend, skip: int = 0) -> Tensor:
        """(B, skip + L, D) to (B, L, D)."""
        for block in self.blocks:
            x = block(x, attend)
        return self.final_norm(x[:, skip:] if skip else x)

    def attention_maps(self, x: Tensor, attend: Attend) -> list[Tensor]:
        """Each block's attention weights, (B, H, prefix + L, prefix + L)."""
        maps = []
        for block in self.blocks:
            maps.append(block.attention_map(x, attend))
            x = block(x, attend)
        return maps

    def last_state(self, x: Tensor, attend: Attend, last: Tensor) -> Tensor:
        """(B, prefix + L, D) to (B, D): what `forward` gives at position `last` (B,), the newest
        real one, without the work that no other position's state is needed for."""
        # Only the last block may leave the other positions out: the ones before feed its keys.
        for block in self.blocks[:-1]:
            x = block(x, attend)
        state = self.blocks[-1](x, attend, last + attend.prefix)  # (B, 1, D)
        return self.final_norm(state)[:, 0]


class CrossAttention(nn.Module):
    """Each position attends to a few tokens: softmax(q(x) k(m)^T / sqrt(D / H)) v(m)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (B, L, D), tokens (B, T, D) to (B, L, D)."""
        q = _by_head(self.query(self.norm(x)), self.heads)
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        k = _by_head(keys, self.heads)  # (B, H, T, D / H)
        v = _by_head(values, self.heads)
        # With few tokens the plain product takes less than a tenth of the fused kernel's time on
        # a CPU in bf16.
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (B, H, L, T)
        mixed = weights.to(v.dtype) @ v
        return self.out(rearrange(mixed, "b h l d -> b l (h d)"))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) to (B, H, L, D / H)."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def full_precision(device: torch.device) -> torch.autocast:
    """Context without autocast: in bf16 thousands of items would share a few hundred scores."""
    return torch.autocast(device.type, enabled=False)


def pick(x: Tensor, positions: Tensor) -> Tensor:
    """(B, L, ...) and (B,) to (B, 1, ...): each sequence's entry at its position."""
    return x[torch.arange(x.shape[0], device=x.device), positions][:, None]


def candidate_bias(bias: Tensor, part: slice = EVERY) -> Tensor:
    """Biases (R,) of an item head, or a part of them, with -inf for PAD and MASK, which are no
    candidates."""
    if part.start:  # after PAD and MASK
        return bias[part]
    return F.pad(bias[part][ITEM_ROWS:], (ITEM_ROWS, 0), value=-torch.inf)


def key_padding(lengths: Tensor, width: int) -> Tensor | None:
    """(B, 1, 1, L) mask of real positions for `Attend.padding`; None where no sequence is
    padded."""
    # (B, L) True at the first `lengths` positions
    real = torch.arange(width, device=lengths.device) < lengths[:, None]
    # An exported model must serve every batch.
    if not torch.compiler.is_exporting() and bool(real.all()):
        return None
    return real[:, None, None, :]


def positions_from_end(lengths: Tensor, width: int) -> Tensor:
    """(B, L) 0 at the newest interaction, 1 before it, and so on; 0 on padding."""
    place = torch.arange(width, device=lengths.device)
    # Padding would be negative.
    return (lengths[:, None] - 1 - place).clamp_min(0)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width) fixed position signal (Vaswani et al., section 3.5)."""
    exponent = torch.arange(0, width, 2) / width  # (D / 2,)
    frequency = torch.exp(-math.log(10_000.0) * exponent)
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def rotation_periods(pairs: int) -> Tensor:
    """(P / 2,) seconds in which each of half of the P pairs of `time_rotation` turns once."""
    shortest = math.log10(SHORTEST_PERIOD)
    longest = math.log10(LONGEST_PERIOD)
    number = max(1, pairs // 2)
    return torch.logspace(shortest, longest, number, dtype=torch.float64)


def time_rotation(times: Tensor, origin: Tensor, periods: Tensor) -> Tensor:
    """(B, L, P) cosines, then sines, that rotate half of the P pairs of queries or keys.

    times (B, L) in seconds, origin (B, 1) what they are counted from.

    A query at t and a key at s then meet under the angle w (t - s): attention sees the time
    between two events and never the date, and stays within the fused kernels. The rotation is
    RoFormer's (arXiv:2104.09864, eq. 34) with seconds for positions and periods 2 pi / w spread
    evenly on a logarithmic scale; half of the pairs stay unrotated for content.
    """
    # In double: 1e8 s over a minute.
    elapsed = (times - origin).double()
    turns = (elapsed[:, :, None] / periods).remainder(1.0)  # (B, L, P / 2)
    angle = turns.mul(2 * math.pi).float()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate as many pairs (of first half, second half) of each head of x (B, H, L, D / H) as
    there are angles in `time_rotation`."""
    # (B, 1, L, P / 2)
    cosine, sine = rotation[:, None].to(x.dtype).chunk(2, dim=-1)
    # Pairs beyond these carry content alone and are left as they are.
    turned = cosine.shape[-1]
    still = x.shape[-1] // 2 - turned
    sizes = [turned, still, turned, still]
    first, first_still, second, second_still = x.split(sizes, dim=-1)
    new_first = first * cosine - second * sine
    new_second = first * sine + second * cosine
    parts = [new_first, first_still, new_second, second_still]
    return torch.cat(parts, dim=-1)


def initialise(model: nn.Module, width: int, *tables: Tensor) -> None:
    """Normal weights for linear maps and tables, zero biases; norms keep their ones."""
    # 0.1 at 64 wide: BERT's 0.02 starts a narrow model slowly (ablations/LOG.md).
    std = 0.8 * width**-0.5
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for table in tables:
        nn.init.normal_(table, std=std)
