"""What would have to be otherwise: the fewest interactions without which an item leaves the list,
and another user.

Axes as in attribution.py.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from answers import Flip, Item, WhatIf
from explanations.question import Question

PAIRS_OF = 16  # of the most important interactions all pairs are tried


def what_if(
    question: Question, number: int, k: int, item: Callable[[int], Item]
) -> WhatIf:
    """What would have to be otherwise for an item of the question.

    item: what is said of an item by its row.
    """
    scores, _ = question.one_by_one
    contributions = (scores[0] - scores[1:])[:, number]
    places = smallest_set(question, contributions, k, number)
    without = None
    if places is not None:
        without = tuple(item(question.read.items[place]) for place in places)
    return WhatIf(without, tuple(other_users(question, number)))


def smallest_set(
    question: Question, contributions: np.ndarray, k: int, number: int = 0
) -> list[int] | None:
    """Interactions (places in 0..L - 1) without which an item of the question is not among the
    first k; none of them if it is not there anyway, None if it stays without any history.

    contributions: (L,), which interactions to try first. Sets of one are all tried, sets of two
    among the PAIRS_OF most important; a larger one is found step by step and freed of what it
    does not need, so a smaller one may exist.
    """
    length, order = question.length, np.argsort(-contributions, kind="stable")
    ranks = question.one_by_one[1][:, number]
    if ranks[0] > k:
        return []

    def leaves(sets: list[list[int]]) -> np.ndarray:
        known = np.ones((len(sets), length), dtype=bool)
        for row, places in enumerate(sets):
            known[row, places] = False
        return question.outcomes(known)[1][:, number] > k

    single = ranks[1:][order] > k
    if single.any():
        return [int(order[single.argmax()])]
    pairs = [
        list(map(int, pair)) for pair in itertools.combinations(order[:PAIRS_OF], 2)
    ]
    gone = leaves(pairs) if pairs else np.zeros(0, dtype=bool)
    if gone.any():
        return sorted(pairs[int(gone.argmax())])
    growing = [order[:size].tolist() for size in range(1, length + 1)]
    gone = leaves(growing) if growing else np.zeros(0, dtype=bool)
    if not gone.any():
        return None
    return sorted(_freed(growing[int(gone.argmax())], leaves))


def _freed(
    found: list[int], leaves: Callable[[list[list[int]]], np.ndarray]
) -> list[int]:
    """The set without what it does not need: the least important first, as many at once as can
    be.
    """
    while True:
        smaller = [[other for other in found if other != place] for place in found]
        spare = [
            place
            for place, enough in zip(found, leaves(smaller), strict=True)
            if enough
        ]
        if not spare:
            return found
        spare.reverse()
        fewer = [
            [place for place in found if place not in spare[:count]]
            for count in range(1, len(spare) + 1)
        ]
        found = fewer[max(np.flatnonzero(leaves(fewer)))]


def other_users(question: Question, number: int) -> list[Flip]:
    """The item's rank and score were a counterfactual column of the user another value, all else
    as it is.

    What the model learned of the user beside (the id, the history) stays. Of a user of whom
    nothing is known, each value alone.
    """
    history, users = question.read, question.catalogue.users
    others, places = [], []
    for name, entry in users.fields.items():
        if not entry.column.counterfactual or f"users.{name}" not in question.families:
            continue
        own = int(history.user_columns.get(name, entry.unknown))
        for code, (value, title) in enumerate(
            zip(entry.values, entry.titles, strict=True), start=1
        ):
            if code != own:
                columns = {**history.user_columns, name: np.array(code)}
                others.append(dataclasses.replace(history, user_columns=columns))
                places.append((name, value, title))
    if not others:
        return []
    scores, ranks = question.of_histories(others)
    return [
        Flip(*place, int(ranks[row, number]), round(float(scores[row, number]), 4))
        for row, place in enumerate(places)
    ]
