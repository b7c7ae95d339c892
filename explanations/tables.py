"""Recommendations and explanations on a terminal."""

from __future__ import annotations

import re
import sys
from typing import Any

UNIT = ("A number in parentheses is the part of the film's log-probability that is due to that one thing: of the "
        "history its share, of the rest what is lost without it.")
EXPLANATION = (f"{UNIT} Shares of the history add up; what is lost need not. After the semicolon: by how many ranks "
               "the film falls without it alone. Without: the fewest films found whose absence takes the film off the "
               "list. As another: its rank were the person of that gender or age, history and all else as it is.")
MOST = 6  # films in a cell
SHOWN = 3  # best and worst flips of the demographics, and that of the gender
YEAR = r" \(\d{4}\)$"


def explanation_table(films: list[dict[str, Any]], reasons: list[dict[str, Any]]) -> Any:
    """A rich table of recommendations and what speaks for each: of what `RecommendationEngine` answers and explains,
    with 'what_if'."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True)
    for name in ("", "film", "year", "score", "stars", "because of", "its kind and yours", "without", "as another"):
        table.add_column(name)
    for film, why in zip(films, reasons, strict=True):
        told = {reason["name"] for reason in why["reasons"] if reason["of"] == "history"}
        history = [f"{entry['title']} ({entry['effect']:+.2f}; {entry['places']:+d})"
                   for entry in why["history"] if entry["title"] in told]
        families = [f"{name.replace('_', ' ')} ({effect:+.2f}; {why['feature_places'][name]:+d})"
                    for name, effect in why["features"].items()]
        without = why["what_if"]["without"]
        named = [entry["title"] for entry in without or ()]
        more = [f"and {len(named) - MOST} more"] if len(named) > MOST else []
        gone = ("stays without any of them" if why["history"] else "") if without is None else \
            "\n".join([*named[:MOST], *more]) or "not on the list anyway"
        others = sorted(why["what_if"]["as_another"], key=lambda entry: entry["rank"])
        flips = [entry for place, entry in enumerate(others)
                 if entry["fact"] == "gender" or min(place, len(others) - 1 - place) < SHOWN]
        stars = f"{film['predicted_rating']:.1f}" if "predicted_rating" in film else ""
        table.add_row(*map(escape, (
            str(film["rank"]), f"{re.sub(YEAR, '', film['title'])}\n{', '.join(film['genres'])}",
            str(film["year"] or ""), f"{film['score']:.2f}", stars,
            "\n".join(history), "\n".join(families), gone,
            "\n".join(f"{entry['value']}: {entry['rank']}." for entry in flips))))
    return table


def print_recommendations(films: list[dict[str, Any]], reasons: list[dict[str, Any]], profile: dict[str, Any] | None,
                          history: list[str] | None, note: str, explained: bool) -> None:
    """Print who asked (a profile, or the titles of a history), a note, and recommendations with a sentence each or, if
    `explained`, all that `explanation_table` holds."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)
    if profile:
        console.print(f"User {profile['user_id']}: {profile['gender']}, {profile['age_group']}, "
                      f"{profile['occupation']}, {profile['interactions']} ratings, mean {profile['mean_rating']}, "
                      f"likes {', '.join(profile['favourite_genres'])}")
    if history is not None:
        console.print(f"History: {'; '.join(history) or 'none'}", markup=False)
    if note:
        console.print(note, markup=False, style="bold")
    if explained:
        console.print(explanation_table(films, reasons))
        console.print(EXPLANATION, style="dim")
        return
    for film, why in zip(films, reasons, strict=True):
        stars = f"  {film['predicted_rating']:.1f} stars expected" if "predicted_rating" in film else ""
        console.print(f"{film['rank']:3d}. {film['title']}  [{', '.join(film['genres'])}]{stars}", markup=False,
                      style="bold")
        console.print(f"     {why['sentence']}" + (f" ({film['note']})" if "note" in film else ""), markup=False)
    console.print(f"\n{UNIT}", style="dim")
