"""The optimizer: Muon for the weight matrices of the blocks and of the cross-attention, AdamW for
all other parameters.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) makes the singular values of the
momentum about equal. So rare directions of a matrix are learned as fast as frequent ones.
With weights W, gradient G, momentum B and lerp(a, b, t) = a + t (b - a):

    B <- lerp(B, G, 1 - beta),  M = lerp(G, B, beta)                 momentum, Nesterov's
    W <- (1 - lr decay) W - lr .2 sqrt(max(rows, columns)) orthogonal(M)

The factor makes a step about as long as one of AdamW (Liu et al., 2025, arXiv:2502.16982, eq. 4),
so both share one learning rate. torch.optim.Muon computes `orthogonal` in bf16, which takes ten
times as long on a processor without bf16.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from transformer import Block, CrossAttention

MOMENTUM = 0.95
# Root mean square of a usual step of AdamW, in multiples of the learning rate.
STEP_LENGTH = 0.2
# Of the quintic that draws singular values towards 1, and how often it is applied.
QUINTIC = 3.4445, -4.7750, 2.0315
ROUNDS = 5
WARM_UP = 0.05  # share of all steps


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with `muon` true are updated by Muon.

    Of a table with a sparse gradient only the rows that have one change, each as if its steps were
    all that there were.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of all parameters that have a gradient. closure: accelerate gives one, None."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                if group["muon"]:
                    self._step_matrix(matrix, group)
                elif matrix.grad.is_sparse:
                    self._step_rows(matrix, group)
                else:
                    continue
                matrix.grad = None  # AdamW passes over it
        super().step()

    def _step_rows(self, table: Tensor, group: dict[str, Any]) -> None:
        gradient = table.grad.coalesce()
        rows, gradient = gradient.indices()[0], gradient.values()
        state = self.state[table]
        if not state:
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(table)
            state["steps"] = table.new_zeros(len(table), 1)
            state["step"] = torch.zeros(())  # AdamW asks for one when it loads
        steps = state["steps"][rows] + 1  # (n, 1)
        moments = []
        for name, value, beta in (
            ("exp_avg", gradient, group["betas"][0]),
            ("exp_avg_sq", gradient.square(), group["betas"][1]),
        ):
            moment = state[name][rows].lerp(value, 1 - beta)
            state[name][rows] = moment
            moments.append(moment / (1 - beta**steps))
        state["steps"][rows] = steps
        mean, square = moments
        step = group["lr"] * mean / (square.sqrt() + group["eps"])
        kept = 1 - group["lr"] * group["weight_decay"]
        table[rows] = table[rows] * kept - step

    def _step_matrix(self, matrix: Tensor, group: dict[str, Any]) -> None:
        gradient = matrix.grad
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # AdamW asks for one when it loads
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonal(gradient.lerp(momentum, MOMENTUM))
        length = group["lr"] * STEP_LENGTH * max(matrix.shape) ** 0.5
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.sub_(direction, alpha=length)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (N, M) whose singular values are about 1 (.7 to 1.2), by Newton-Schulz iterations.

    Singular values near 0 stay smaller.
    """
    wide = matrix.mT if len(matrix) > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp_min(1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.mT if wide is not matrix else x


def optimizer_for(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> MuonAdamW:
    """The optimizer of a model. Matrices of linear maps and tables of vectors decay; biases, norms
    and single vectors do not."""
    matrices = _block_matrices(model)
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay, "muon": True},
        {"params": [], "weight_decay": weight_decay, "muon": False},
        {"params": [], "weight_decay": 0.0, "muon": False},
    ]
    by_muon, with_decay, without_decay = groups
    for parameter in model.parameters():
        if id(parameter) in matrices:
            by_muon["params"].append(parameter)
        elif id(parameter) in decayed:
            with_decay["params"].append(parameter)
        else:
            without_decay["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    return MuonAdamW(groups, lr=learning_rate, fused=True)


def _block_matrices(model: nn.Module) -> set[int]:
    """The ids of the weights of all linear maps inside blocks and cross-attention."""
    found = set()
    for part in model.modules():
        if not isinstance(part, Block | CrossAttention):
            continue
        for module in part.modules():
            if isinstance(module, nn.Linear):
                found.add(id(module.weight))
    return found


def clip_gradient(model: nn.Module, largest: float) -> None:
    """Scale the gradient to this norm if its norm is larger."""
    gradients = []
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)


def warm_up_and_decay(share: float, steps: int) -> float:
    """Factor on the learning rate after this share of a run's steps: linear warm-up, then a cosine
    to 0."""
    if share < WARM_UP:  # never 0, or the first step would be lost
        return max(share / WARM_UP, 1 / (1 + WARM_UP * steps))
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
