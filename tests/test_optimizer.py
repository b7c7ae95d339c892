"""The optimizer against torch's own ones, and which parameters it steps how."""

import pytest
import torch

from model_io import new_model
from optimizer import MuonAdamW, optimizer_for, orthogonal
from tests.conftest import VARIANTS


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 256), (3, 40)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    plain = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.1, 3, min(shape))
    matrix = plain.U @ torch.diag(values) @ plain.Vh
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.25
    # The directions stay: it is near U V^T.
    along = ((plain.U @ plain.Vh) * orthogonal(matrix)).sum()
    assert along == pytest.approx(float(values.sum()), rel=1e-3)


def quadratic(parameter, target):
    return ((parameter - target) ** 2).mul(torch.linspace(1, 9, 24)).sum()


@pytest.mark.parametrize("shape", [(16, 24), (48, 24)])
def test_muon_steps_as_torchs_does(shape):
    """Which computes in bf16: so only as near as that."""
    torch.manual_seed(1)
    start, target = torch.randn(shape), torch.randn(shape)
    found = []
    for own in (True, False):
        weight = torch.nn.Parameter(start.clone())
        given = {"lr": 0.01, "weight_decay": 0.5}
        if own:
            group = {"params": [weight], "muon": True}
            optimizer = MuonAdamW([group], **given)
        else:
            optimizer = torch.optim.Muon(
                [weight], adjust_lr_fn="match_rms_adamw", **given
            )
        for _ in range(8):
            optimizer.zero_grad()
            quadratic(weight, target).backward()
            optimizer.step()
        found.append(weight.detach() - start)
    ours, theirs = found
    assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_all_else_is_stepped_by_adamw():
    torch.manual_seed(2)
    start, target = torch.randn(16, 24), torch.randn(16, 24)
    found = []
    for own in (True, False):
        weight = torch.nn.Parameter(start.clone())
        group = {"params": [weight]} | ({"muon": False} if own else {})
        build = MuonAdamW if own else torch.optim.AdamW
        optimizer = build([group], lr=0.01, weight_decay=0.5, fused=True)
        for _ in range(8):
            optimizer.zero_grad()
            quadratic(weight, target).backward()
            optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found)


def names_in(model, group):
    """The names of a group's parameters."""
    chosen = {id(one) for one in group["params"]}
    return {
        name for name, one in model.named_parameters() if id(one) in chosen
    }


def test_matrices_of_blocks_go_to_muon_and_biases_do_not_decay(data):
    model = new_model(data, VARIANTS["enhanced"])
    turned, decayed, spared = (
        names_in(model, group)
        for group in optimizer_for(model, 0.01, 0.1).param_groups
    )
    assert turned | decayed | spared == {
        name for name, _ in model.named_parameters()
    }
    assert len(turned) == 4 * 2 + 3
    assert "encoder.blocks.0.qkv.weight" in turned
    assert "user_context.ask.query.weight" in turned
    assert "item_ids.weight" in decayed
    assert {"position", "next_bias", "encoder.final_norm.weight"} <= spared
