"""Contributions of each interaction and of each family of features to a recommendation.

Scores and coalitions are those of question.py. Methods for interactions:

    leave_one_out         v(everything) - v(everything but i); contributions need not add up
    blocks                Shapley values of blocks of the history: the newest interactions alone,
                          older ones in blocks that grow; by least squares over a part of the
                          coalitions where there are more than five blocks. The value of a
                          coalition is a weighted mean of two scores: with the other interactions
                          removed from the sequence, and masked in their places. A block's value is
                          divided by integrated gradients of its sign and by attention.
                          base + interactions = score
    integrated_gradients  gradients.py. base + interactions = score
    expected_gradients    gradients.py. base + interactions = score on average over draws
    attention_rollout     attention of all layers multiplied (Abnar and Zuidema,
                          arXiv:2005.00928): the same for every item
    random                random numbers, a control

Axes as in question.py.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from explanations.gradients import expected_gradients, integrated_gradients
from explanations.question import Absence, Question

# Interactions from the newest, where blocks end.
BLOCK_ENDS = (1, 2, 4, 8, 16, 32, 64)
# Blocks that a coalition lacks or knows at most, and points of the gradients.
FEW = 2
BLOCK_POINTS = 12
# Interactions of the strongest contributions that `carried` leaves out for good measure.
TRIED = 4
# How much it counts beside gradients where a block's value is divided.
ATTENTION = 0.5
# Chosen, as the numbers around it were, on other users than ablations/faithfulness.py reports.
DEFAULT = "blocks"
# How much each game counts: by masking alone it loses to attention rollout where interactions
# are removed, by removal alone where they are masked or replaced (ablations/LOG.md).
BLOCK_WAYS: dict[Absence, float] = {"removed": 0.2, "masked": 0.8}


@dataclass(frozen=True)
class Attribution:
    """Contributions to the scores (C,): `history` (C, L), oldest first, and `families`, name ->
    (C,), each by leaving it out (at random for the control)."""

    score: np.ndarray
    history: np.ndarray
    families: dict[str, np.ndarray]


def leave_one_out(question: Question) -> np.ndarray:
    """See the module's head."""
    scores, _ = question.one_by_one
    return (scores[0] - scores[1:]).T


def places_lost(
    question: Question,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ranks that each item falls, among those that may be recommended, without each interaction,
    (C, L), and without each family, (C,)."""
    _, ranks = question.one_by_one
    falls = question.without_families[:, 1] - ranks[0]
    families = dict(zip(question.families, falls, strict=True))
    return (ranks[1:] - ranks[0]).T, families


def carried(question: Question, found: Attribution) -> np.ndarray:
    """(C, L) whether an interaction is among the TRIED that contribute most to an item, and the
    item's score falls without it alone.

    An interaction without which the score would be higher is no reason for the item, even if it has
    a share in a joint effect.
    """
    # (C, TRIED)
    strongest = np.argsort(-found.history, axis=1, kind="stable")[:, :TRIED]
    places, everywhere = np.unique(strongest), np.arange(question.length)
    without = question.scores(everywhere != places[:, None])
    falls = np.zeros(found.history.shape, dtype=bool)
    falls[:, places] = (without < found.score).T
    return falls & (everywhere == strongest[..., None]).any(1)


def coalitions_of(players: int) -> np.ndarray:
    """(N, players) bool, those that lack, or know, at most FEW players: all up to five players."""
    numbers = np.arange(2**players)[:, None]
    known = (numbers & 2 ** np.arange(players)) > 0
    size = known.sum(1)
    return known[np.minimum(size, players - size) <= FEW]


def shapley_values(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n, C) Shapley values of n players, from the values (N, C) of coalitions (N, n) with nobody
    first and everybody last.

    The additive game that is nearest to the values (Lundberg and Lee, arXiv:1705.07874, theorem
    2): exact if all coalitions are there. Of `coalitions_of`, exact if players have effects alone
    and in pairs, else close.
    """
    players = known.shape[1]
    total = values[-1] - values[0]  # (C,)
    size = known[1:-1].sum(1)
    if players == 1:
        return total[None]
    sets = np.array([math.comb(players, number) for number in size])
    weight = np.sqrt(1 / (sets * size * (players - size)))[:, None]
    # The last player has what the others leave of the total.
    inside = known[1:-1].astype(float)
    last = inside[:, -1:]
    wanted = values[1:-1] - values[0] - last * total
    others = np.linalg.lstsq(
        weight * (inside[:, :-1] - last), weight * wanted, rcond=None
    )[0]
    return np.concatenate([others, total[None] - others.sum(0)])


def blocks(question: Question) -> np.ndarray:
    """See the module's head."""
    age = np.arange(question.length)[::-1]
    block = np.searchsorted(BLOCK_ENDS, age, side="right")  # (L,)
    count = block.max(initial=0) + 1
    coalitions = coalitions_of(count)
    known = coalitions[:, block]  # (N, L)
    values = sum(
        share * dataclasses.replace(question, absent=way).scores(known)
        for way, share in BLOCK_WAYS.items()
    )  # (N, C)
    of_blocks = shapley_values(coalitions, values)
    gradients = integrated_gradients(question, BLOCK_POINTS)
    size = np.abs(gradients).sum(1, keepdims=True)
    steep = gradients / (size + 1e-9)  # (C, L)
    flow = attention_flow(question)
    history = np.zeros(gradients.shape)
    for number, value in enumerate(of_blocks):
        span = block == number
        same_sign = np.maximum(np.sign(value)[:, None] * steep[:, span], 0.0)
        share = same_sign + ATTENTION * flow[span]  # (C, block's size)
        history[:, span] = value[:, None] * share / share.sum(1, keepdims=True)
    return history


@torch.no_grad()
def attention_flow(question: Question) -> np.ndarray:
    """(L,) attention of all layers multiplied, from the position that the item is read from to
    each interaction."""
    model = question.scorer.model
    batch = question.request(question.read)
    x, attend = model.embed(batch, question.scorer.table)
    count = int(batch.lengths[0]) + attend.prefix  # positions without padding
    identity = torch.eye(count)
    flow = identity
    for weights in model.encoder.attention_maps(x, attend):
        flow = (weights[0, :, :count, :count].mean(0) + identity) / 2 @ flow
    return flow[-1, attend.prefix :][: question.length].double().numpy()


def attention_rollout(question: Question) -> np.ndarray:
    """See the module's head."""
    return np.tile(attention_flow(question), (len(question.candidates), 1))


METHODS: dict[str, Callable[[Question], np.ndarray]] = {
    method.__name__: method
    for method in (
        leave_one_out,
        blocks,
        integrated_gradients,
        attention_rollout,
    )
}
# (question, seed): contributions that depend on a draw
DRAWN: dict[str, Callable[[Question, int], np.ndarray]] = {
    "expected_gradients": expected_gradients
}


def explain(
    question: Question, method: str = DEFAULT, seed: int = 0
) -> Attribution:
    """The contributions by a method of METHODS or DRAWN, or by the control 'random'."""
    score = question.scores(question.everything)[0]
    if method == "random":
        draw = np.random.default_rng(seed)
        history = draw.normal(size=(len(score), question.length))
        families = draw.normal(size=(len(question.families), len(score)))
    else:
        if method in DRAWN:
            history = DRAWN[method](question, seed)
        else:
            history = METHODS[method](question)
        families = score - question.without_families[:, 0]
    return Attribution(
        score, history, dict(zip(question.families, families, strict=True))
    )
