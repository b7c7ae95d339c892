"""Losses and transformer blocks against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import losses
from losses import linear_cross_entropy, preference_loss, rating_loss
from transformer import Attend, Block, Dropout, Encoder, key_padding, positions_from_end, rotate, time_rotation


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_linear_cross_entropy_is_cross_entropy(monkeypatch, chunk):
    """Value and all three gradients, whatever the chunk; rows of bias -inf are no candidates."""
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", chunk * 13)
    torch.manual_seed(0)
    inputs = [torch.randn(29, 8, dtype=torch.float64), torch.randn(13, 8, dtype=torch.float64),
              torch.randn(13, dtype=torch.float64)]
    targets = torch.randint(2, 13, (29,))
    excluded = torch.zeros(13).double()
    excluded[:2] = -torch.inf
    gradients = []
    for ours in (True, False):
        states, table, bias = (value.clone().requires_grad_() for value in inputs)
        if ours:
            loss = linear_cross_entropy(states, table, bias + excluded, targets)
        else:
            loss = F.cross_entropy(states @ table.T + bias + excluded, targets)
        (3 * loss).backward()
        gradients.append((loss.detach().double(), states.grad, table.grad, bias.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_linear_cross_entropy_of_a_certain_answer():
    """A position predicted perfectly still counts in the mean."""
    states = torch.tensor([[100.0], [0.0]])
    loss = linear_cross_entropy(states, torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([0, 0]))
    assert float(loss) == pytest.approx((0 + math.log(2)) / 2)


def test_rating_and_preference_losses():
    logits = torch.randn(6, 5)
    ratings = torch.tensor([1, 2, 3, 4, 5, 5])
    assert float(rating_loss(logits, ratings)) == pytest.approx(
        -sum(float(logits[i].log_softmax(0)[r - 1]) for i, r in enumerate(ratings.tolist())) / 6, rel=1e-5)
    target = torch.rand(6, 5).softmax(-1)
    assert float(preference_loss(logits, target)) == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-5)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("pattern", ["bidirectional", "causal"])
def test_block_equals_torchs_encoder_layer(pre_norm, pattern):
    torch.manual_seed(0)
    ours = Block(16, 4, 0.0, 0.0, pre_norm).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=pre_norm).eval()
    pairs = {"self_attn.in_proj_": ours.qkv, "self_attn.out_proj.": ours.attention_out, "linear1.": ours.expand,
             "linear2.": ours.contract, "norm1.": ours.attention_norm, "norm2.": ours.network_norm}
    theirs.load_state_dict({prefix + kind: getattr(module, kind) for prefix, module in pairs.items()
                            for kind in ("weight", "bias")})
    x, lengths = torch.randn(3, 7, 16), torch.tensor([7, 4, 1])
    padding = key_padding(lengths, 7)
    causal = nn.Transformer.generate_square_subsequent_mask(7) if pattern == "causal" else None
    expected = theirs(x, src_mask=causal, src_key_padding_mask=(~padding[:, 0, 0]).float().masked_fill(
        ~padding[:, 0, 0], -torch.inf))
    got = ours(x, Attend(pattern, padding))
    real = padding[:, 0, 0]
    torch.testing.assert_close(got[real], expected[real], rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    encoder, x = Encoder(16, 2, 2, 0.3, 0.0, True).train(), torch.randn(2, 5, 16)
    results = []
    for checkpointing in (False, True):
        encoder.checkpointing = checkpointing
        encoder.zero_grad()
        torch.manual_seed(1)
        out = encoder(x, Attend("causal", None))
        out.sum().backward()
        results.append((out.detach(), encoder.blocks[0].qkv.weight.grad.clone()))
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rate_scale_and_seed(rate):
    dropout, x = Dropout(rate).train(), torch.ones(1000, 333)
    torch.manual_seed(0)
    out = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(out, dropout(x))
    assert float((out == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    assert float((out[:, 1:] * out[:, :-1] == 0).float().mean()) == pytest.approx(1 - (1 - rate) ** 2, abs=0.005)
    assert torch.equal(dropout.eval()(x), x)


def test_time_rotation_sees_differences_only():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 2, 16), torch.randn(1, 1, 2, 16)

    def logits(times):
        rotation = time_rotation(torch.tensor([times]), 8)
        return rotate(query, *rotation) @ rotate(key, *rotation).transpose(-1, -2)

    base = logits([10**9, 10**9 + 3600])
    torch.testing.assert_close(base, logits([5 * 10**8, 5 * 10**8 + 3600]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base, logits([10**9, 10**9 + 7200]), atol=1e-3)
    torch.testing.assert_close(logits([7, 7]), query @ key.transpose(-1, -2))


def test_positions_count_from_the_newest():
    assert positions_from_end(torch.tensor([3, 1]), 4).tolist() == [[2, 1, 0, 0], [0, 0, 0, 0]]
