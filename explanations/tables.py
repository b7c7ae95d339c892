"""Recommendations and explanations on a terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from answers import Explanation, Item, Profile, Recommendation
from schema import Schema

UNIT = (
    "A number in parentheses is the part of the {noun}'s log-probability that is due to "
    "that one thing: "
    "of the history its share, of the rest what is lost without it."
)
EXPLANATION = (
    UNIT
    + " Shares of the history add up; what is lost need not. After the semicolon: by how many "
    "ranks the {noun} falls without it alone. Without: the fewest {nouns} found whose "
    "absence takes "
    "the {noun} off the list. As another: its rank were the user's column that value, history and "
    "all else as it is."
)
MOST = 6  # items in a cell
SHOWN = 3  # best and worst flips of a user's columns


def explanation_table(
    schema: Schema, items: Sequence[Recommendation], reasons: Sequence[Explanation]
) -> Any:
    """A rich table of recommendations and what speaks for each, explained in full."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    for name in (
        "",
        schema.noun,
        "score",
        "expected",
        "because of",
        "what else is known",
        "without",
        "as another",
    ):
        table.add_column(escape(name))
    for item, why in zip(items, reasons, strict=True):
        named = {reason.name for reason in why.reasons if reason.of == "history"}
        history = [
            f"{entry.name} ({entry.effect:+.2f}; {entry.places:+d})"
            for entry in why.history
            if entry.name in named
        ]
        features = [
            f"{entry.label} ({entry.effect:+.2f}; {entry.places:+d})"
            for entry in why.features
        ]
        cells = [
            str(item.rank),
            f"{item.name}\n{columns_text(item)}",
            f"{item.score:.2f}",
            _values_text(item.values),
            "\n".join(history),
            "\n".join(features),
            _without_text(why),
            _flips_text(why),
        ]
        table.add_row(*map(escape, cells))
    return table


def _without_text(why: Explanation) -> str:
    without = why.what_if.without
    if without is None:
        return "stays without any of them" if why.history else ""
    if not without:
        return "not on the list anyway"
    named = [entry.name for entry in without[:MOST]]
    if len(without) > MOST:
        named.append(f"and {len(without) - MOST} more")
    return "\n".join(named)


def _flips_text(why: Explanation) -> str:
    flips = sorted(why.what_if.as_another, key=lambda flip: flip.rank)
    if len(flips) > 2 * SHOWN:
        flips = [*flips[:SHOWN], *flips[-SHOWN:]]
    return "\n".join(f"{flip.title}: {flip.rank}." for flip in flips)


def columns_text(item: Item) -> str:
    """Columns of an item in a line, without its name, its longer texts and its vectors."""
    parts = []
    for value in item.columns.values():
        if value == item.name:
            continue
        if isinstance(value, list) and value and isinstance(value[0], str):
            parts.append(", ".join(value))
        elif isinstance(value, int | float):
            parts.append(str(value))
        elif isinstance(value, str) and len(value) < 30:
            parts.append(value)
    return "; ".join(parts)


def _values_text(values: dict[str, float | str]) -> str:
    parts = [
        f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    ]
    return ", ".join(parts)


def profile_line(schema: Schema, profile: Profile) -> str:
    """A user in a line."""
    parts = [
        str(value) for value in profile.columns.values() if value not in (None, [])
    ]
    parts.append(f"{profile.interactions} {schema.nouns}")
    parts += [f"mean {name} {value}" for name, value in profile.means.items()]
    for shares in profile.affinities.values():
        parts.append(f"mostly {', '.join(list(shares)[:3])}")
    return f"User {profile.user_id}: {', '.join(parts)}"


def print_recommendations(
    schema: Schema,
    items: Sequence[Recommendation],
    reasons: Sequence[Explanation],
    profile: Profile | None,
    history: list[str] | None,
    note: str,
    explained: bool,
) -> None:
    """Print who asked (a profile, or the names of a history), a note, and recommendations with a
    sentence each or, if `explained`, all that `explanation_table` holds."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 180
    console = Console(highlight=False, soft_wrap=True, width=width)
    words = {"noun": schema.noun, "nouns": schema.nouns}
    if profile:
        console.print(profile_line(schema, profile), markup=False)
    if history is not None:
        console.print(f"History: {'; '.join(history) or 'none'}", markup=False)
    if note:
        console.print(note, markup=False, style="bold")
    if explained:
        console.print(explanation_table(schema, items, reasons))
        console.print(EXPLANATION.format(**words), markup=False, style="dim")
        return
    for item, why in zip(items, reasons, strict=True):
        columns = columns_text(item)
        told = f"  [{columns}]" if columns else ""
        values = _values_text(item.values)
        expected = f"  {values} expected" if values else ""
        console.print(
            f"{item.rank:3d}. {item.name}{told}{expected}", markup=False, style="bold"
        )
        note = f" ({item.note})" if item.note else ""
        console.print(f"     {why.sentence}{note}", markup=False)
    console.print(f"\n{UNIT.format(**words)}", markup=False, style="dim")
