"""An explanation in words: one sentence from the strongest contributions, no reason that the
numbers don't carry."""

from collections.abc import Mapping, Sequence

from dataset import Catalogue
from schema import Schema

LEAST = 0.05  # a contribution below this, or below SHARE of the largest, is no reason
SHARE = 0.25
ITEMS = 2
OWN_WORDS = {
    "times": "the times of your history",
    "users.id": "what it learned of you beside your history",
}
Pairs = list[tuple[str, float]]


def family_label(catalogue: Catalogue, family: str) -> str:
    """A family of features in words."""
    if family in OWN_WORDS:
        return OWN_WORDS[family]
    schema = catalogue.schema
    if family == "graph":
        return f"the {schema.nouns} that go with it"
    table, _, name = family.partition(".")
    fields = {
        "items": catalogue.items.fields,
        "users": catalogue.users.fields,
        "interactions": catalogue.interaction_fields,
    }[table]
    title = fields[name].column.title
    return {
        "items": f"its {title}",
        "users": f"your {title}",
        "interactions": f"the {title} of your history",
    }[table]


def strongest(
    items: Sequence[tuple[str, float]], families: Mapping[str, float]
) -> tuple[Pairs, Pairs]:
    """(items, families) that a sentence may name, the strongest first: (name, contribution)
    pairs.
    """
    positive = [
        value for _, value in (*items, *families.items()) if value >= LEAST
    ]
    least = max(LEAST, SHARE * max(positive, default=0.0))
    named_items = [pair for pair in items if pair[1] >= least]
    named_families = [pair for pair in families.items() if pair[1] >= least]
    named_items.sort(key=lambda pair: -pair[1])
    named_families.sort(key=lambda pair: -pair[1])
    return named_items[:ITEMS], named_families[:1]


def sentence(schema: Schema, items: Pairs, families: Pairs) -> str:
    """'Because you bought milk (+0.8) and bread (+0.5), and because of its price (+0.3).'

    items, families: what to name (`strongest`), families by their labels.
    """
    parts = []
    if items:
        named = " and ".join(f"{name} ({value:+.2f})" for name, value in items)
        parts.append(f"because you {schema.verb} {named}")
    parts += [
        f"because of {label} ({value:+.2f})" for label, value in families
    ]
    if not parts:
        return (
            f"No single {schema.noun} of yours and nothing else that the model knows speaks for it "
            f"by itself."
        )
    text = ", and ".join(parts)
    return text[0].upper() + text[1:] + "."
