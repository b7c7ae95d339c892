"""Why a film is recommended: what each interaction, and each family of features, contributes to its score.

A film's score here is its logit with what all logits share taken out: its log-probability among the films that may be
recommended. (A constant added to every logit changes no ranking, and so must not show in an explanation.)

What the model is told is a *coalition*: some of the history's interactions and some of the families of features.
v(coalition) is the film's score then. Methods, all of which answer with an `Attribution`:

    leave_one_out         v(everything) - v(everything but i): exact, and need not add up, as the model is not additive
    shapley               mean of v(S and i) - v(S) over random orders in which things become known, the history as one
                          union whose interactions stay together (Owen values; Strumbelj and Kononenko, JMLR 11, 2010;
                          every order is also walked backwards). base + all contributions = score
    blocks                exact Shapley values of blocks of the history, the newest ones a single interaction each
                          and older ones in blocks that grow, by all their coalitions, in the weighted mean of two
                          games: what is not known is removed from the sequence, or masked in its place. Interactions
                          that stand in for each other share what they do, without the noise of sampled orders; a
                          block's value is divided as integrated gradients of its sign and attention roll-out say.
                          base + interactions = score
    integrated_gradients  gradient of the score along the straight way from interactions of which only the time is known
                          to the real ones (Sundararajan et al., arXiv:1703.01365). base + interactions = score
    attention_rollout     attention of all layers multiplied (Abnar and Zuidema, arXiv:2005.00928): same for every film
    random                numbers without meaning, the control

Axes: C films asked about, L interactions that the model reads, N coalitions, R rows of the item table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from batches import History, history_batch
from data_processor import MASK, NO_RATING
from enhanced_model import FEATURE_FAMILIES, EnhancedBERT4Rec

BLOCK_ENDS = (1, 2, 4, 8, 16, 32, 64)  # interactions from the newest, where blocks end
TRIED = 4  # interactions of the strongest contributions to a film that `carried` leaves out for good measure
ATTENTION = 0.5  # how much it counts beside gradients where a block's value is divided
TOKENS = 6_400  # interactions in one pass: more, and they leave the caches
DEFAULT = "blocks"  # chosen, as the numbers around it were, on other people than faithfulness.py reports
Absence = Literal["removed", "masked", "replaced"]
# How much each game counts: by masking alone it loses to attention roll-out where interactions are removed, by removal
# alone where they are masked or replaced (ablations/LOG.md).
BLOCK_WAYS: dict[Absence, float] = {"removed": 0.2, "masked": 0.8}


@dataclass(frozen=True)
class Question:
    """Why these films for this history? Also plays the game of leaving things out.

    candidates: (C,) item_index; allowed: (R,) True at the films among which probabilities are formed. absent: how an
    interaction is left out: removed from the sequence, its film and rating masked, or replaced by another film.
    """

    model: nn.Module
    history: History
    candidates: np.ndarray
    allowed: Tensor
    absent: Absence = "removed"
    stand_ins: np.ndarray | None = field(default=None, compare=False)  # (L,) films for 'replaced'

    @cached_property
    def read(self) -> History:
        """The newest interactions of the history, those that the model reads."""
        room = self.model.settings.seq_length
        if self.model.as_request(history_batch([_at(self.history, [])], room)).lengths[0]:
            room -= 1  # it appends a mask
        read = _at(self.history, np.arange(len(self.history.items))[-room:])
        return dataclasses.replace(read, whole=self.history.whole and len(read.items) == len(self.history.items))

    @property
    def length(self) -> int:
        """L."""
        return len(self.read.items)

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The families of features that the model has."""
        if not isinstance(self.model, EnhancedBERT4Rec):
            return ()
        return tuple(name for name in FEATURE_FAMILIES if used_families(self.model)[name])

    def scores(self, kept: np.ndarray, without: Set[str] = frozenset()) -> np.ndarray:
        """(N, C) score of each film when only the interactions in `kept` (N, L) are known, and not these families."""
        return self.outcomes(kept, without)[0]

    def outcomes(self, kept: np.ndarray, without: Set[str] = frozenset()) -> tuple[np.ndarray, np.ndarray]:
        """(scores, ranks from 1), (N, C) each, as in `scores`."""
        return self.of_histories([self._without(row) for row in kept], without)

    @cached_property
    def one_by_one(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores, ranks), (1 + L, C) each: with everything known, then without each interaction."""
        everything = np.ones((1, self.length), dtype=bool)
        return self.outcomes(np.concatenate([everything, ~np.eye(self.length, dtype=bool)]))

    @cached_property
    def without_families(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(scores, ranks), (C,) each, without each family, one at a time."""
        everything = np.ones((1, self.length), dtype=bool)
        return {family: tuple(part[0] for part in self.outcomes(everything, frozenset({family})))
                for family in self.families}

    @torch.no_grad()
    def of_histories(self, histories: list[History],
                     without: Set[str] = frozenset()) -> tuple[np.ndarray, np.ndarray]:
        """`outcomes` of N other histories."""
        order = np.argsort([len(history.items) for history in histories], kind="stable")  # little padding
        scores = np.empty((len(histories), len(self.candidates)))
        ranks, start = np.empty(scores.shape, dtype=int), 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * max(1, len(histories[order[end]].items)) <= TOKENS:
                end += 1
            batch = history_batch([histories[row] for row in order[start:end]], self.model.settings.seq_length)
            logits = self.model.score(batch, without) if without else self.model.score(batch)
            scores[order[start:end]] = self.of_logits(logits).double().numpy()
            rivals, own = logits.masked_fill(~self.allowed, -torch.inf), logits[:, torch.from_numpy(self.candidates)]
            ranks[order[start:end]] = 1 + torch.stack([(rivals > one[:, None]).sum(1) for one in own.T], dim=1).numpy()
            start = end
        return scores, ranks

    def of_logits(self, logits: Tensor) -> Tensor:
        """(N, R) logits to (N, C) scores."""
        return logits.masked_fill(~self.allowed, -torch.inf).log_softmax(1)[:, torch.from_numpy(self.candidates)]

    def _without(self, kept: np.ndarray) -> History:
        history = self.read
        if self.absent == "removed":
            left = _at(history, kept)
            if len(left.items) or self.model.starts:
                return left
            return _at(_unknown(history, MASK), [-1])  # nothing known of one interaction stands for no history
        others = _unknown(history, MASK if self.absent == "masked" else self.stand_ins)
        return dataclasses.replace(history, items=np.where(kept, history.items, others.items),
                                   ratings=None if history.ratings is None else
                                   np.where(kept, history.ratings, others.ratings))


@dataclass(frozen=True)
class Attribution:
    """Contributions to the scores (C,): `history` (C, L), oldest first, and `families`, name -> (C,).

    base: (C,) the score with nothing known, where base and contributions add up to the score; else None.
    """

    method: str
    score: np.ndarray
    history: np.ndarray
    families: dict[str, np.ndarray]
    base: np.ndarray | None = None


def leave_one_out(question: Question, _draw: np.random.Generator) -> Attribution:
    """See the module's head."""
    rows, _ = question.one_by_one
    return Attribution("leave_one_out", rows[0], (rows[0] - rows[1:]).T, family_effects(question, rows[0]))


def places_lost(question: Question) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """By how many ranks each film falls, among those that may be recommended, without each interaction, (C, L), and
    without each family, (C,)."""
    _, ranks = question.one_by_one
    return (ranks[1:] - ranks[0]).T, {family: without - ranks[0] for family, (_, without) in
                                      question.without_families.items()}


def carried(question: Question, found: Attribution) -> np.ndarray:
    """(C, L) whether an interaction is among the TRIED that contribute most to a film, and the film's score falls
    without it alone: a share in what several interactions do together is no reason where the film would be the better
    off without this one."""
    strongest = np.argsort(-found.history, axis=1, kind="stable")[:, :TRIED]  # (C, TRIED)
    places = np.unique(strongest)
    falls = np.zeros(found.history.shape, dtype=bool)
    if len(places):
        kept = np.ones((len(places), question.length), dtype=bool)
        kept[np.arange(len(places)), places] = False
        falls[:, places] = (question.scores(kept) < found.score).T
    return falls & (np.arange(question.length) == strongest[..., None]).any(1)


def family_effects(question: Question, score: np.ndarray) -> dict[str, np.ndarray]:
    """Score (C,) minus the score without each family, one at a time."""
    return {family: score - without for family, (without, _) in question.without_families.items()}


def shapley(question: Question, draw: np.random.Generator, orders: int = 8) -> Attribution:
    """See the module's head. orders: how many, half of them the others backwards."""
    length, families = question.length, question.families
    history = np.zeros((len(question.candidates), length))
    effects = {family: np.zeros(len(question.candidates)) for family in families}
    nothing, everything = np.zeros((1, length), dtype=bool), np.ones((1, length), dtype=bool)
    base = question.scores(nothing, frozenset(families))[0]
    unions, steps = ["history", *families], draw.permutation(length)
    for number in range(orders):
        if number % 2:
            unions, steps = unions[::-1], steps[::-1]
        else:
            unions, steps = list(draw.permutation(["history", *families])), draw.permutation(length)
        before, missing, known = base, set(families), nothing
        for union in unions:
            if union == "history":
                place = np.empty(length, dtype=int)
                place[steps] = np.arange(length)
                rows = question.scores(place <= np.arange(length)[:, None], frozenset(missing))  # (L, C)
                history[:, steps] += np.diff(rows, axis=0, prepend=before[None]).T
                before, known = rows[-1] if length else before, everything
            else:
                missing.discard(union)
                after = question.scores(known, frozenset(missing))[0]
                effects[union] += after - before
                before = after
    return Attribution("shapley", before, history / orders,
                       {family: value / orders for family, value in effects.items()}, base)


def blocks(question: Question, draw: np.random.Generator) -> Attribution:
    """See the module's head. Families by leaving them out."""
    length = question.length
    spans = np.split(np.arange(length)[::-1], [size for size in BLOCK_ENDS if size < length])  # newest first
    count = len(spans)
    coalitions = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)  # (2^n, n)
    kept = np.zeros((len(coalitions), length), dtype=bool)
    for number, span in enumerate(spans):
        kept[:, span] = coalitions[:, number:number + 1]
    values = sum(share * dataclasses.replace(question, absent=way).scores(kept)
                 for way, share in BLOCK_WAYS.items())  # (2^n, C)
    weight = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)])
    gradients = integrated_gradients(question, draw)
    steep = gradients.history / (np.abs(gradients.history).sum(1, keepdims=True) + 1e-9)  # (C, L)
    flow = attention_flow(question)
    history = np.zeros((len(question.candidates), length))
    for number, span in enumerate(spans):
        without = np.flatnonzero(~coalitions[:, number])
        gains = values[without + 2**number] - values[without]
        value = weight[coalitions[without].sum(1)] @ gains  # (C,)
        share = np.maximum(np.sign(value)[:, None] * steep[:, span], 0.0) + ATTENTION * flow[span]  # (C, block's size)
        history[:, span] = value[:, None] * share / share.sum(1, keepdims=True)
    return Attribution("blocks", values[-1], history, gradients.families, values[0])


def integrated_gradients(question: Question, _draw: np.random.Generator, steps: int = 32) -> Attribution:
    """See the module's head; the integral by Gauss and Legendre's rule. Families by leaving them out."""
    model, length = question.model, question.length
    seq_length = model.settings.seq_length
    real, unknown = (model.as_request(history_batch([history], seq_length))
                     for history in (question.read, _unknown(question.read, MASK)))
    with torch.no_grad():
        (end, attend), (start, _) = model.embed(real), model.embed(unknown)  # (1, prefix + L', D)

    def score(x: Tensor) -> Tensor:
        told = attend
        if attend.padding is not None:
            told = dataclasses.replace(told, padding=attend.padding.expand(len(x), -1, -1, -1))
        if attend.rotation is not None:
            rotation = tuple(part.expand(len(x), -1, -1, -1) for part in attend.rotation)
            told = dataclasses.replace(told, rotation=rotation)
        last = real.lengths.expand(len(x)) - 1
        return question.of_logits(model.rank(model.encoder.last_state(x, told, last), real))  # (N, C)

    points, weights = np.polynomial.legendre.leggauss(steps)
    done = torch.from_numpy((points + 1) / 2).to(end.dtype)[:, None, None]
    share = torch.from_numpy(weights / 2).to(end.dtype)[:, None]
    contributions, way = [], (start + done * (end - start)).requires_grad_()
    sums = (score(way) * share).sum(0)  # (C,)
    for film in range(len(sums)):
        (gradient,) = torch.autograd.grad(sums[film], way, retain_graph=film + 1 < len(sums))
        contributions.append((gradient.sum(0) * (end - start)[0]).sum(-1)[attend.prefix:attend.prefix + length])
    with torch.no_grad():
        ends = score(torch.cat([start, end])).double().numpy()
    return Attribution("integrated_gradients", ends[1], torch.stack(contributions).double().numpy(),
                       family_effects(question, ends[1]), ends[0])


@torch.no_grad()
def attention(question: Question) -> tuple[list[Tensor], int, int]:
    """(each layer's weights (H, P, P), where the history begins among the P positions, from where the film is read)."""
    model = question.model
    batch = model.as_request(history_batch([question.read], model.settings.seq_length))
    x, attend = model.embed(batch)
    last = int(batch.lengths[0]) - 1 + attend.prefix
    return [weights[0, :, :last + 1, :last + 1] for weights in model.encoder.attention_maps(x, attend)], \
        attend.prefix, last


def attention_flow(question: Question) -> np.ndarray:
    """(L,) attention of all layers multiplied, from the position that the film is read from to each interaction."""
    maps, first, last = attention(question)
    flow = torch.eye(len(maps[0][0]))
    for weights in maps:
        flow = (weights.mean(0) + torch.eye(len(flow))) / 2 @ flow
    return flow[last, first:first + question.length].double().numpy()


def attention_rollout(question: Question, _draw: np.random.Generator) -> Attribution:
    """See the module's head. Families by leaving them out."""
    score = question.scores(np.ones((1, question.length), dtype=bool))[0]
    return Attribution("attention_rollout", score, np.tile(attention_flow(question), (len(question.candidates), 1)),
                       family_effects(question, score))


def random(question: Question, draw: np.random.Generator) -> Attribution:
    """See the module's head."""
    score = question.scores(np.ones((1, question.length), dtype=bool))[0]
    shape = (len(question.candidates), question.length)
    return Attribution("random", score, draw.normal(size=shape),
                       {family: draw.normal(size=shape[0]) for family in question.families})


METHODS: dict[str, Callable[[Question, np.random.Generator], Attribution]] = {
    method.__name__: method for method in (leave_one_out, shapley, blocks, integrated_gradients, attention_rollout,
                                           random)}


def explain(question: Question, method: str = DEFAULT, seed: int = 0) -> Attribution:
    """The contributions that a method of METHODS finds."""
    return METHODS[method](question, np.random.default_rng(seed))


def used_families(model: EnhancedBERT4Rec) -> dict[str, bool]:
    """Which feature families a model has at all."""
    settings = model.settings
    return {"ratings": settings.rating_input,
            "times": model.time is not None or model.request_time is not None or settings.relative_time,
            "demographics": settings.gender or settings.age or settings.occupation, "user_id": settings.user_id,
            **{family: family in model.encoders for family in ("genres", "year", "title", "graph")}}


def _at(history: History, chosen: np.ndarray | list[int]) -> History:
    """Some of the interactions."""
    chosen = np.asarray(chosen, dtype=bool if len(chosen) and np.asarray(chosen).dtype == bool else int)
    return dataclasses.replace(history, **{name: value[chosen] for name in ("items", "ratings", "timestamps")
                                           if (value := getattr(history, name)) is not None})


def _unknown(history: History, films: int | np.ndarray) -> History:
    """Other films, without ratings, at the same times."""
    return dataclasses.replace(history, items=np.broadcast_to(films, history.items.shape).astype(np.int64),
                               ratings=np.full(history.items.shape, NO_RATING))
