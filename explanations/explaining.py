"""From contributions to `Explanation`: what is named, in which order, in which sentence."""

from collections.abc import Callable

import numpy as np

from answers import Contribution, Explanation, Feature, Item, Reason
from explanations.attribution import Attribution, carried, explain, places_lost
from explanations.counterfactual import what_if
from explanations.question import Question
from explanations.sentences import family_label, sentence, strongest

ItemOf = Callable[[int], Item]  # what is said of an item by its row
Lost = tuple[np.ndarray, dict[str, np.ndarray]]


def explanations_of(
    question: Question, item_of: ItemOf, method: str, k: int | None = None
) -> list[Explanation]:
    """Of each item that a question asks about its score, what each interaction and each family
    of features contributes, and in a sentence its reasons: the strongest of these, interactions
    only if the item also scores less without them alone.

    k: explain in full, for a list of k items: also the item's rank, by how many ranks it falls
    without each interaction and each family, and what would have to be otherwise.
    """
    found = explain(question, method)
    reasons = carried(question, found)
    lost = None if k is None else places_lost(question)
    answers = []
    for number, row in enumerate(question.candidates):
        contributions = _contributions(question, found, item_of, lost, number)
        features = _features(question, found, lost, number)
        # In the order of `contributions`, which are sorted.
        true = reasons[number][np.argsort(-found.history[number], kind="stable")]
        named = [
            (entry.name, entry.effect)
            for entry, counts in zip(contributions, true, strict=True)
            if counts
        ]
        labels = {feature.label: feature.effect for feature in features}
        items, families = strongest(named, labels)
        rank = otherwise = None
        if k is not None:
            rank = int(question.one_by_one[1][0, number])
            otherwise = what_if(question, number, k, item_of)
        answer = Explanation(
            **vars(item_of(row)),
            log_probability=round(float(found.score[number]), 4),
            sentence=sentence(question.catalogue.schema, items, families),
            reasons=(
                *(Reason("history", *pair) for pair in items),
                *(Reason("features", *pair) for pair in families),
            ),
            history=contributions,
            features=features,
            rank=rank,
            what_if=otherwise,
        )
        answers.append(answer)
    return answers


def _contributions(
    question: Question,
    found: Attribution,
    item_of: ItemOf,
    lost: Lost | None,
    number: int,
) -> tuple[Contribution, ...]:
    """Of each interaction, the largest first."""
    effects = found.history[number]
    contributions = []
    for place in np.argsort(-effects, kind="stable"):
        item = item_of(question.read.items[place])
        places = None if lost is None else int(lost[0][number, place])
        effect = round(float(effects[place]), 4)
        contributions.append(Contribution(**vars(item), effect=effect, places=places))
    return tuple(contributions)


def _features(
    question: Question, found: Attribution, lost: Lost | None, number: int
) -> tuple[Feature, ...]:
    """Of each family of features, the largest first."""
    features = []
    for name, values in found.families.items():
        places = None if lost is None else int(lost[1][name][number])
        label = family_label(question.catalogue, name)
        features.append(Feature(name, label, round(float(values[number]), 4), places))
    return tuple(sorted(features, key=lambda feature: -feature.effect))
