"""Explanations on a terminal."""

from __future__ import annotations

from typing import Any

UNIT = ("A number in parentheses is how much the film's log-probability falls when that one thing is left out of the "
        "input.")
EXPLANATION = (f"{UNIT} Effects are measured one at a time and need not add up. Without: the fewest films found whose "
               "absence takes the film off the list. As another: its rank were the person of that gender or age, "
               "history and all else as it is.")
SHOWN = 3  # contributions of the history, best and worst flips of the demographics


def explanation_table(films: list[dict[str, Any]], reasons: list[dict[str, Any]]) -> Any:
    """A rich table of recommendations and what speaks for each: of what `get_recommendations` says, and `explain_many`
    with 'what_if'."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    for name in ("", "film", "score", "stars", "because of", "its kind and yours", "without", "as another"):
        table.add_column(name)
    for film, why in zip(films, reasons, strict=True):
        history = [f"{entry['title']} ({entry['effect']:+.2f})" for entry in why["history"][:SHOWN]
                   if entry["effect"] > 0]
        families = [f"{name.replace('_', ' ')} ({effect:+.2f})" for name, effect in why["features"].items()]
        without = why["what_if"]["without"]
        gone = "stays without any of them" if without is None else "\n".join(entry["title"] for entry in without)
        others = sorted(why["what_if"]["as_another"], key=lambda entry: entry["rank"])
        flips = others if len(others) <= 2 * SHOWN else [*others[:SHOWN], *others[-SHOWN:]]
        stars = f"{film['predicted_rating']:.1f}" if "predicted_rating" in film else ""
        table.add_row(*map(escape, (
            str(film["rank"]), f"{film['title']}\n{', '.join(film['genres'])}", f"{film['score']:.2f}", stars,
            "\n".join(history), "\n".join(families), gone,
            "\n".join(f"{entry['value']}: {entry['rank']}." for entry in flips))))
    return table
