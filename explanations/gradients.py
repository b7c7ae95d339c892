"""Contributions by gradients of the score along paths to the history.

    integrated_gradients  the straight path from interactions of which only the time is known to the
                          real ones (Sundararajan et al., arXiv:1703.01365)
    expected_gradients    paths from random items at the same times, one point of each (Erion et
                          al., arXiv:1906.10670)

Counts of transitions are added to the logits and not read by the encoder: their part grows along
the same path, from that of the start to that of the history.

Axes: as in question.py; W paths or points of a path, J newest interactions that the counts read.
"""

import numpy as np
import torch
from torch import Tensor

from batches import History
from dataset import MASK
from explanations.question import Question, unknown_items

POINTS = 32


def integrated_gradients(
    question: Question, points: int = POINTS
) -> np.ndarray:
    """(C, L) contributions; the integral by Gauss and Legendre's rule."""
    start = unknown_items(question.read, MASK)
    places, weights = np.polynomial.legendre.leggauss(points)
    return _along(question, [start], (places + 1) / 2, weights / 2)


def expected_gradients(
    question: Question, seed: int = 0, points: int = POINTS
) -> np.ndarray:
    """(C, L) contributions, a draw."""
    draw = np.random.default_rng(seed)
    items = np.flatnonzero(question.allowed.numpy())
    starts = [
        unknown_items(question.read, draw.choice(items, question.length))
        for _ in range(points)
    ]
    # one point in each of as many equal parts of a way
    places = (np.arange(points) + draw.random(points)) / points
    return _along(question, starts, places, np.full(points, 1 / points))


def _along(
    question: Question,
    starts: list[History],
    places: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """(C, L) weighted sum of gradients times path, at places (W,) from 0 to 1 on paths to the
    history. starts: where they begin, one for all places or one for each."""
    scorer, length = question.scorer, question.length
    model, table = scorer.model, scorer.table
    real = question.request(question.read)
    others = model.as_request(question.batch(starts))
    with torch.no_grad():
        end, attend = model.embed(real, table)  # (1, prefix + L', D)
        begin, _ = model.embed(others, table)  # (W, prefix + L', D)
    way = end - begin
    done, share = (
        torch.from_numpy(one).to(end.dtype)[:, None]
        for one in (places, weights)
    )
    x = (begin + done[..., None] * way).requires_grad_()
    # (1 or W, J, R) what counts add on the way, and how much of it is there, (W, J)
    counted = _counted(question, [question.read])
    counted_way = counted - _counted(question, starts)
    there = done.repeat(1, counted.shape[1]).requires_grad_()

    states = model.encoder.last_state(
        x, attend, real.lengths.expand(len(x)) - 1
    )
    logits = model.rank(states, table, real)
    logits = logits + (counted - counted_way).sum(1)
    logits = logits + _sum_of_counts(there, counted_way)
    scores = (question.of_logits(logits) * share).sum(0)  # (C,)
    contributions = []
    for score in scores:
        of_x, of_counts = torch.autograd.grad(
            score, (x, there), retain_graph=True
        )
        each = (of_x * way).sum((0, -1))
        each = each[attend.prefix : attend.prefix + length]
        each[length - there.shape[1] :] += of_counts.sum(0)
        contributions.append(each)
    return torch.stack(contributions).double().numpy()


def _sum_of_counts(there: Tensor, counted: Tensor) -> Tensor:
    """(W, R) sum over J of shares (W, J) of counts (1 or W, J, R), as products of matrices."""
    if len(counted) == 1:
        return there @ counted[0]
    return (there[:, None] @ counted)[:, 0]


def _counted(question: Question, histories: list[History]) -> Tensor:
    """(W, J, R) what counts add to the logits, by the newest interactions, oldest first."""
    transitions = question.scorer.transitions
    if transitions is None:
        return torch.zeros(1, 0, len(question.allowed))
    with torch.no_grad():
        newest = transitions.parts(question.batch(histories))
    return newest[:, : question.length].flip(1)
