"""Losses: pure functions, each a mean over positions or over sequences.

N positions, D width, R rows of the item table, K values of a column, F tags.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dataset import PAD
from outputs import ItemPrediction

LOG2_E = math.log2(math.e)
LOWEST = -1e30
CHECKPOINTED_POSITIONS = 512
# Logits held at once: on a CPU a chunk should stay in the caches, on a GPU it should fill the
# chip.
CHUNK_ELEMENTS = {"cpu": 3 << 18, "cuda": 1 << 27}
# what the cosines of two views of a history are divided by
CONTRASTIVE_TEMPERATURE = 0.2


def linear_cross_entropy(
    states: Tensor,
    table: Tensor,
    bias: Tensor,
    targets: Tensor,
) -> Tensor:
    """Softmax cross-entropy of `states @ table.T + bias`, without holding all N x R logits.

    states (N, D), table (R, D), bias (R,) with -inf where a row is no candidate, targets (N,)
    rows of the table, or PAD where nothing is predicted. Value and gradients are those of
    `F.cross_entropy` on the full logits, up to rounding.

    The logits of a chunk of states are computed, turned into the gradient (softmax minus one-hot)
    and discarded. Forward and backward take three matrix products in all (the scheme of Hsu et
    al., Liger Kernel, arXiv:2410.10989, section 3.2). A large table is split into blocks too,
    which takes a fourth product. Products run in autocast's dtype where autocast is on; softmax
    and sums are fp32.
    """
    return _ChunkedLinearCrossEntropy.apply(states, table, bias, targets)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, table, bias, targets):
        device, dtype = states.device, states.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        chunks, blocks = _tiles(len(states), len(table), device.type)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            # Logits in bits, not nats: exp2 takes a third of exp's time on a CPU.
            x = states.to(dtype)
            weight = table.to(dtype)
            x_bits = (states.float() * LOG2_E).to(dtype)
            offset = bias.float() * LOG2_E
            zeros = partial(torch.zeros, dtype=torch.float32, device=device)
            grad_x = zeros(x.shape)
            grad_table = zeros(table.shape)
            grad_bias = zeros(bias.shape)
            total = zeros(())
            for chunk in chunks:
                target = targets[chunk, None]  # (C, 1)
                counts = target != PAD  # (C, 1)
                logits_of = partial(_logits, x_bits[chunk], weight, offset)
                top, normaliser, target_logit, powers = _streaming_softmax(
                    logits_of, blocks, target
                )
                each = normaliser.log2() + top - target_logit
                total += each.where(counts, 0.0).sum()
                # A row that does not count has no gradient.
                divisor = normaliser.where(counts, torch.inf)
                for block in blocks:
                    # One exponential serves loss and gradient where one block holds all rows.
                    if len(blocks) > 1:
                        powers = logits_of(block).sub_(top).exp2_()
                    # Softmax, minus one-hot where the target lies in the block.
                    gradient = powers.div_(divisor)
                    column, inside = _column_in(block, target)
                    true = -(inside & counts).float()
                    gradient.scatter_add_(1, column, true)
                    grad_bias[block] += gradient.sum(0)
                    gradient = gradient.to(dtype)
                    grad_x[chunk] += gradient @ weight[block]
                    grad_table[block] += gradient.T @ x[chunk]
        number = (targets != PAD).sum()
        ctx.save_for_backward(
            grad_x.to(states.dtype).div_(number),
            grad_table.to(table.dtype).div_(number),
            grad_bias.to(bias.dtype).div_(number),
        )
        return total / (number * LOG2_E)

    @staticmethod
    def backward(ctx, grad_output):
        return *(grad * grad_output for grad in ctx.saved_tensors), None


def _tiles(states, rows, device):
    """Chunks of states and blocks of rows, such that a tile of logits holds about CHUNK_ELEMENTS.

    With few rows: some states against all of them, in one block. With many rows: many states
    against some rows; else the sum of the table's gradient would be read again for every few
    states.
    """
    held = CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"])
    size = 2048
    width = max(1, held // size)
    if rows <= held // 64:
        size = math.ceil(held // rows / 64) * 64
        width = rows
    chunks = [slice(start, start + size) for start in range(0, states, size)]
    blocks = [
        slice(start, min(start + width, rows))
        for start in range(0, rows, width)
    ]
    return chunks, blocks


def _logits(bits, weight, offset, block):
    """(C, R or less) logits in bits of a chunk for a block of the rows."""
    return (bits @ weight[block].T).float().add_(offset[block])


def _streaming_softmax(logits_of, blocks, target):
    """Largest logit, sum of the powers 2^(logit - largest) and the target's logit, each (C, 1),
    over all blocks; and the last block's powers."""
    top = torch.full_like(target, LOWEST, dtype=torch.float32)
    normaliser = target_logit = 0.0
    for block in blocks:
        logits = logits_of(block)
        before = top
        top = torch.maximum(top, logits.amax(1, keepdim=True))
        column, inside = _column_in(block, target)
        target_logit = logits.gather(1, column).where(inside, target_logit)
        powers = logits.sub_(top).exp2_()
        normaliser = normaliser * (before - top).exp2_()
        normaliser = normaliser + powers.sum(1, keepdim=True)
    return top, normaliser, target_logit, powers


def _column_in(block, target):
    """Where targets lie in a block: their columns, and whether they lie in it at all."""
    column = target - block.start
    last = block.stop - block.start - 1
    return column.clamp(0, last), (column >= 0) & (column <= last)


def distillation_loss(
    student: ItemPrediction, teachers: Sequence[ItemPrediction]
) -> Tensor:
    """Cross-entropy against the mean of the teachers' distributions over the catalogue (Hinton et
    al., 2015, arXiv:1503.02531, section 2, at temperature 1).

    teachers: what they predict at the same N positions; targets of the student that are PAD do not
    count.
    A chunk of positions at a time, computed again in the backward pass, so that N x R logits are
    never held.
    """
    counted = student.targets != PAD

    def chunk_loss(chunk: slice) -> Tensor:
        wanted = [teacher.logits(chunk).softmax(1) for teacher in teachers]
        logarithms = student.logits(chunk).log_softmax(1)
        # Rows that are no candidates are at 0 times -inf.
        logarithms = logarithms.masked_fill(student.bias == -torch.inf, 0.0)
        mean = torch.stack(wanted).mean(0)  # (C, R)
        each = -(mean * logarithms).sum(1)
        return each.where(counted[chunk], 0.0).sum()

    total = 0.0
    for start in range(0, len(counted), CHECKPOINTED_POSITIONS):
        chunk = slice(start, start + CHECKPOINTED_POSITIONS)
        part = checkpoint(chunk_loss, chunk, use_reentrant=False)
        total = total + part
    return total / counted.sum()


def sampled_softmax_loss(
    states: Tensor,
    table: Tensor,
    bias: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
) -> Tensor:
    """Softmax cross-entropy of each target against K rows that all positions share, drawn with
    repetition; targets that are PAD do not count.

    log_expected (K,): logarithm of how often each negative is drawn on average. It is subtracted
    from its logit, so that the negatives' sum of exponentials is on average that of all rows but
    the target (Bengio & Senecal, 2008, eq. 8). The target is there in any case, so its logit
    stays (Khrylchenko et al., RecSys 2025). A negative that is the target does not count.
    """
    counted = targets != PAD
    # Looked up as embeddings: the gradient of plain indexing adds rows in no fixed order.
    target = targets.where(counted, negatives[0])
    column = bias[:, None]
    vectors = F.embedding(target, table)  # (N, D)
    product = (states.float() * vectors.float()).sum(1)
    positive = product + F.embedding(target, column)[:, 0]  # (N,)
    vectors = F.embedding(negatives, table)  # (K, D)
    offset = F.embedding(negatives, column)[:, 0] - log_expected  # (K,)
    sampled = (states @ vectors.T).float() + offset  # (N, K)
    sampled = sampled.masked_fill(target[:, None] == negatives, LOWEST)
    each = torch.logaddexp(positive, sampled.logsumexp(1)) - positive
    total = each.where(counted, 0.0).sum()
    return total / counted.sum()


def value_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of a column's values. logits (N, K), codes (N,) from 1 to K, or 0 where
    unknown.
    """
    return F.cross_entropy(logits.float(), codes - 1, ignore_index=-1)


def preference_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against a distribution. logits and target (N, F); rows of the target sum to
    1, or to 0 where nothing is known."""
    known = (target.sum(1) > 0).sum()
    return F.cross_entropy(logits.float(), target, reduction="sum") / known


def contrastive_loss(first: Tensor, second: Tensor, groups: Tensor) -> Tensor:
    """Each view must find the other one of its history among the batch's, by cosine, and back
    (InfoNCE; Oord et al., 2018, arXiv:1807.03748, eq. 4).

    first and second (B, D). Sequences with equal groups (B,) are no negatives of each other.
    """
    first = F.normalize(first.float(), dim=-1)
    second = F.normalize(second.float(), dim=-1)
    cosines = first @ second.T  # (B, B)
    rows = torch.arange(len(cosines), device=cosines.device)
    same = groups[:, None] == groups
    same = same & (rows[:, None] != rows)
    logits = cosines / CONTRASTIVE_TEMPERATURE
    logits = logits.masked_fill(same, -torch.inf)
    there = F.cross_entropy(logits, rows)
    back = F.cross_entropy(logits.T, rows)
    return (there + back) / 2
