"""Losses and transformer blocks against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import losses
from dataset import ITEM_ROWS
from losses import (
    distillation_loss,
    linear_cross_entropy,
    preference_loss,
    sampled_softmax_loss,
    value_loss,
)
from outputs import ItemPrediction
from sampling import Sampler
from settings import ModelSettings
from transformer import (
    Attend,
    Block,
    Dropout,
    Encoder,
    attention,
    key_padding,
    positions_from_end,
    rotate,
    rotation_periods,
    time_rotation,
)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 150),
    rows=st.integers(2, 40),
    width=st.integers(1, 24),
    ignored=st.integers(0, 149),
    chunk=st.sampled_from([1, 64 * 40, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_fused_and_plain_softmax_loss_agree(
    count, rows, width, ignored, chunk, seed
):
    """Value and gradients over random shapes, some targets not counting, to 1e-5 in fp32."""
    torch.manual_seed(seed)
    targets = torch.randint(1, rows, (count,))
    targets[torch.randperm(count)[: min(ignored, count - 1)]] = 0
    inputs = [
        torch.randn(count, width),
        torch.randn(rows, width),
        torch.randn(rows),
    ]
    results = []
    before = losses.CHUNK_ELEMENTS["cpu"]
    losses.CHUNK_ELEMENTS["cpu"] = chunk
    try:
        for fused in (True, False):
            states, table, bias = (
                value.clone().requires_grad_() for value in inputs
            )
            loss = (
                linear_cross_entropy(states, table, bias, targets)
                if fused
                else F.cross_entropy(
                    states @ table.T + bias, targets, ignore_index=0
                )
            )
            loss.backward()
            results.append((loss.detach(), states.grad, table.grad, bias.grad))
    finally:
        losses.CHUNK_ELEMENTS["cpu"] = before
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [224, 230, 231])
def test_softmax_loss_over_blocks_of_items(monkeypatch, rows):
    """A table of many rows passes in blocks of 7 here; the last may be short, the first hold no
    candidate.
    """
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 7 * 2048)
    torch.manual_seed(0)
    targets = torch.randint(9, rows, (50,))
    targets[::7] = 0
    excluded = torch.zeros(rows)
    excluded[:9] = -torch.inf
    inputs = [torch.randn(50, 8), torch.randn(rows, 8), torch.randn(rows)]
    results = []
    for ours in (True, False):
        states, table, bias = (
            value.clone().requires_grad_() for value in inputs
        )
        loss = (
            linear_cross_entropy(states, table, bias + excluded, targets)
            if ours
            else F.cross_entropy(
                states @ table.T + bias + excluded, targets, ignore_index=0
            )
        )
        loss.backward()
        results.append((loss.detach(), states.grad, table.grad, bias.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, 512])
def test_distillation_is_cross_entropy_against_the_teachers(
    monkeypatch, chunk
):
    monkeypatch.setattr(losses, "CHECKPOINTED_POSITIONS", chunk)
    states, table, bias, targets = sampled_inputs()
    opinions = [
        (torch.randn(17, 4), torch.randn(30, 4), bias),
        (torch.randn(17, 3), torch.randn(30, 3), bias),
    ]
    wanted = torch.stack(
        [
            (said @ rows.T + offset).softmax(1)
            for said, rows, offset in opinions
        ]
    ).mean(0)
    results = []
    for ours in (True, False):
        inputs = [value.clone().requires_grad_() for value in (states, table)]
        loss = (
            distillation_loss(
                ItemPrediction(*inputs, bias, targets),
                [ItemPrediction(*said, targets) for said in opinions],
            )
            if ours
            else F.cross_entropy(
                (inputs[0] @ inputs[1].T + bias)[targets != 0, 2:],
                wanted[targets != 0, 2:],
            )
        )
        loss.backward()
        results.append((loss.detach(), *(value.grad for value in inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def sampled_inputs(rows=30, count=17):
    torch.manual_seed(3)
    targets = torch.randint(2, rows, (count,))
    targets[4] = 0
    bias = torch.randn(rows)
    bias[:2] = -torch.inf
    return torch.randn(count, 8), torch.randn(rows, 8), bias, targets


def test_sampling_every_item_once_is_the_full_softmax():
    states, table, bias, targets = sampled_inputs()
    loss = sampled_softmax_loss(
        states, table, bias, targets, torch.arange(2, 30), torch.zeros(28)
    )
    assert float(loss) == pytest.approx(
        float(
            F.cross_entropy(states @ table.T + bias, targets, ignore_index=0)
        ),
        rel=1e-5,
    )


def test_the_sampled_loss_equals_its_formula_position_by_position():
    states, table, bias, targets = sampled_inputs()
    negatives = torch.tensor([5, 9, 9, 20, 11, 28])
    log_expected = torch.tensor([0.3, -2.0, -2.0, 0.1, -1.5, 0.0])
    correction = dict(
        zip(negatives.tolist(), log_expected.tolist(), strict=True)
    )
    softmax = []
    for state, target in zip(states, targets.tolist(), strict=True):
        if target == 0:
            continue
        others = [row for row in negatives.tolist() if row != target]
        logits = [state @ table[row] + bias[row] for row in [target, *others]]
        for place, row in enumerate(others, start=1):
            logits[place] = logits[place] - correction[row]
        logits = torch.stack(logits)
        softmax.append(-logits.log_softmax(0)[0])
    loss = sampled_softmax_loss(
        states, table, bias, targets, negatives, log_expected
    )
    assert float(loss) == pytest.approx(
        float(torch.stack(softmax).mean()), rel=1e-5
    )


def test_the_loss_of_many_samples_is_that_of_the_full_softmax(data):
    """Whatever items are drawn more often; without the correction it is not."""
    torch.manual_seed(0)
    rows = len(data.catalogue.items)
    states, table, bias, targets = sampled_inputs(rows)
    wanted = F.cross_entropy(states @ table.T + bias, targets, ignore_index=0)
    negatives, expected = Sampler(data, 200_000).draw()
    shares = torch.bincount(negatives, minlength=rows) / 200_000
    counts = torch.from_numpy(data.item_counts()[ITEM_ROWS:])
    often = 0.5 / len(counts) + 0.5 * counts / counts.sum()
    torch.testing.assert_close(
        shares[ITEM_ROWS:], often.float(), atol=0.003, rtol=0
    )
    inputs = states, table, bias, targets, negatives
    loss = sampled_softmax_loss(*inputs, expected)
    assert float(loss) == pytest.approx(float(wanted), rel=0.01)
    wrong = sampled_softmax_loss(*inputs, expected.mean().expand(200_000))
    assert abs(float(wrong - wanted)) > 0.02


@pytest.mark.parametrize("pattern", ["bidirectional", "causal"])
def test_plain_and_fused_attention_agree(pattern):
    """The bf16 products against torch's fused kernel in fp32, forward and backward, within bf16's
    rounding.
    """
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 21, 16) for _ in range(3)]
    attend = Attend(
        pattern,
        None
        if pattern == "causal"
        else key_padding(torch.tensor([21, 9, 4]), 21),
    )
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = (value.to(dtype).requires_grad_() for value in inputs)
        mixed = attention(q, k, v, attend)
        mixed.float().square().sum().backward()
        results.append(
            [
                mixed.detach().float(),
                *(value.grad.float() for value in (q, k, v)),
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.015


@pytest.mark.parametrize(
    ("count", "held", "chunks", "blocks"),
    [
        (29, 1 << 20, 1, 1),
        (150, 64 * 13, 3, 1),
        (29, 640, 1, 13),
        (2100, 800, 2, 13),
    ],
)
def test_linear_cross_entropy_is_cross_entropy(
    monkeypatch, count, held, chunks, blocks
):
    """Value and all three gradients, whatever the tiles; rows of bias -inf are no candidates."""
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", held)
    assert tuple(map(len, losses._tiles(count, 13, "cpu"))) == (chunks, blocks)
    torch.manual_seed(0)
    inputs = [
        torch.randn(count, 8, dtype=torch.float64),
        torch.randn(13, 8, dtype=torch.float64),
        torch.randn(13, dtype=torch.float64),
    ]
    targets = torch.randint(2, 13, (count,))
    excluded = torch.zeros(13).double()
    excluded[:2] = -torch.inf
    gradients = []
    for ours in (True, False):
        states, table, bias = (
            value.clone().requires_grad_() for value in inputs
        )
        if ours:
            loss = linear_cross_entropy(
                states, table, bias + excluded, targets
            )
        else:
            loss = F.cross_entropy(
                states @ table.T + bias + excluded, targets, ignore_index=0
            )
        (3 * loss).backward()
        gradients.append(
            (loss.detach().double(), states.grad, table.grad, bias.grad)
        )
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_linear_cross_entropy_of_a_certain_answer():
    """A position predicted perfectly still counts in the mean."""
    states = torch.tensor([[-100.0], [0.0]])
    loss = linear_cross_entropy(
        states,
        torch.tensor([[1.0], [-1.0]]),
        torch.zeros(2),
        torch.tensor([1, 1]),
    )
    assert float(loss) == pytest.approx((0 + math.log(2)) / 2)


def test_rating_and_preference_losses():
    logits = torch.randn(6, 5)
    ratings = torch.tensor([1, 2, 3, 4, 5, 5])
    assert float(value_loss(logits, ratings)) == pytest.approx(
        -sum(
            float(logits[i].log_softmax(0)[r - 1])
            for i, r in enumerate(ratings.tolist())
        )
        / 6,
        rel=1e-5,
    )
    target = torch.rand(6, 5).softmax(-1)
    assert float(preference_loss(logits, target)) == pytest.approx(
        float(F.cross_entropy(logits, target)), rel=1e-5
    )
    # What is not known does not count.
    ratings[2], target[2] = 0, 0.0
    known = [0, 1, 3, 4, 5]
    assert float(value_loss(logits, ratings)) == pytest.approx(
        float(value_loss(logits[known], ratings[known]))
    )
    assert float(preference_loss(logits, target)) == pytest.approx(
        float(preference_loss(logits[known], target[known]))
    )


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("pattern", ["bidirectional", "causal"])
def test_block_equals_torchs_encoder_layer(pre_norm, pattern):
    torch.manual_seed(0)
    ours = Block(16, 4, 0.0, pre_norm).eval()
    theirs = nn.TransformerEncoderLayer(
        16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=pre_norm
    ).eval()
    pairs = {
        "self_attn.in_proj_": ours.qkv,
        "self_attn.out_proj.": ours.attention_out,
        "linear1.": ours.expand,
        "linear2.": ours.contract,
        "norm1.": ours.attention_norm,
        "norm2.": ours.network_norm,
    }
    theirs.load_state_dict(
        {
            prefix + kind: getattr(module, kind)
            for prefix, module in pairs.items()
            for kind in ("weight", "bias")
        }
    )
    x, lengths = torch.randn(3, 7, 16), torch.tensor([7, 4, 1])
    padding = key_padding(lengths, 7)
    causal = (
        nn.Transformer.generate_square_subsequent_mask(7)
        if pattern == "causal"
        else None
    )
    expected = theirs(
        x,
        src_mask=causal,
        src_key_padding_mask=(~padding[:, 0, 0])
        .float()
        .masked_fill(~padding[:, 0, 0], -torch.inf),
    )
    got = ours(x, Attend(pattern, padding))
    real = padding[:, 0, 0]
    torch.testing.assert_close(got[real], expected[real], rtol=1e-4, atol=1e-5)


def test_each_block_may_have_a_dropout_of_its_own():
    encoder = Encoder(
        ModelSettings(hidden_size=16, layer_dropout="0.25,.5"), pre_norm=True
    )
    assert [block.dropout.threshold for block in encoder.blocks] == [64, 128]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rate_scale_and_seed(rate):
    dropout, x = Dropout(rate).train(), torch.ones(1000, 333)
    torch.manual_seed(0)
    out = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(out, dropout(x))
    assert float((out == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    assert float(
        (out[:, 1:] * out[:, :-1] == 0).float().mean()
    ) == pytest.approx(1 - (1 - rate) ** 2, abs=0.005)
    assert torch.equal(dropout.eval()(x), x)


def test_time_rotation_sees_differences_only():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 2, 16), torch.randn(1, 1, 2, 16)

    def logits(times):
        times = torch.tensor([times])
        rotation = time_rotation(times, times[:, :1], rotation_periods(8))
        return rotate(query, rotation) @ rotate(key, rotation).transpose(
            -1, -2
        )

    base = logits([10**9, 10**9 + 3600])
    torch.testing.assert_close(
        base, logits([5 * 10**8, 5 * 10**8 + 3600]), rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(base, logits([10**9, 10**9 + 7200]), atol=1e-3)
    torch.testing.assert_close(logits([7, 7]), query @ key.transpose(-1, -2))


def test_positions_count_from_the_newest():
    assert positions_from_end(torch.tensor([3, 1]), 4).tolist() == [
        [2, 1, 0, 0],
        [0, 0, 0, 0],
    ]
