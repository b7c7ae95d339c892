"""An explanation in words: one sentence from the strongest contributions."""

from collections.abc import Sequence

from answers import Reason
from dataset import Catalogue
from schema import Schema

LEAST = 0.05  # a contribution below this, or below SHARE of the largest, is no reason
SHARE = 0.25
ITEMS = 2
# Families of features, or the tables that their columns are of.
WORDS = {
    "times": "the times of your history",
    "users.id": "what it learned of you beside your history",
    "graph": "the {nouns} that go with it",
    "items": "its {title}",
    "users": "your {title}",
    "interactions": "the {title} of your history",
}


def family_label(catalogue: Catalogue, family: str) -> str:
    """A family of features in words."""
    if family in WORDS:
        return WORDS[family].format(nouns=catalogue.schema.nouns)
    table, _, name = family.partition(".")
    title = catalogue.fields[table][name].column.title
    return WORDS[table].format(title=title)


def strongest(
    items: Sequence[Reason], families: Sequence[Reason]
) -> tuple[Reason, ...]:
    """The items and families that a sentence may name, the largest first; each item once."""
    largest = max((one.effect for one in (*items, *families)), default=0.0)
    least = max(LEAST, SHARE * largest)
    different: dict[str, Reason] = {}
    for one in items:
        different.setdefault(one.name, one)
    first = list(different.values())[:ITEMS]
    return tuple(one for one in (*first, *families[:1]) if one.effect >= least)


def sentence(schema: Schema, reasons: Sequence[Reason]) -> str:
    """'Because you bought milk (+0.8) and bread (+0.5), and because of its price (+0.3).'

    reasons: what to name (`strongest`).
    """
    named = {"history": [], "features": []}
    for reason in reasons:
        named[reason.of].append(f"{reason.name} ({reason.effect:+.2f})")
    parts = [f"because of {label}" for label in named["features"]]
    if named["history"]:
        items = " and ".join(named["history"])
        parts.insert(0, f"because you {schema.verb} {items}")
    if not parts:
        return (
            f"No single {schema.noun} of yours and nothing else that the model knows speaks for it "
            f"by itself."
        )
    text = ", and ".join(parts)
    return text[0].upper() + text[1:] + "."
