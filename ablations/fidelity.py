"""Faithfulness of explanations by measures of the recommender literature, and on known reasons.

Without, or with nothing but, the Ke = 1 to 5 strongest interactions of the history (Baklanov et
al., SIGIR 2025; Barkan et al., SPINRec, AAAI 2026, arXiv:2511.18047):

    POS@Kr  share of users whose explained item is still among the first Kr without them; low is
            good
    DEL     probability without them, as a share of the probability with everything known; low is
            good
    INS     probability with nothing but them, as such a share; high is good
    CDCG    1 / log2(1 + rank) without them; low is good

Known reasons: where counts of transitions rank alone, as in PCTM, the logits are a sum of one
vector for each of the newest REACH interactions. The reference value of an interaction is the
item's log-softmax in its own vector.

    correlation  Spearman's rank correlation of the contributions with these values
    on others    share of the contributions, without their signs, that falls on interactions that
                 the counts do not read; low is good

A method need not reach 1 and 0: the score is normalised over the items as a whole, and what is
removed lets older interactions move up.

Axes: L interactions, Ke sizes.
"""

import copy

import numpy as np
import torch
from scipy.stats import spearmanr

from explanations.question import Question
from pair_counts import REACH
from scorer import Scorer

SIZES = (1, 2, 3, 4, 5)
PLACES = (5, 10, 20)
# 1 = high is good
MEASURES = {f"POS@{place}": -1 for place in PLACES}
MEASURES |= {"DEL": -1, "INS": 1, "CDCG": -1}
KNOWN = {"correlation": 1, "on others": -1}


def by_size(question: Question, contributions: np.ndarray) -> np.ndarray:
    """(MEASURES, Ke) for the one item of a question and the contributions (L,) of its history."""
    order = np.argsort(-contributions, kind="stable")
    place = np.argsort(order)  # (L,) 0 for the strongest
    sizes = np.array(SIZES)
    strongest = place < sizes[:, None]  # (Ke, L)
    known = np.concatenate([question.everything, ~strongest, strongest])
    scores, ranks = question.outcomes(known)  # (1 + 2 Ke, 1) each
    everything, without, alone = np.split(scores[:, 0], [1, 1 + len(SIZES)])
    rank = ranks[1 : 1 + len(SIZES), 0]  # (Ke,) without them
    measures = [rank <= last for last in PLACES]
    measures.append(np.exp(without - everything))
    measures.append(np.exp(alone - everything))
    measures.append(1 / np.log2(1 + rank))
    return np.stack(measures)


def counts(scorer: Scorer) -> bool:
    """Whether counts of transitions add to what a scorer ranks by."""
    transitions = scorer.transitions
    return transitions is not None and bool(transitions.weight.any())


def counts_alone(scorer: Scorer) -> Scorer:
    """A scorer of a copy of the model in which only the counts of transitions rank. Item vectors,
    item biases and the weight of the regression are 0."""
    model = copy.deepcopy(scorer.model)
    model.transitions.weight[:, -1] = 0
    for bias in (model.next_bias, model.masked_bias, model.start_bias):
        if bias is not None:
            bias.data.zero_()
    alone = Scorer(model)
    alone.table.zero_()
    # Without a family it would make its table anew.
    alone.families = ()
    return alone


def known_reasons(
    question: Question, contributions: np.ndarray
) -> tuple[float, float]:
    """KNOWN of contributions (L,) to the one item of a question of `counts_alone`."""
    transitions = question.scorer.transitions
    batch = question.batch([question.read])
    newest = min(REACH, question.length)
    parts = transitions.parts(batch)[0, :newest]  # (J, R) newest first
    parts = parts.masked_fill(~question.allowed, -torch.inf)
    item = int(question.candidates[0])
    terms = parts.log_softmax(1)[:, item]
    terms = terms.flip(0).numpy()  # (J,) oldest first
    correlation = spearmanr(contributions[-newest:], terms).statistic
    size = np.abs(contributions)
    on_others = 1 - size[-newest:].sum() / size.sum()
    return float(correlation), float(on_others)
