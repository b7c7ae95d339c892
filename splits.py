"""Which interactions train, and which are asked for: one function a protocol, chosen by `--protocol`.

leave_one_out  the last interaction of each person tests, the one before it validates, the rest trains
global_time    a cut in calendar time: what is before it trains, what is after it validates and, after a second cut,
               tests; histories grow up to each target, parameters never see past the first cut
multi5         people are split, not interactions: most train with all they have; of the others the last five
               interactions are the targets together

A request always asks for the interactions that directly follow a history, so a position in the flat arrays of
`SequenceData` and a number of targets describe it. U people, Q requests, T targets of a request.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from settings import DataSettings

MULTI_TARGETS = 5
HELD_OUT = 0.15  # share of the interactions (global_time), or of the people (multi5), that tests; as much validates
MOST_TARGETS = 10  # of a person in each period (global_time)
FEWEST = {"leave_one_out": 3, "global_time": 1, "multi5": MULTI_TARGETS + 1}  # interactions that a person must have


@dataclass(frozen=True)
class Requests:
    """Person `people[q]`, who has what stands before position `ends[q]`, is asked for the `count` that follow."""

    people: np.ndarray  # (Q,) rows of people
    ends: np.ndarray  # (Q,) positions in the flat arrays
    count: int = 1

    def __len__(self) -> int:
        """Requests Q."""
        return len(self.people)

    @property
    def target_rows(self) -> np.ndarray:
        """(Q, T) positions of the targets."""
        return self.ends[:, None] + np.arange(self.count)


@dataclass(frozen=True)
class Split:
    """What trains, up to `train_ends` (U,) of each person, and what 'validation', 'test' and 'end' ask.

    'end' asks everybody from their whole history; there are no targets. `description` says all this in a phrase.
    """

    protocol: str
    train_ends: np.ndarray
    requests: dict[str, Requests]
    description: str


def split_interactions(settings: DataSettings, offsets: np.ndarray, timestamps: np.ndarray) -> Split:
    """The split that the settings name, for people whose interactions are offsets[u]:offsets[u + 1]."""
    return SPLITS[settings.protocol](settings, offsets, timestamps)


def _leave_one_out(_settings: DataSettings, offsets: np.ndarray, _timestamps: np.ndarray) -> Split:
    people, ends = np.arange(len(offsets) - 1), offsets[1:]
    return Split("leave_one_out", ends - 2, _with_end(offsets, Requests(people, ends - 2), Requests(people, ends - 1)),
                 "leave-one-out (validation the second last interaction of each person, test the last)")


def _global_time(_settings: DataSettings, offsets: np.ndarray, timestamps: np.ndarray) -> Split:
    people = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first_cut, second_cut = np.quantile(timestamps, [1 - 2 * HELD_OUT, 1 - HELD_OUT],
                                        method="lower")
    rows = np.arange(len(timestamps))
    train_ends = offsets[:-1] + np.bincount(people, timestamps < first_cut, len(offsets) - 1).astype(np.int64)

    def asked(period: np.ndarray) -> Requests:
        # The very first interaction of a person has no history to rank from.
        chosen = spread(rows[period & (rows > offsets[people])], people, MOST_TARGETS)
        return Requests(people[chosen], chosen)

    dates = np.array([first_cut, second_cut]).astype("datetime64[s]").astype("datetime64[m]")
    validation = asked((timestamps >= first_cut) & (timestamps < second_cut))
    test = asked(timestamps >= second_cut)
    return Split("global_time", train_ends, _with_end(offsets, validation, test),
                 f"global time (trained before {dates[0]} UTC, validation to {dates[1]}, test after it; up to "
                 f"{MOST_TARGETS} evenly spread interactions of each person there, means over each person's first)")


def spread(rows: np.ndarray, people: np.ndarray, most: int) -> np.ndarray:
    """At most so many of each person's rows (ascending), evenly spread."""
    if not len(rows):
        return rows
    bounds = np.flatnonzero(np.r_[True, np.diff(people[rows]) > 0, True])
    return np.concatenate([rows[start:end][np.unique(np.linspace(0, end - start - 1, most).round().astype(int))]
                           for start, end in itertools.pairwise(bounds)])


def _multi5(settings: DataSettings, offsets: np.ndarray, _timestamps: np.ndarray) -> Split:
    people = np.random.default_rng(settings.split_seed).permutation(len(offsets) - 1)
    held = round(HELD_OUT * len(people))
    validation, test = np.sort(people[:held]), np.sort(people[held:2 * held])
    train_ends = offsets[1:].copy()
    train_ends[people[:2 * held]] = offsets[people[:2 * held]]
    requests = (Requests(group, offsets[group + 1] - MULTI_TARGETS, MULTI_TARGETS) for group in (validation, test))
    return Split("multi5", train_ends, _with_end(offsets, *requests),
                 f"people split {1 - 2 * HELD_OUT:.0%} / {HELD_OUT:.0%} / "
                 f"{HELD_OUT:.0%} (seed {settings.split_seed}), the last {MULTI_TARGETS} interactions of "
                 f"each held-out person are the targets")


def _with_end(offsets: np.ndarray, validation: Requests, test: Requests) -> dict[str, Requests]:
    return {"validation": validation, "test": test, "end": Requests(np.arange(len(offsets) - 1), offsets[1:], 0)}


SPLITS: dict[str, Callable[[DataSettings, np.ndarray, np.ndarray], Split]] = {
    "leave_one_out": _leave_one_out, "global_time": _global_time, "multi5": _multi5}
