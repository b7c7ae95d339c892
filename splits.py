"""Which interactions train, and which are asked for: one function a protocol, `--protocol`.

leave_one_out  the last interaction of each user tests, the one before it validates, the rest
               trains
global_time    a cut in calendar time: what is before it trains, what is after it validates and,
               after a second cut, tests; histories grow up to each target, parameters never see
               past the first cut
multi5         users are split, not interactions: most train with all they have; of the others the
               last five interactions are the targets together

A request asks for the interactions that directly follow a history, so a position in the flat
arrays of `Dataset` and a number of targets describe it. Q requests, T targets of a request.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from settings import DataSettings
from support.errors import UserError

MULTI_TARGETS = 5
# Share of the interactions (global_time) or of the users (multi5) that tests; as much validates.
HELD_OUT = 0.15
MOST_TARGETS = 10  # of a user in each period (global_time)
# a user's interactions
FEWEST = {"leave_one_out": 3, "global_time": 1, "multi5": MULTI_TARGETS + 1}


@dataclass(frozen=True)
class Requests:
    """User `users[q]`, who has what stands before `ends[q]`, is asked for the `count` that
    follow.
    """

    users: np.ndarray  # (Q,) rows of users
    ends: np.ndarray  # (Q,) positions in the flat arrays
    count: int = 1

    def __len__(self) -> int:
        """Q."""
        return len(self.users)

    @property
    def target_rows(self) -> np.ndarray:
        """(Q, T) positions of the targets."""
        return self.ends[:, None] + np.arange(self.count)


@dataclass(frozen=True)
class Split:
    """What trains, up to `train_ends` of each user, and what 'validation', 'test' and 'end' ask.

    'end' asks every user from the whole history; there are no targets.
    """

    protocol: str
    train_ends: np.ndarray  # (users,)
    requests: dict[str, Requests]
    description: str


def split_interactions(
    settings: DataSettings, offsets: np.ndarray, times: np.ndarray
) -> Split:
    """The split that the settings name, of interactions offsets[u] to offsets[u + 1] of user u.

    Raises `UserError` if nobody is asked or nothing trains.
    """
    split = SPLITS[settings.protocol](settings, offsets, times)
    for until in ("validation", "test"):
        if len(split.requests[until]) == 0:
            raise UserError(
                f"--protocol {settings.protocol} leaves nobody to ask for {until} in "
                f"these data; take another protocol or more data"
            )
    if not (split.train_ends > offsets[:-1]).any():
        raise UserError(
            f"--protocol {settings.protocol} leaves nothing to train on in these data; "
            f"take another protocol or more data"
        )
    return split


def _leave_one_out(
    _settings: DataSettings, offsets: np.ndarray, _times: np.ndarray
) -> Split:
    users = _users(offsets)
    ends = offsets[1:]
    train_ends = np.maximum(offsets[:-1], ends - 2)
    validation = Requests(users, ends[users] - 2)
    test = Requests(users, ends[users] - 1)
    return Split(
        "leave_one_out",
        train_ends,
        _with_end(offsets, validation, test),
        "leave-one-out (validation the second last interaction of each user, test the last)",
    )


def _global_time(
    _settings: DataSettings, offsets: np.ndarray, times: np.ndarray
) -> Split:
    if not times.any():
        raise UserError(
            "--protocol global_time needs times, which these data lack; use leave_one_out"
        )
    count = len(offsets) - 1
    user_of = np.repeat(np.arange(count), np.diff(offsets))
    shares = [1 - 2 * HELD_OUT, 1 - HELD_OUT]
    first_cut, second_cut = np.quantile(times, shares, method="lower")
    train_ends = offsets[:-1] + np.bincount(user_of, times < first_cut, count).astype(
        np.int64
    )

    def asked(period: np.ndarray) -> Requests:
        # The very first interaction of a user has no history to rank from.
        rows = np.flatnonzero(period & (np.arange(len(times)) > offsets[user_of]))
        chosen = spread(rows, user_of)
        return Requests(user_of[chosen], chosen)

    dates = (
        np.array([first_cut, second_cut])
        .astype("datetime64[s]")
        .astype("datetime64[m]")
    )
    validation = asked((times >= first_cut) & (times < second_cut))
    test = asked(times >= second_cut)
    return Split(
        "global_time",
        train_ends,
        _with_end(offsets, validation, test),
        f"global time (trained before {dates[0]} UTC, validation to {dates[1]}, test after "
        f"it; up to {MOST_TARGETS} evenly spread interactions of each user there, means over "
        f"each user's first)",
    )


def spread(rows: np.ndarray, user_of: np.ndarray) -> np.ndarray:
    """At most MOST_TARGETS of each user's rows (ascending), evenly spread."""
    if not len(rows):
        return rows
    bounds = np.flatnonzero(np.r_[True, np.diff(user_of[rows]) > 0, True])
    parts = []
    for start, end in itertools.pairwise(bounds):
        places = np.linspace(0, end - start - 1, MOST_TARGETS).round().astype(int)
        parts.append(rows[start:end][np.unique(places)])
    return np.concatenate(parts)


def _multi5(settings: DataSettings, offsets: np.ndarray, _times: np.ndarray) -> Split:
    users = np.random.default_rng(settings.split_seed).permutation(_users(offsets))
    held = round(HELD_OUT * len(users))
    validation, test = np.sort(users[:held]), np.sort(users[held : 2 * held])
    train_ends = offsets[1:].copy()
    train_ends[users[: 2 * held]] = offsets[users[: 2 * held]]
    requests = [
        Requests(group, offsets[group + 1] - MULTI_TARGETS, MULTI_TARGETS)
        for group in (validation, test)
    ]
    return Split(
        "multi5",
        train_ends,
        _with_end(offsets, *requests),
        f"users split {1 - 2 * HELD_OUT:.0%} / {HELD_OUT:.0%} / {HELD_OUT:.0%} (seed "
        f"{settings.split_seed}), the last {MULTI_TARGETS} interactions of each held-out "
        f"user are the targets",
    )


def _users(offsets: np.ndarray) -> np.ndarray:
    """Rows of the users; row 0 is nobody's."""
    return np.arange(1, len(offsets) - 1)


def _with_end(
    offsets: np.ndarray, validation: Requests, test: Requests
) -> dict[str, Requests]:
    users = _users(offsets)
    end = Requests(users, offsets[users + 1], 0)
    return {"validation": validation, "test": test, "end": end}


SPLITS: dict[str, Callable[[DataSettings, np.ndarray, np.ndarray], Split]] = {
    "leave_one_out": _leave_one_out,
    "global_time": _global_time,
    "multi5": _multi5,
}
