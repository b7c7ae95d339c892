"""Profiles of users from their histories, and times of requests."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from answers import Id, Past, Profile
from batches import History
from dataset import NO_TIME, Catalogue, Table
from fields import Field
from support.errors import UserError

NEWEST = 30  # interactions in a profile
MOST_VALUES = 200  # of an item column, in a profile
FEWEST = 3  # interactions with a value that is liked
CLEARLY = 2.0  # standard errors
MOST_LIKED = 5  # values of a column


def profile(
    catalogue: Catalogue,
    user_id: Id | None,
    history: History,
    usual: Mapping[str, np.ndarray] | None = None,
) -> Profile:
    """The profile of a user from the history and the user's columns.

    usual: as from `usual_shares`; without it there are no `likes`.
    """
    columns = {
        name: entry.readable(history.user_columns.get(name, entry.unknown))
        for name, entry in catalogue.users.fields.items()
    }
    affinities, liked, means = {}, {}, {}
    for name, entry in catalogue.items.fields.items():
        if not _is_small(entry) or not len(history.items):
            continue
        had = catalogue.items.shares(name, history.items) > 0  # (L, F)
        affinities[name] = largest_first(entry, had.mean(0))
        if usual is not None:
            liked[name] = _liked(catalogue, history, entry, had, usual[name])
    for name in history.columns:
        mean = mean_value(catalogue, history, name)
        if mean is not None:
            means[name] = round(mean, 2)
    return Profile(
        user_id=user_id,
        columns=columns,
        interactions=len(history.items),
        affinities=affinities,
        likes=liked,
        means=means,
    )


def usual_shares(items: Table, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Item column -> (F,) share of all interactions whose item has each value.

    counts: interactions of the first items of the table; the others have none.
    """
    found = {}
    for name, entry in items.fields.items():
        if not _is_small(entry):
            continue
        codes = items.data[name][: len(counts)].reshape(len(counts), -1)
        weights = np.repeat(counts, codes.shape[1])
        number = len(entry.values) + 1
        total = np.bincount(codes.ravel(), weights, minlength=number)[1:]
        found[name] = total / max(1, counts.sum())
    return found


def _is_small(entry):
    return 0 < len(entry.values) <= MOST_VALUES


def newest_of(
    catalogue: Catalogue,
    history: History,
    facts_of: Callable[[int], dict[str, Any]],
) -> tuple[Past, ...]:
    """The newest interactions of a history, the newest first.

    facts_of: what is said of an item by its row.
    """
    times = np.broadcast_to(history.times, len(history.items))
    found = []
    for place in range(len(history.items))[: -NEWEST - 1 : -1]:
        values = {}
        for name, stored in history.columns.items():
            value = catalogue.interaction_fields[name].readable(stored[place])
            if value is not None:
                values[name] = value
        time = None if times[place] == NO_TIME else iso(times[place])
        facts = facts_of(int(history.items[place]))
        found.append(Past(**facts, values=values, time=time))
    return tuple(found)


def _liked(catalogue, history, entry, had, usual):
    """Titles of the values that a user chose clearly more often than `usual` (F,), or rated clearly
    higher than the user's mean; none that was rated clearly lower.

    Clearly is by CLEARLY standard errors. had (L, F): which interactions have which values.
    """
    number = had.sum(0)
    spread = np.sqrt(len(had) * usual * (1 - usual))
    often = (number - len(had) * usual) / np.maximum(spread, 1e-9)
    higher = np.zeros(len(usual))
    name = judged_column(catalogue)
    if name is not None and name in history.columns:
        values = catalogue.interaction_fields[name].as_numbers(
            history.columns[name]
        )
        known = np.isfinite(values)
        if known.any():
            apart = np.where(known, values - values[known].mean(), 0.0)
            judged = np.maximum(1, (had & known[:, None]).sum(0))
            error = max(values[known].std(), 1e-9) / np.sqrt(judged)
            higher = apart @ had / judged / error
    strength = np.maximum(often, higher)
    strength[(number < FEWEST) | (higher <= -CLEARLY)] = 0.0
    order = np.argsort(-strength, kind="stable")[:MOST_LIKED]
    return tuple(
        entry.titles[code] for code in order if strength[code] >= CLEARLY
    )


def judged_column(catalogue: Catalogue) -> str | None:
    """The first column of interactions whose value is to be predicted and is a number, such as a
    rating; None if there is none."""
    for name, entry in catalogue.interaction_fields.items():
        if entry.column.predict and entry.numbers is not None:
            return name
    return None


def mean_value(
    catalogue: Catalogue, history: History, name: str
) -> float | None:
    """The mean of a column of the history; None if it has no number there."""
    values = history.columns.get(name)
    if values is None:
        return None
    numbers = catalogue.interaction_fields[name].as_numbers(values)
    if numbers is None or np.isnan(numbers).all():
        return None
    return float(np.nanmean(numbers))


def largest_first(entry: Field, shares: np.ndarray) -> dict[str, float]:
    """Title -> share of the values of a column, from (F,), the largest first, without zeros."""
    order = np.argsort(-shares, kind="stable")
    rounded = shares.round(3).tolist()
    return {
        entry.titles[code]: rounded[code] for code in order if rounded[code]
    }


def typical_next_time(times: np.ndarray) -> int:
    """The time of the last interaction plus the user's median gap."""
    gaps = np.diff(times)
    return int(times[-1] + (np.median(gaps) if len(gaps) else 0))


def parse_time(text: str) -> int:
    """Seconds since 1970 of '978300760' or an ISO date such as '2001-01-31' or '2001-01-31T20:00'
    (UTC).
    """
    try:
        if re.fullmatch(r"(19|20)\d{6}", text):
            raise ValueError  # 20010131: a date, or seconds of 1970
        if text.isdecimal():
            moment = datetime.fromtimestamp(int(text), UTC)
        else:
            moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not 1970 <= moment.year < 2200:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"--at {text!r}: give seconds since 1970 or an ISO time such as "
            f"2001-01-31T20:00"
        ) from None
    return int(moment.timestamp())


def time_note(knows: bool, request_time: int, at: int | None) -> str:
    """For which time recommendations are made, and how it is known; '' for a model that knows no
    time."""
    if not knows:
        return ""
    if at is not None:
        return f"request time: {iso(at)}"
    if request_time == NO_TIME:
        return "request time: unknown (a bare history has no times; give --at)"
    return (
        f"request time assumed: {iso(request_time)}, the last interaction plus the user's median "
        f"gap (give --at to change it)"
    )


def iso(seconds: int) -> str:
    """'2001-01-31 20:00 UTC'."""
    return f"{np.datetime64(int(seconds), 's').astype('M8[m]')} UTC".replace(
        "T", " ", 1
    )
