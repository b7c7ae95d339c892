"""People: what may be said of somebody new, and what a history says of somebody."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy import stats

from batches import History
from data_processor import UNKNOWN, Catalogue
from readers.interactions import AGE_GROUPS, GENDERS, GENRES
from support.errors import UserError

SESSION = 6 * 3600  # seconds; a longer pause begins another visit
CONFIDENCE = 0.95
DEMOGRAPHICS = ("gender", "age", "occupation")


def demographics_of(catalogue: Catalogue, facts: Mapping[str, str | int | None],
                    known: tuple[int, int, int] = (UNKNOWN, UNKNOWN, UNKNOWN)) -> tuple[int, int, int]:
    """Indices of what is said of somebody: {'gender': 'F', 'age': 25, 'occupation': 4}, each in raw codes, None for
    unknown; an age in years counts as its group. What is not said is as `known`. Raises `UserError` for anything
    else."""
    possible = dict(zip(DEMOGRAPHICS, (list(GENDERS), list(AGE_GROUPS), sorted(catalogue.occupations)), strict=True))
    if strange := set(facts) - set(possible):
        raise UserError(f"demographics: {min(strange)!r} is none of {', '.join(possible)}")
    indices = list(known)
    for place, (name, codes) in enumerate(possible.items()):
        value = facts.get(name)
        if name == "age" and isinstance(value, int) and 1 <= value <= 120:
            value = max(code for code in codes if code <= value)
        if value is not None and value not in codes:
            raise UserError(f"--{name} {value}: choose one of {', '.join(map(str, codes))}")
        if name in facts:
            indices[place] = UNKNOWN if value is None else codes.index(value) + 1
    return tuple(indices)


def described(catalogue: Catalogue, demographics: tuple[int, int, int]) -> dict[str, Any]:
    """Gender, age group and occupation in words, None where unknown."""
    gender, age, occupation = demographics
    code = sorted(catalogue.occupations)[occupation - 1] if occupation else None
    return {"gender": GENDERS[gender - 1] if gender else None,
            "age_group": list(AGE_GROUPS.values())[age - 1] if age else None,
            "occupation_code": code, "occupation": catalogue.occupations.get(code)}


def profile(catalogue: Catalogue, history: History) -> dict[str, Any]:
    """What a history says of a person, beside the demographics.

    genres: of each genre in the history its share of the films with a 95 % interval (Wilson), how many times that is
    its share of the catalogue (lift), and the mean of the ratings with an interval (Student's t); the largest share
    first. favourite_years: median, quartiles and shares of the decades. activity: needs the times of the history.
    """
    films, count = history.items, len(history.items)
    found: dict[str, Any] = {**described(catalogue, history.demographics), "interactions": count}
    if not count:
        return found
    rated = np.zeros(count) if history.ratings is None else history.ratings
    if rated.any():
        found["mean_rating"] = round(float(rated[rated > 0].mean()), 2)
        found["ratings"] = {str(stars): int((rated == stars).sum()) for stars in range(1, 6)}
    flags = catalogue.genres[films] > 0  # (L, F)
    found["genres"] = [_affinity(catalogue, flags[:, index], rated, index)
                       for index in np.argsort(-flags.sum(0), kind="stable") if flags[:, index].any()]
    found["favourite_genres"] = [entry["genre"] for entry in found["genres"][:3]]
    years = catalogue.years[films]
    if (years > 0).any():
        years = years[years > 0]
        decades, sizes = np.unique(years // 10 * 10, return_counts=True)
        low, middle, high = np.percentile(years, [25, 50, 75]).round().astype(int).tolist()
        found["favourite_years"] = {"median": middle, "quartiles": [low, high], "decades": {
            f"{decade}s": round(float(size / len(years)), 3) for decade, size in zip(decades, sizes, strict=True)}}
    if history.timestamps is not None and history.timestamps.any():
        gaps = np.diff(history.timestamps)
        found["activity"] = {"first": iso(int(history.timestamps[0])), "last": iso(int(history.timestamps[-1])),
                             "visits": 1 + int((gaps > SESSION).sum()),
                             "median_gap_seconds": float(np.median(gaps)) if len(gaps) else None}
        found["last_interaction"] = found["activity"]["last"]
    return found


def _affinity(catalogue: Catalogue, has: np.ndarray, rated: np.ndarray, genre: int) -> dict[str, Any]:
    interval = stats.binomtest(int(has.sum()), len(has)).proportion_ci(CONFIDENCE, "wilson")
    entry = {"genre": GENRES[genre], "share": float(has.mean()), "low": interval.low, "high": interval.high,
             "lift": float(has.mean() / (catalogue.genres[:, genre] > 0).sum() * len(catalogue.movie_ids))}
    stars = rated[has & (rated > 0)]
    if len(stars):
        entry["mean_rating"] = float(stars.mean())
    if len(stars) > 1:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(stars) - 1) * stars.std(ddof=1) / np.sqrt(len(stars))
        entry["mean_rating_low"], entry["mean_rating_high"] = (
            float(np.clip(stars.mean() + side * half, 1, 5)) for side in (-1, 1))
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in entry.items()}


def typical_next_time(timestamps: np.ndarray) -> int:
    """The moment of the last interaction plus the person's median gap."""
    gaps = np.diff(timestamps)
    return int(timestamps[-1] + (np.median(gaps) if len(gaps) else 0))


def parse_time(text: str) -> int:
    """Seconds since 1970 of '978300760' or an ISO date such as '2001-01-31' or '2001-01-31T20:00' (UTC)."""
    try:
        moment = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not 1970 <= moment.year < 2200:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise UserError(f"--at {text!r}: give seconds since 1970 or an ISO time such as 2001-01-31T20:00") from None
    return int(moment.timestamp())


def iso(seconds: int) -> str:
    """'2001-01-31 20:00 UTC'."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
