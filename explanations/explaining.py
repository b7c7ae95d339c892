"""From contributions to an `Explanation`: what is named, in which order and sentence."""

from collections.abc import Callable, Iterator

import numpy as np

from answers import Contribution, Explanation, Feature, Item, Reason
from explanations.attribution import (
    Attribution,
    carried,
    explain,
    places_lost,
)
from explanations.counterfactual import what_if
from explanations.question import Question
from explanations.sentences import LEAST, family_label, sentence, strongest
from fields import UNKNOWN

ItemOf = Callable[[int], Item]  # what is said of an item by its row


def explanations_of(
    question: Question, item_of: ItemOf, k: int | None = None
) -> Iterator[Explanation]:
    """Each item's score, the contributions of each interaction and each family of features, and a
    sentence with the strongest reasons: interactions only if the item scores less without them.

    k: explain in full, for a list of k items: also the item's rank, how many ranks it falls without
    each interaction and each family, and counterfactuals.
    """
    found = explain(question)
    carries = carried(question, found)
    falls, family_falls = (None, {}) if k is None else places_lost(question)
    for number, row in enumerate(question.candidates):
        contributions, named = [], []
        # The largest first.
        for place in np.argsort(-found.history[number], kind="stable"):
            item = item_of(question.read.items[place])
            effect = round(float(found.history[number, place]), 4)
            places = None if k is None else int(falls[number, place])
            contribution = Contribution(
                **vars(item), effect=effect, places=places
            )
            contributions.append(contribution)
            if carries[number, place]:
                named.append(Reason("history", item.name, effect))
        features = _features(question, found, family_falls, number)
        tags = _tags(question, found, contributions, number)
        labels = [
            Reason("features", feature.label, feature.effect)
            for feature in features
            if feature.name not in question.tagged
        ]
        reasons = strongest(named, [*labels, *tags])
        full = {}
        if k is not None:
            full["rank"] = int(question.one_by_one[1][0, number])
            full["what_if"] = what_if(question, number, k, item_of)
        yield Explanation(
            **vars(item_of(row)),
            log_probability=round(float(found.score[number]), 4),
            sentence=sentence(question.catalogue.schema, reasons),
            reasons=reasons,
            history=tuple(contributions),
            features=features,
            **full,
        )


def _tags(
    question: Question,
    found: Attribution,
    contributions: list[Contribution],
    number: int,
) -> list[Reason]:
    """Of each tag of an item what is lost without it, with the items of the history that have it,
    the largest contribution first.

    Of a column of tags without which the item would score higher, or hardly lower, none is asked
    about.
    """
    items = question.catalogue.items
    row, reasons = question.candidates[number], []
    for family in question.tagged:
        if found.families[family][number] < LEAST:
            continue
        name = family.partition(".")[2]
        title = dict(enumerate(items.fields[name].titles, start=1))
        for code in set(items.data[name][row].tolist()) - {UNKNOWN}:
            left = question.without_tag(family, code)[number]
            effect = round(float(found.score[number] - left), 4)
            like = tuple(
                dict.fromkeys(
                    one.name
                    for one in contributions
                    if title[code] in (one.columns.get(name) or ())
                )
            )
            reasons.append(Reason("tag", title[code], effect, like))
    return reasons


def _features(
    question: Question,
    found: Attribution,
    falls: dict[str, np.ndarray],
    number: int,
) -> tuple[Feature, ...]:
    """Of each family of features, the largest effect first."""
    features = []
    for name, values in found.families.items():
        row = int(question.candidates[number])
        label = family_label(question.catalogue, name, row)
        places = int(falls[name][number]) if falls else None
        effect = round(float(values[number]), 4)
        features.append(Feature(name, label, effect, places))
    return tuple(sorted(features, key=lambda feature: -feature.effect))
