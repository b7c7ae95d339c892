"""The optimizer against torch's own ones, and which parameters it steps how."""

import pytest
import torch
from torch import nn

from model_io import new_model
from optimizer import MuonAdamW, clip_gradient, optimizer_for, orthogonal
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


def table_steps(sparse, reads, optimizer_of):
    """A table of 9 vectors after steps that read some of them."""
    torch.manual_seed(3)
    table = nn.Embedding(9, 4, sparse=sparse)
    start = table.weight.detach().clone()
    optimizer = optimizer_of(table.weight)
    for rows in reads:
        optimizer.zero_grad()
        (table(torch.tensor(rows)) - 1).square().sum().backward()
        optimizer.step()
    return table.weight.detach(), start


def ours(weight):
    group = {"params": [weight], "muon": False}
    return MuonAdamW([group], lr=0.1, weight_decay=0.5)


def test_rows_are_stepped_as_adamw_steps_a_table_of_them():
    def theirs(weight):
        return torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)

    every = [list(range(9))] * 6
    found, _ = table_steps(True, every, ours)
    wanted, _ = table_steps(False, every, theirs)
    torch.testing.assert_close(found, wanted)
    # A row that is read in some of the steps is as one of a table that is read in those alone.
    some = [[0, 2], [2, 2, 5], [0], [5, 2]]
    found, start = table_steps(True, some, ours)
    for row in (0, 5):
        alone, _ = table_steps(False, [list(range(9))] * 2, theirs)
        torch.testing.assert_close(found[row], alone[row])
    untouched = [1, 3, 4, 6, 7, 8]
    assert torch.equal(found[untouched], start[untouched])


def test_a_gradient_with_sparse_parts_is_clipped_as_a_dense_one():
    found = []
    for sparse in (True, False):
        torch.manual_seed(4)
        model = nn.Sequential(
            nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 4)
        )
        for _ in range(2):
            model(torch.tensor([2, 2, 7])).square().sum().backward()
        if not sparse:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        else:
            clip_gradient(model, 0.1)
        found.append([one.grad.to_dense() for one in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    before = [one.clone() for one in found[1]]
    clip_gradient(model, 5.0)
    assert all(map(torch.equal, before, found[1]))
