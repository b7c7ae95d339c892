"""Users: what may be said of somebody new, what a history says, and moments in time."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy import stats

from answers import Affinity, Id, Profile
from batches import History
from dataset import Catalogue, Table
from support.errors import UserError

SESSION = 6 * 3600  # seconds; a longer pause begins another visit
MOST_VALUES = 200  # of an item column, in a profile


def user_columns_of(
    users: Table, facts: Mapping[str, Any], known: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What is known of a user, with facts such as {'country': 'FR', 'age': 25} in the place of
    what is `known`; None for unknown. Raises `UserError` for an unknown column or value."""
    columns = dict(known)
    for name, value in facts.items():
        if name not in users.fields:
            there = ", ".join(users.fields) or "(there are none)"
            raise UserError(f"--set {name}: users have the columns {there}")
        try:
            columns[name] = users.fields[name].stored(value)
        except UserError as error:
            raise UserError(f"--set {error}") from None
    return columns


def profile(catalogue: Catalogue, user_id: Id | None, history: History) -> Profile:
    """What a history says of a user, beside the user's own columns."""
    users, items = catalogue.users, catalogue.items
    columns = {
        name: entry.readable(history.user_columns.get(name, entry.unknown))
        for name, entry in users.fields.items()
    }
    found = Profile(user_id, columns, len(history.items))
    if not len(history.items):
        return found
    for name, entry in items.fields.items():
        kind = entry.column.kind
        if kind in ("category", "tags") and len(entry.values) <= MOST_VALUES:
            found.affinities[name] = _affinities(items, name, history.items)
        if kind == "number":
            numbers = items.data[name][history.items]
            numbers = numbers[~np.isnan(numbers)]
            if len(numbers):
                low, middle, high = np.percentile(numbers, [25, 50, 75]).tolist()
                found.numbers[name] = {"low": low, "median": middle, "high": high}
    for name, entry in catalogue.interaction_fields.items():
        mean = _mean(entry, history.columns.get(name))
        if mean is not None:
            found.means[name] = mean
    if history.times is not None and history.times.any():
        gaps = np.diff(history.times)
        found.activity.update(
            first=iso(int(history.times[0])),
            last=iso(int(history.times[-1])),
            visits=1 + int((gaps > SESSION).sum()),
            median_gap_seconds=float(np.median(gaps)) if len(gaps) else None,
        )
    return found


def _mean(entry: Any, values: np.ndarray | None) -> float | None:
    """Mean of the known numbers of an interaction column."""
    if values is None:
        return None
    if entry.column.kind == "category":
        if entry.numbers is None:
            return None
        values = np.append(np.nan, entry.numbers)[values]
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 2) if len(known) else None


def _affinities(items: Table, name: str, history: np.ndarray) -> tuple[Affinity, ...]:
    flags = items.shares(name) > 0  # (R, F)
    had, everywhere = flags[history].sum(0), flags.sum(0)
    found = []
    for place in np.argsort(-had, kind="stable"):
        if not had[place]:
            break
        share = had[place] / len(history)
        interval = stats.binomtest(int(had[place]), len(history)).proportion_ci(
            0.95, "wilson"
        )
        lift = share / everywhere[place] * len(items.ids)
        title = items.fields[name].titles[place]
        numbers = [
            round(float(value), 3)
            for value in (share, interval.low, interval.high, lift)
        ]
        found.append(Affinity(title, *numbers))
    return tuple(found)


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
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s since 1970"
