"""Users: what may be said of somebody new, what a history says, and moments in time."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from answers import Id, Profile
from batches import History
from dataset import Catalogue, Table
from support.errors import UserError

MOST_VALUES = 200  # of an item column, in a profile


def user_columns_of(
    users: Table, facts: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Stored values of facts such as {'country': 'FR', 'age': 25}; None for unknown. Raises
    `UserError` for an unknown column or value."""
    columns = {}
    for name, value in facts.items():
        if name not in users.fields:
            there = ", ".join(users.fields) or "(there are none)"
            raise UserError(f"--set {name}: users have the columns {there}")
        try:
            columns[name] = users.fields[name].stored(value)
        except UserError as error:
            raise UserError(f"--set {error}") from None
    return columns


def profile(
    catalogue: Catalogue, user_id: Id | None, history: History
) -> Profile:
    """What a history says of a user, beside the user's own columns."""
    columns, affinities, means = {}, {}, {}
    for name, entry in catalogue.users.fields.items():
        columns[name] = entry.readable(
            history.user_columns.get(name, entry.unknown)
        )
    for name, entry in catalogue.items.fields.items():
        small = 0 < len(entry.values) <= MOST_VALUES
        if small and len(history.items):
            had = catalogue.items.shares(name, history.items) > 0  # (L, F)
            shares = had.mean(0).round(3).tolist()
            pairs = sorted(
                zip(entry.titles, shares, strict=True), key=lambda p: -p[1]
            )
            affinities[name] = {
                title: share for title, share in pairs if share
            }
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


def typical_next_time(times: np.ndarray) -> int:
    """The moment of the last interaction plus the user's median gap."""
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
    """'2001-01-31 20:00 UTC'; of moments beyond the calendar the seconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(
            "%Y-%m-%d %H:%M UTC"
        )
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s since 1970"
