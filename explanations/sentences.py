"""An explanation in words: one sentence from the strongest contributions, no reason that the numbers don't carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FAMILIES = {"ratings": "the ratings you gave", "times": "when you watch",
            "demographics": "your age, gender and occupation", "user_id": "what it learned of you beside your history",
            "genres": "its genres", "year": "its year", "title": "its title",
            "graph": "the films that go with it"}
LEAST = 0.05  # a contribution below this, or below SHARE of the largest, is no reason
SHARE = 0.25
FILMS = 2


def strongest(films: Sequence[tuple[str, float]],
            families: Mapping[str, float]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """(films, families) that a sentence may name, the strongest first: (title, contribution) pairs and the like."""
    positive = [pair for pair in (*films, *families.items()) if pair[1] >= LEAST]
    least = max([SHARE * value for _, value in positive], default=0.0)
    found = [sorted((pair for pair in pairs if pair[1] >= max(LEAST, least)), key=lambda pair: -pair[1])
              for pairs in (films, families.items())]
    return found[0][:FILMS], found[1][:1]


def sentence(watched: Sequence[tuple[str, float]], known: Sequence[tuple[str, float]]) -> str:
    """'Because you watched Alien (+0.8) and Aliens (+0.5), and because of its genres (+0.3).'

    watched, known: the films and the families to name (`strongest`), with their contributions.
    """
    parts = []
    if watched:
        parts.append("because you watched " + " and ".join(f"{title} ({value:+.2f})" for title, value in watched))
    parts += [f"because of {FAMILIES[name]} ({value:+.2f})" for name, value in known]
    if not parts:
        return "No single film of yours and nothing else that the model knows speaks for it by itself."
    text = ", and ".join(parts)
    return text[0].upper() + text[1:] + "."
