"""The training part and the requests of each protocol (`--protocol`), one function each.

leave_one_out  the last interaction of each user is for test, the one before it for validation, the
               rest for training
global_time    a first date ends training, a second one ends validation; test targets are after it.
               Histories grow up to each target, parameters see nothing after the first date
multi5         users are split: most are for training, with all interactions; of the others the last
               five interactions together are the targets

A request asks for the interactions that directly follow a history, so a position in the flat
arrays of `Dataset` and a number of targets describe it. Q requests, T targets of a request.
"""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from settings import DataSettings
from support.errors import UserError

MULTI_TARGETS = 5
# Share of the interactions (global_time) or of the users (multi5) that tests; as much validates.
HELD_OUT = 0.15
MEASURED = 50_000  # requests that validate a training, or test it, at most
MOST_TARGETS = 10  # of a user in each period (global_time)
# a user's interactions
FEWEST = {"leave_one_out": 3, "global_time": 1, "multi5": MULTI_TARGETS + 1}


@dataclass(frozen=True)
class Requests:
    """Requests for the `count` interactions from position `ends[q]` on of user `users[q]`.

    total: how many there were before `spread` took some; 0 if these are all.
    """

    users: np.ndarray  # (Q,) rows of users
    ends: np.ndarray  # (Q,) positions in the flat arrays
    count: int = 1
    total: int = 0

    def __len__(self) -> int:
        """Q."""
        return len(self.users)

    @property
    def target_rows(self) -> np.ndarray:
        """(Q, T) positions of the targets."""
        return self.ends[:, None] + np.arange(self.count)

    def part(self, chosen: np.ndarray) -> "Requests":
        """Some of the requests, by index or by flag."""
        return Requests(self.users[chosen], self.ends[chosen], self.count)

    def spread(self, most: int) -> "Requests":
        """At most so many of the requests, spread evenly."""
        if len(self) <= most:
            return self
        chosen = np.linspace(0, len(self) - 1, most).round().astype(int)
        part = self.part(chosen)
        return dataclasses.replace(part, total=len(self))


@dataclass(frozen=True)
class Split:
    """The training part, up to `train_ends` of each user, and the requests of 'validation', 'test'
    and 'end'.

    'end' has a request for every user with the whole history; it has no targets.
    """

    protocol: str
    train_ends: np.ndarray  # (users,)
    requests: dict[str, Requests]
    description: str

    def with_fewer(self, until: str, most: int) -> "Split":
        """The split with at most so many of one kind of requests."""
        requests = dict(self.requests)
        if until in requests:
            requests[until] = requests[until].spread(most)
        return dataclasses.replace(self, requests=requests)

    def through_validation(self) -> "Split":
        """The split whose training part includes the validation targets."""
        asked = self.requests["validation"]
        ends = self.train_ends.copy()
        np.maximum.at(ends, asked.users, asked.ends + asked.count)
        return dataclasses.replace(self, train_ends=ends)


# Where training ends of each user, what validates, what tests, and what it is called.
Parts = tuple[np.ndarray, Requests, Requests, str]


def split_interactions(
    settings: DataSettings, offsets: np.ndarray, times: np.ndarray
) -> Split:
    """The split that the settings name; user u has the interactions offsets[u] to offsets[u + 1].

    Raises `UserError` if there are no requests or no training part.
    """
    # Row 0 is nobody's.
    users = np.arange(1, len(offsets) - 1)
    if settings.protocol == "leave_one_out":
        parts = _leave_one_out(offsets, users)
    elif settings.protocol == "global_time":
        parts = _global_time(offsets, times)
    else:
        parts = _multi5(offsets, users, settings.split_seed)
    train_ends, validation, test, description = parts
    trains = (train_ends > offsets[:-1]).any()
    if not (trains and len(validation) and len(test)):
        raise UserError(
            f"--protocol {settings.protocol} leaves nothing to train on, or nobody to ask, in "
            f"these data; take another protocol or more data"
        )
    # The same memory, or file, as the offsets.
    end = Requests(users, offsets[2:], 0)
    requests = {"validation": validation, "test": test, "end": end}
    return Split(settings.protocol, train_ends, requests, description)


def _leave_one_out(offsets, users):
    ends = offsets[2:]
    return (
        np.maximum(offsets[:-1], offsets[1:] - 2),
        Requests(users, ends - 2),
        Requests(users, ends - 1),
        "leave-one-out (validation the second last interaction of each user, test the last)",
    )


def _global_time(offsets, times):
    if not times.any():
        raise UserError(
            "--protocol global_time needs times, which these data lack; use leave_one_out"
        )
    shares = [1 - 2 * HELD_OUT, 1 - HELD_OUT]
    first, second = np.quantile(times, shares, method="lower")
    dates = np.array([first, second], dtype="M8[s]").astype("M8[m]")
    return (
        ends_before(offsets, times, first),
        spread_requests(offsets, (times >= first) & (times < second)),
        spread_requests(offsets, times >= second),
        f"global time (trained before {dates[0]} UTC, validation to {dates[1]}, test after "
        f"it; up to {MOST_TARGETS} evenly spread interactions of each user there, means over "
        f"each user's first)",
    )


def ends_before(
    offsets: np.ndarray, times: np.ndarray, moment: int
) -> np.ndarray:
    """(users,) end of each user's interactions before a time."""
    before = np.append(0, np.cumsum(times < moment))
    return offsets[:-1] + before[offsets[1:]] - before[offsets[:-1]]


def spread_requests(offsets: np.ndarray, period: np.ndarray) -> Requests:
    """Requests for at most MOST_TARGETS of each user's interactions in a period (N,), evenly
    spread."""
    users, chosen = [], []
    for user, (start, end) in enumerate(itertools.pairwise(offsets)):
        # The very first interaction of a user has no history to rank from.
        rows = start + 1 + np.flatnonzero(period[start + 1 : end])
        if len(rows):
            places = (
                np.linspace(0, len(rows) - 1, MOST_TARGETS).round().astype(int)
            )
            chosen.append(rows[np.unique(places)])
            users += [user] * len(chosen[-1])
    return Requests(
        np.array(users, dtype=int), np.concatenate([[], *chosen]).astype(int)
    )


def _multi5(offsets, users, seed):
    users = np.random.default_rng(seed).permutation(users)
    held = round(HELD_OUT * len(users))
    train_ends = offsets[1:].copy()
    train_ends[users[: 2 * held]] = offsets[users[: 2 * held]]
    requests = []
    for group in (users[:held], users[held : 2 * held]):
        group = np.sort(group)
        ends = offsets[group + 1] - MULTI_TARGETS
        requests.append(Requests(group, ends, MULTI_TARGETS))
    return (
        train_ends,
        *requests,
        f"users split {1 - 2 * HELD_OUT:.0%} / {HELD_OUT:.0%} / {HELD_OUT:.0%} (seed "
        f"{seed}), the last {MULTI_TARGETS} interactions of each held-out "
        f"user are the targets",
    )
