"""Counterfactuals: a small set of interactions without which an item leaves the list, and other
values of user columns.

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
    """The counterfactuals of an item of the question.

    item: gives an item by its row.
    """
    places = smallest_set(question, k, number)
    without = None
    if places is not None:
        without = tuple(item(question.read.items[place]) for place in places)
    return WhatIf(without, tuple(other_users(question, number)))


def smallest_set(
    question: Question, k: int, number: int = 0
) -> list[int] | None:
    """A small set of interactions (places in 0..L - 1) without which an item of the question is not
    among the first k; empty if it is not there anyway, None if it stays without any history.

    All single interactions are tried, then pairs of the PAIRS_OF without which the score falls
    most. A larger set is built step by step and then reduced, so a smaller one may exist.
    """
    scores, ranks = question.one_by_one
    order = np.argsort(scores[1:, number], kind="stable").tolist()
    if ranks[0, number] > k:
        return []

    def first_that_leaves(sets: list[list[int]]) -> list[int] | None:
        known = np.ones((len(sets), question.length), dtype=bool)
        for row, places in enumerate(sets):
            known[row, places] = False
        gone = question.outcomes(known)[1][:, number] > k
        return sets[int(gone.argmax())] if gone.any() else None

    for place in order:
        if ranks[1 + place, number] > k:
            return [place]
    pairs = map(list, itertools.combinations(order[:PAIRS_OF], 2))
    found = first_that_leaves(list(pairs))
    if found is None:
        growing = [order[: size + 1] for size in range(len(order))]
        found = first_that_leaves(growing)
    if found is None:
        return None
    for place in found[::-1]:  # the least important first
        fewer = [other for other in found if other != place]
        found = first_that_leaves([fewer]) or found
    return sorted(found)


def other_users(question: Question, number: int) -> list[Flip]:
    """The item's rank for other values of the user's counterfactual columns, all else unchanged.

    The user id and the history stay. For a user without known columns, each value alone.
    """
    history, fields = question.read, question.catalogue.users.fields
    others, flips = [], []
    for name, entry in fields.items():
        if (
            not entry.column.counterfactual
            or f"users.{name}" not in question.families
        ):
            continue
        for code, value in enumerate(entry.values, start=1):
            if code == history.user_columns.get(name):
                continue
            columns = {**history.user_columns, name: np.array(code)}
            others.append(dataclasses.replace(history, user_columns=columns))
            flips.append((name, value, entry.titles[code - 1]))
    _, ranks = question.of_histories(others)
    return [
        Flip(*flip, int(rank))
        for flip, rank in zip(flips, ranks[:, number], strict=True)
    ]
