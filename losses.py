"""Losses: pure functions, each a mean over the positions that count. They know nothing of models.

N positions, D width, R rows of the item table, F genres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOG2_E = math.log2(math.e)
CONTRASTIVE_TEMPERATURE = 0.2  # what the cosines of two views of a history are divided by
LOWEST = -1e30
CHECKPOINTED_POSITIONS = 512
# Logits held at once: on a CPU a chunk should stay in the caches, on a GPU it should fill the chip.
CHUNK_ELEMENTS = {"cpu": 3 << 18, "cuda": 1 << 27}


def linear_cross_entropy(states: Tensor, table: Tensor, bias: Tensor, targets: Tensor,
                         ignore_index: int = -100) -> Tensor:
    """Softmax cross-entropy of `states @ table.T + bias`, without ever holding all N x R logits.

    states (N, D), table (R, D), bias (R,) with -inf where a row is no candidate, targets (N,) rows of the table, or
    `ignore_index` where nothing is predicted. Exact: the same value and gradients as `F.cross_entropy` on the full
    logits. Each chunk's logits are made, turned into the gradient (softmax minus one-hot) and dropped, so forward and
    backward cost three matrix products in all (Hsu et al., Liger Kernel, arXiv:2410.10989, section 3.2, describes the
    scheme); a table of many rows is taken in blocks besides, which costs a fourth. Products run in autocast's dtype
    where autocast is on; softmax and sums are fp32.
    """
    return _ChunkedLinearCrossEntropy.apply(states, table, bias, targets, targets != ignore_index)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: Tensor, table: Tensor, bias: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        needs_gradient = any(ctx.needs_input_grad)
        chunks, blocks = _tiles(len(states), len(table), CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"]))
        with torch.no_grad(), torch.autocast(device, enabled=False):
            # Logits in bits, not nats: exp2 takes a third of exp's time on a CPU.
            x, x_bits, weight = states.to(dtype), (states.float() * LOG2_E).to(dtype), table.to(dtype)
            offset = bias.float() * LOG2_E
            grad_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
            grad_table = torch.zeros(table.shape, dtype=torch.float32, device=x.device)
            grad_bias, total = torch.zeros_like(offset), torch.zeros((), dtype=torch.float32, device=x.device)
            for chunk in chunks:
                target, counts = targets[chunk, None].clamp_min(0), counted[chunk, None]  # (C, 1)

                def logits_of(block: slice, chunk: slice = chunk) -> Tensor:
                    return (x_bits[chunk] @ weight[block].T).float().add_(offset[block])  # (C, R or less)

                top, normaliser, own, powers = _streaming_softmax(logits_of, blocks, target)
                total += (normaliser.log2() + top - own).where(counts, 0.0).sum()
                if not needs_gradient:
                    continue
                kept = normaliser.where(counts, torch.inf)  # a row that does not count has no gradient
                for block in blocks:
                    if len(blocks) > 1:  # one exponential serves loss and gradient where one block holds all rows
                        powers = logits_of(block).sub_(top).exp2_()
                    gradient = powers.div_(kept)  # softmax, minus one-hot below
                    column, inside = _column_in(block, target)
                    gradient.scatter_add_(1, column, -(inside & counts).float())
                    grad_bias[block] += gradient.sum(0)
                    gradient = gradient.to(dtype)
                    grad_x[chunk] += gradient @ weight[block]
                    grad_table[block] += gradient.T @ x[chunk]
            number = counted.sum()
        if needs_gradient:
            ctx.save_for_backward(grad_x.to(states.dtype).div_(number), grad_table.to(table.dtype).div_(number),
                                  grad_bias.to(bias.dtype).div_(number))
        return total / (number * LOG2_E)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        return *(grad * grad_output for grad in ctx.saved_tensors), None, None


def _tiles(states: int, rows: int, held: int) -> tuple[list[slice], list[slice]]:
    """Chunks of states and blocks of rows, such that a tile of logits holds about `held` numbers.

    Few rows: some states against all of them, in one block. Many: many states against some rows, or the sum of the
    table's gradient would be fetched anew for every few states.
    """
    if rows <= held // 64:
        size, width = math.ceil(held // rows / 64) * 64, rows
    else:
        size, width = 2048, max(1, held // 2048)
    return ([slice(start, min(start + size, states)) for start in range(0, states, size)],
            [slice(start, min(start + width, rows)) for start in range(0, rows, width)])


def _streaming_softmax(logits_of: Callable[[slice], Tensor], blocks: list[slice],
                       target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Largest logit, sum of the powers 2^(logit - largest) and the target's logit, each (C, 1), over all blocks; and
    the last block's powers."""
    top, normaliser, own = torch.full_like(target, LOWEST, dtype=torch.float32), 0.0, 0.0
    for block in blocks:
        logits = logits_of(block)
        before, top = top, torch.maximum(top, logits.amax(1, keepdim=True))
        column, inside = _column_in(block, target)
        own = logits.gather(1, column).where(inside, own)
        powers = logits.sub_(top).exp2_()
        normaliser = normaliser * (before - top).exp2_() + powers.sum(1, keepdim=True)
    return top, normaliser, own, powers


def _column_in(block: slice, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where targets lie in a block: their columns, and whether they lie in it at all."""
    column = target - block.start
    last = block.stop - block.start - 1
    return column.clamp(0, last), (column >= 0) & (column <= last)


def distillation_loss(states: Tensor, table: Tensor, bias: Tensor, opinions: Sequence[tuple[Tensor, Tensor, Tensor]],
                      counted: Tensor) -> Tensor:
    """Cross-entropy against the mean of the teachers' distributions over the catalogue, (Hinton et al., 2015,
    arXiv:1503.02531, section 2, at temperature 1).

    opinions: (states, table, bias) of each teacher for the same N positions; counted (N,) which of them count. A chunk
    of positions at a time, computed again in the backward pass, so that N x R logits are never held.
    """
    def chunk_loss(states: Tensor, table: Tensor, bias: Tensor, counted: Tensor, *told: Tensor) -> Tensor:
        wanted = torch.stack([(said @ rows.T).float().add(offset).softmax(1)
                              for said, rows, offset in zip(told[::3], told[1::3], told[2::3], strict=True)]).mean(0)
        logits = (states @ table.T).float() + bias
        return -(wanted * logits.log_softmax(1).masked_fill(bias == -torch.inf, 0.0)).sum(1).where(counted, 0.0).sum()

    total = states.new_zeros((), dtype=torch.float32)
    for start in range(0, len(states), CHECKPOINTED_POSITIONS):
        chunk = slice(start, start + CHECKPOINTED_POSITIONS)
        told = [part for said, rows, offset in opinions for part in (said[chunk], rows, offset)]
        total = total + checkpoint(chunk_loss, states[chunk], table, bias, counted[chunk], *told, use_reentrant=False)
    return total / counted.sum()


class DistilledItemLoss:
    """An item loss of which a share follows teachers; what they say of the next batch goes into `opinions` first."""

    def __init__(self, plain: Callable[..., Tensor], share: float) -> None:
        self.plain, self.share = plain, share
        self.opinions: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, states: Tensor, table: Tensor, bias: Tensor, targets: Tensor,
                 ignore_index: int = -100) -> Tensor:
        """Arguments as in `linear_cross_entropy`."""
        followed = distillation_loss(states, table, bias, self.opinions, targets != ignore_index)
        return (1 - self.share) * self.plain(states, table, bias, targets, ignore_index) + self.share * followed


def sampled_softmax_loss(states: Tensor, table: Tensor, bias: Tensor, targets: Tensor, negatives: Tensor,
                         ignore_index: int = -100) -> Tensor:
    """Softmax cross-entropy of each target against K rows that all positions share.

    negatives (K,) rows, drawn uniformly with repetition: as each row is as likely, no correction of the logits is
    needed (Bengio & Senecal, 2008; Yi et al., RecSys 2019, section 3). A negative that is the target does not count.
    """
    positive, sampled = _sampled_logits(states, table, bias, targets, negatives, ignore_index)
    loss = torch.cat([positive, sampled], dim=1).logsumexp(1) - positive[:, 0]  # (N,)
    return _mean_where(loss, targets != ignore_index)


def _sampled_logits(states: Tensor, table: Tensor, bias: Tensor, targets: Tensor, negatives: Tensor,
                    ignore_index: int) -> tuple[Tensor, Tensor]:
    """Logits of the targets (N, 1) and of the negatives (N, K), -inf where a negative is the target."""
    # Looked up as embeddings: the gradient of plain indexing adds rows that stand twice in no fixed order.
    target, column = targets.where(targets != ignore_index, negatives[0]), bias[:, None]
    positive = (states.float() * F.embedding(target, table).float()).sum(1) + F.embedding(target, column)[:, 0]
    sampled = (states @ F.embedding(negatives, table).T).float() + F.embedding(negatives, column)[:, 0]
    return positive[:, None], sampled.masked_fill(target[:, None] == negatives, -torch.inf)


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    return values.where(counted, 0.0).sum() / counted.sum()


class SampledItemLoss:
    """`sampled_softmax_loss` with its sampler; takes the place of `linear_cross_entropy` for large catalogues.

    candidates: (R,) True at the rows to draw from, all alike. The draws follow torch's global stream.
    """

    def __init__(self, candidates: Tensor, negatives: int) -> None:
        self.rows, self.negatives = candidates.nonzero()[:, 0], negatives

    def __call__(self, states: Tensor, table: Tensor, bias: Tensor, targets: Tensor,
                 ignore_index: int = -100) -> Tensor:
        """The loss with fresh negatives; arguments as in `linear_cross_entropy`."""
        draws = torch.randint(len(self.rows), (self.negatives,), device=self.rows.device)
        return sampled_softmax_loss(states, table, bias, targets, self.rows[draws], ignore_index)


def rating_loss(logits: Tensor, ratings: Tensor) -> Tensor:
    """Cross-entropy of the five classes 1 to 5. logits (N, 5), ratings (N,) from 1 to 5, or 0 where there is none."""
    return F.cross_entropy(logits.float(), ratings - 1, ignore_index=-1)


def preference_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against a distribution over genres. logits and target (N, F); rows of the target sum to 1, or to 0
    where nothing is known."""
    known = (target.sum(1) > 0).sum()
    return -(target * logits.float().log_softmax(-1)).sum() / known


def contrastive_loss(first: Tensor, second: Tensor, groups: Tensor) -> Tensor:
    """Each view must find the other one of its history among the batch's, by cosine, and back (InfoNCE; Oord et al.,
    2018, arXiv:1807.03748, eq. 4). first and second (B, D); of groups (B,) equal ones are not told apart."""
    logits = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T / CONTRASTIVE_TEMPERATURE  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    alike = (groups[:, None] == groups) & (own[:, None] != own)
    logits = logits.masked_fill(alike, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
