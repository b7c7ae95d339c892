"""Profiles of users from their histories, and times of requests."""

from datetime import UTC, datetime

import numpy as np

from answers import Id, Profile
from batches import History
from dataset import Catalogue
from fields import Field
from support.errors import UserError

MOST_VALUES = 200  # of an item column, in a profile


def profile(
    catalogue: Catalogue, user_id: Id | None, history: History
) -> Profile:
    """The profile of a user from the history and the user's columns."""
    columns = {
        name: entry.readable(history.user_columns.get(name, entry.unknown))
        for name, entry in catalogue.users.fields.items()
    }
    affinities, means = {}, {}
    for name, entry in catalogue.items.fields.items():
        small = 0 < len(entry.values) <= MOST_VALUES
        if small and len(history.items):
            had = catalogue.items.shares(name, history.items) > 0  # (L, F)
            affinities[name] = largest_first(entry, had.mean(0))
    for name, values in history.columns.items():
        numbers = catalogue.interaction_fields[name].as_numbers(values)
        if numbers is not None and not np.isnan(numbers).all():
            means[name] = round(float(np.nanmean(numbers)), 2)
    return Profile(
        user_id=user_id,
        columns=columns,
        interactions=len(history.items),
        affinities=affinities,
        means=means,
    )


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


def iso(seconds: int) -> str:
    """'2001-01-31 20:00 UTC'."""
    return f"{np.datetime64(int(seconds), 's').astype('M8[m]')} UTC".replace(
        "T", " ", 1
    )
