"""An explanation in words: one sentence from the strongest contributions."""

import dataclasses
from collections.abc import Sequence

from answers import Reason
from dataset import Catalogue
from schema import Schema

LEAST = 0.1  # a contribution below this, or below SHARE of the largest, is no reason
SHARE = 0.25
ITEMS = 2
FEATURES = 2
LIKE = 2  # items of the history that a tag is shown with
SHORT = ("category", "number")
# Families of features, or the tables that their columns are of.
WORDS = {
    "times": "the dates of your history and the gaps between them",
    "users.id": "your user vector, learned from all that you {verb}",
    "graph": "its neighbours in the graph of {nouns}",
    "items": "its {title}",
    "users": "your {title}",
    "interactions": "the {title} of your history",
}


def family_label(
    catalogue: Catalogue, family: str, row: int | None = None
) -> str:
    """A family of features in words; with the value of an item if it is short."""
    schema = catalogue.schema
    if family in WORDS:
        return WORDS[family].format(nouns=schema.nouns, verb=schema.verb)
    table, _, name = family.partition(".")
    entry = catalogue.fields[table][name]
    words = WORDS[table].format(title=entry.column.title)
    if table != "items" or row is None or entry.column.kind not in SHORT:
        return words
    value = entry.readable(catalogue.items.data[name][row])
    return words if value is None else f"{words}, {value}"


def strongest(
    items: Sequence[Reason], features: Sequence[Reason]
) -> tuple[Reason, ...]:
    """What a sentence may name: first items, each once, then features; the largest of each."""
    largest = max((one.effect for one in (*items, *features)), default=0.0)
    least = max(LEAST, SHARE * largest)
    different: dict[str, Reason] = {}
    for one in items:
        different.setdefault(one.name, one)
    named = [*different.values()][:ITEMS]
    features = sorted(features, key=lambda one: -one.effect)[:FEATURES]
    found = [one for one in (*named, *features) if one.effect >= least]
    return tuple(_with_others(one, named) for one in found)


def _with_others(reason, named):
    """A tag beside other items than those that are named anyway."""
    others = {one.name for one in named}
    like = [name for name in reason.like if name not in others]
    more = reason.more + len(reason.like) - len(like[:LIKE])
    return dataclasses.replace(reason, like=tuple(like[:LIKE]), more=more)


def sentence(schema: Schema, reasons: Sequence[Reason]) -> str:
    """'Because you bought milk (+0.8) and bread (+0.5); because of its price, 2 (+0.3).'

    reasons: what to name (`strongest`).
    """
    items, parts = [], []
    for reason in reasons:
        name = f"{reason.name} ({reason.effect:+.2f})"
        if reason.of == "history":
            items.append(name)
        else:
            parts.append(f"because of {name}{likeness(schema, reason)}")
    if items:
        parts.insert(0, f"because you {schema.verb} {' and '.join(items)}")
    if not parts:
        return (
            f"No single {schema.noun} of yours and nothing else that the model knows speaks for it "
            f"by itself."
        )
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def likeness(schema: Schema, reason: Reason) -> str:
    """', like milk, bread and 3 more articles that you bought'; '' if nothing is like it."""
    if not reason.like:
        return ""
    names = ", ".join(reason.like)
    if reason.more:
        nouns = schema.noun if reason.more == 1 else schema.nouns
        names = f"{names} and {reason.more} more {nouns}"
    return f", like {names} that you {schema.verb}"
