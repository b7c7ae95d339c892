"""What would have to be otherwise: the fewest interactions without which a film leaves the list, and another person.

Axes as in attribution.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from explanations.attribution import Question
from readers.interactions import AGE_GROUPS, GENDERS

PAIRS_OF = 16  # of the most important interactions all pairs are tried


def what_if(question: Question, number: int, k: int, film: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """What would have to be otherwise for a film of the question, as `RecommendationEngine.explain` says it.

    film: what is said of a film by its item_index.
    """
    scores, _ = question.one_by_one
    places = smallest_set(question, (scores[0] - scores[1:])[:, number], k, number)
    return {"without": None if places is None else [film(question.read.items[place]) for place in places],
            "as_another": [{"fact": fact, "value": value, "rank": int(ranks[number]),
                            "log_probability": round(float(scores[number]), 4)}
                           for fact, value, scores, ranks in other_people(question)]}


def smallest_set(question: Question, contributions: np.ndarray, k: int, film: int = 0) -> list[int] | None:
    """Interactions (places in 0..L - 1) without which a film of the question is not among the first k; none of them if
    it is not there anyway, None if it stays without any history.

    contributions: (L,), which interactions to try first. Sets of one are all tried, sets of two among the PAIRS_OF most
    important; a larger one is found step by step and freed of what it does not need, so a smaller one may exist.
    """
    length, order = question.length, np.argsort(-contributions, kind="stable")
    if question.one_by_one[1][0, film] > k:
        return []

    def leaves(sets: list[list[int]]) -> np.ndarray:
        kept = np.ones((len(sets), length), dtype=bool)
        for row, places in enumerate(sets):
            kept[row, places] = False
        return question.outcomes(kept)[1][:, film] > k

    single = question.one_by_one[1][1:, film][order] > k
    if single.any():
        return [int(order[single.argmax()])]
    pairs = [list(map(int, pair)) for pair in itertools.combinations(order[:PAIRS_OF], 2)]
    gone = leaves(pairs) if pairs else np.zeros(0, dtype=bool)
    if gone.any():
        return sorted(pairs[int(gone.argmax())])
    growing = [[int(place) for place in order[:size]] for size in range(1, length + 1)]
    gone = leaves(growing) if growing else np.zeros(0, dtype=bool)
    if not gone.any():
        return None
    found = growing[int(gone.argmax())]
    while True:  # give back, the least important first, as many as can be, until there is none that can be alone
        spare = [place for place, alone in zip(found, leaves([[other for other in found if other != place]
                                                              for place in found]), strict=True) if alone][::-1]
        if not spare:
            return sorted(found)
        fewer = [[place for place in found if place not in spare[:count]] for count in range(1, len(spare) + 1)]
        found = fewer[max(np.flatnonzero(leaves(fewer)))]


def other_people(question: Question) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(fact, value, scores (C,), ranks (C,)) were the person of another gender or age group, all else as it is.

    What the model learned of the person beside the demographics (its token, the history) stays. Of somebody of whom
    nothing is known, each gender and each age group alone.
    """
    gender, age, occupation = question.history.demographics
    others = [("gender", name, (index, age, occupation)) for index, name in enumerate(GENDERS, start=1)
              if index != gender]
    others += [("age", name, (gender, index, occupation)) for index, name in enumerate(AGE_GROUPS.values(), start=1)
               if index != age]
    if "demographics" not in question.families:
        return []
    scores, ranks = question.of_histories([dataclasses.replace(question.read, demographics=who)
                                           for _, _, who in others])
    return [(fact, value, scores[row], ranks[row]) for row, (fact, value, _) in enumerate(others)]
