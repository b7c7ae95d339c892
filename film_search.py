"""Films by what a person types: ids, titles, genres, years."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from data_processor import FIRST_ITEM, PAD, Catalogue
from readers.interactions import GENRES
from support.errors import UserError

NUMBER = r"\s*-?\d+\s*"
# 'Matrix, The (1999)'
ARTICLE_LAST = re.compile(r"([^()]+), (the|an?|l[ea]s?|l'|une?|el|los|il|die|der|das)(?= *[()]|$)")


def find_films(catalogue: Catalogue, text: str) -> list[int]:
    """Film ids of a list given as "260,1210" or as titles separated by semicolons; numbers pass unchecked.

    Raises `UserError` for a title that no film or more than one film answers to.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) == 1 and "," in text:  # commas separate ids, and titles too unless the whole is one: 'Piano, The'
        numbers = all(re.fullmatch(NUMBER, part) for part in text.split(","))
        if numbers or not _matches(catalogue, parts[0]):
            parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if re.fullmatch(NUMBER, part) else _film_called(catalogue, part) for part in parts]


def known_films(catalogue: Catalogue, movie_ids: Sequence[int], what: str) -> np.ndarray:
    """item_index of raw film ids. Raises `UserError`, naming `what`, for an id that is not in the catalogue."""
    indices = catalogue.item_index(list(movie_ids))
    unknown = [movie_id for movie_id, index in zip(movie_ids, indices, strict=True) if index == PAD]
    if unknown:
        raise UserError(f"{what}: film {unknown[0]} is not in this model's catalogue of {len(catalogue.movie_ids)} "
                        f"films; ids and titles are in metadata.json")
    return indices


def films_of(catalogue: Catalogue, genres: Sequence[str] = (), year_from: int | None = None) -> np.ndarray:
    """(R,) True at films with any of these genres (none given: at all films), of `year_from` or later. Raises
    `UserError` for an unknown genre."""
    found = np.arange(catalogue.num_rows) >= FIRST_ITEM
    if genres:
        known = {genre.lower(): column for column, genre in enumerate(GENRES)}
        if unknown := [name for name in genres if name.lower() not in known]:
            near = difflib.get_close_matches(unknown[0], GENRES, n=1, cutoff=0.4)
            raise UserError(f"--genres: {unknown[0]!r} is none of {', '.join(GENRES)}"
                            + (f"; did you mean {near[0]!r}?" if near else ""))
        found &= catalogue.genres[:, [known[name.lower()] for name in genres]].any(1)
    return found if year_from is None else found & (catalogue.years >= year_from)


def folded(title: str) -> str:
    """A title as it is compared: small letters without accents and punctuation, an article at its end put first."""
    signs = unicodedata.normalize("NFKD", title.lower())
    plain = ARTICLE_LAST.sub(r"\2 \1", "".join(sign for sign in signs if not unicodedata.combining(sign)))
    return " ".join(re.findall(r"\w+", re.sub("['’.*]", "", plain)))


def _film_called(catalogue: Catalogue, title: str) -> int:
    found = _matches(catalogue, title)
    if len(found) == 1:
        return int(catalogue.movie_ids[found[0]])
    if found:
        listed = ", ".join(repr(catalogue.titles[index]) for index in found[:4])
        raise UserError(f"{title!r} fits {len(found)} films ({listed}{', ...' if len(found) > 4 else ''}); "
                        f"give the whole title with its year, or the id")
    names = [folded(name) for name in catalogue.titles]
    near = difflib.get_close_matches(folded(title), names, n=1, cutoff=0.4)
    hint = f"did you mean {catalogue.titles[names.index(near[0])]!r}?" if near else "titles are in metadata.json"
    raise UserError(f"no film in the catalogue is called {title!r}; {hint}")


def _matches(catalogue: Catalogue, title: str) -> list[int]:
    """Positions of the films with this title: exactly, else without the year, then without what stands in parentheses
    and the article, else holding its words, else its letters."""
    wanted, article = folded(title), re.compile(r"^(the|an?) ")
    rules: list[Callable[[str], bool]] = [
        lambda name: folded(name) == wanted, lambda name: folded(re.sub(r" *\(\d{4}\)$", "", name)) == wanted,
        lambda name: article.sub("", folded(name.partition(" (")[0])) == article.sub("", wanted),
        lambda name: f" {wanted} " in f" {folded(name)} ", lambda name: wanted in folded(name)]
    for rule in rules if wanted else ():
        if found := [index for index, name in enumerate(catalogue.titles) if rule(name)]:
            return found
    return []
