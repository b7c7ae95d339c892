"""Recommendations and explanations on a terminal."""

from collections.abc import Iterable, Sequence

from answers import Chosen, Explanation, Item, Profile, Recommendation
from item_search import spoken
from schema import Schema

UNIT = (
    "A number in parentheses is the part of the {noun}'s log-probability that is due to that one "
    "thing: of the history its share, of the rest what is lost without it."
)
EXPLANATION = (
    "After the semicolon: by how many ranks the {noun} falls without it alone. Without: the "
    "fewest {nouns} found whose absence takes the {noun} off the list. As another: its rank were "
    "the user's column that value, history and all else as it is."
)
LONGEST = 60  # characters of a column's value in a line


def columns_text(item: Item) -> str:
    """Columns of an item in a line, without its name and its longer values."""
    texts = map(_text, item.columns.values())
    shown = [text for text in texts if 0 < len(text) <= LONGEST]
    return "; ".join(text for text in shown if spoken(text) != item.name)


def _text(value):
    """A value in readable form: tags with commas; '' if unknown."""
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return "" if value is None else str(value)


def values_text(item: Recommendation) -> str:
    """The values that the model expects a user to give an item."""
    parts = []
    for name, value in item.values.items():
        shown = f"{value:.1f}" if isinstance(value, float) else value
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


def full_lines(why: Explanation) -> list[str]:
    """Reasons for an item, without what it would leave the list, its rank for other users."""
    named = {reason.name for reason in why.reasons if reason.of == "history"}
    effects = [(one.name, one) for one in why.history if one.name in named]
    effects += [(one.label, one) for one in why.features]
    lines = [
        # 0.0 is added, as -0.00 says nothing.
        f"{name} ({round(one.effect, 2) + 0.0:+.2f}; {one.places:+d})"
        for name, one in effects
    ]
    without = why.what_if.without
    if without:
        lines.append(f"without: {', '.join(one.name for one in without)}")
    elif without is not None:
        lines.append("not on the list anyway")
    elif why.history:
        lines.append("stays without any of the history")
    flips = [f"{flip.title} {flip.rank}" for flip in why.what_if.as_another]
    if flips:
        lines.append(f"as another: {', '.join(flips)}")
    return lines


def profile_line(schema: Schema, profile: Profile) -> str:
    """A user in a line."""
    parts = list(filter(None, map(_text, profile.columns.values())))
    parts.append(f"{profile.interactions} {schema.nouns}")
    parts += [f"mean {name} {value}" for name, value in profile.means.items()]
    parts += [
        f"likes {', '.join(liked)}"
        for liked in profile.likes.values()
        if liked
    ]
    return f"User {profile.user_id}: {', '.join(parts)}"


def chosen_line(chosen: Chosen) -> str:
    """What a user of the data chose next, and at which place the list has it."""
    places = []
    if chosen.place is None:
        places.append("not on this list")
    else:
        places.append(f"place {chosen.place:,} of this list")
    if chosen.place_by_next not in (None, chosen.place):
        places.append(f"place {chosen.place_by_next:,} by what comes next")
    return f"Chosen next: {chosen.name}, {', '.join(places)}"


def below_mean_line(
    schema: Schema, profile: Profile, items: Sequence[Recommendation]
) -> str:
    """What to do if most of the items are expected to be valued below the user's mean; else ''."""
    for name, mean in profile.means.items():
        numbers = [item.values.get(name) for item in items]
        below = [
            one for one in numbers if isinstance(one, float) and one < mean
        ]
        if len(below) > len(items) / 2:
            return (
                f"{len(below)} of these {schema.nouns} may come next, but with a {name} below the "
                f"user's mean, {mean}. What the user should like: --rank_by liked "
                f"--prefer_expected mean"
            )
    return ""


def print_recommendations(items: Sequence[Recommendation]) -> None:
    """Print a line for each item, and its note."""
    for item in items:
        columns, values = columns_text(item), values_text(item)
        described = f"  [{columns}]" if columns else ""
        expected = f"  {values} expected" if values else ""
        note = f"  ({item.note})" if item.note else ""
        line = f"{item.rank:3d}. {item.name}{described}{expected}{note}"
        print(line, flush=True)


def print_reasons(schema: Schema, reasons: Iterable[Explanation]) -> None:
    """Print a sentence for each item, in the order of the list, and `full_lines` of those that are
    explained in full; then what the numbers mean."""
    print("\nWhy:", flush=True)
    legend = UNIT
    for place, why in enumerate(reasons, start=1):
        print(f"{place:3d}. {why.sentence}", flush=True)
        if why.what_if:
            legend = f"{UNIT} {EXPLANATION}"
            for line in full_lines(why):
                print(f"       {line}")
    print(f"\n{legend.format(noun=schema.noun, nouns=schema.nouns)}")
