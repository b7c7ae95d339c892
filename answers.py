"""The engine's answers as dataclasses, and `to_json` for them."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

EXACT = 2**53  # beyond, JSON rounds whole numbers


def exact(one: int | str) -> int | str:
    """An id for JSON: a whole number that JSON would round becomes text."""
    return str(one) if isinstance(one, int) and abs(one) > EXACT else one


Id = Annotated[int | str, PlainSerializer(exact)]


@dataclass(frozen=True)
class Item:
    """An item of the catalogue. note: a remark about an item that training never saw."""

    id: Id
    name: str
    columns: dict[str, Any]
    note: str | None = None


@dataclass(frozen=True)
class Recommendation(Item):
    """A recommended item. values: expected number, or likeliest value, of interaction columns."""

    rank: int = 0
    score: float = 0.0
    values: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Past(Item):
    """An interaction of a history: its columns that are known, and its time in UTC."""

    values: dict[str, float | str] = field(default_factory=dict)
    time: str | None = None


@dataclass(frozen=True)
class Chosen(Item):
    """The item that a user chose next. place: among all items that may be recommended, from 1, ties
    against it; None if it may not be. place_by_next: the same by what comes next alone, whatever
    value is expected."""

    place: int | None = None
    place_by_next: int | None = None


@dataclass(frozen=True)
class Contribution(Item):
    """What one item of the history contributes to a log-probability, and in full by how many
    ranks the recommended item falls without it."""

    effect: float = 0.0
    places: int | None = None


@dataclass(frozen=True)
class Reason:
    """What a sentence of an explanation names: an item of the history, a family of features, or a
    tag. like: items of the history with that tag; more: how many others have it."""

    of: Literal["history", "features", "tag"]
    name: str
    effect: float
    like: tuple[str, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Flip:
    """The rank that an item would have if a column of the user had another value."""

    column: str
    value: str
    title: str
    rank: int


@dataclass(frozen=True)
class WhatIf:
    """Changes that would change the list.

    without: the smallest set of history items found whose removal drops the item out of the first
    k; empty if it is not among them, None if no removal does. as_another: its rank for other
    values of user columns.
    """

    without: tuple[Item, ...] | None = None
    as_another: tuple[Flip, ...] = ()


@dataclass(frozen=True)
class Feature:
    """What a family of features contributes, and in full by how many ranks an item falls without
    it.
    """

    name: str
    label: str
    effect: float
    places: int | None = None


@dataclass(frozen=True)
class Explanation(Item):
    """What speaks for an item, and against it; in full also its rank and what would have to be
    otherwise.
    """

    log_probability: float = 0.0
    sentence: str = ""
    reasons: tuple[Reason, ...] = ()
    history: tuple[Contribution, ...] = ()
    features: tuple[Feature, ...] = ()
    rank: int | None = None
    what_if: WhatIf | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A user's columns and history, and what the model expects next.

    columns: of the user. affinities: item column -> value -> share of the history that has it,
    the largest first. likes: item column -> values that the user chose more often than others do,
    or rated higher than usual (profiles.py); empty without data. means: numeric interaction column
    -> mean. expected: item column -> value -> share in what comes next. newest: interactions, the
    newest first.
    """

    user_id: Id | None = None
    columns: dict[str, Any]
    interactions: int
    affinities: dict[str, dict[str, float]]
    likes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    means: dict[str, float]
    expected: dict[str, dict[str, float]] = field(default_factory=dict)
    newest: tuple[Past, ...] = ()


def to_json(answer: Any) -> Any:
    """Dictionaries and lists; a field that is None is left out."""
    return to_jsonable_python(answer, exclude_none=True)
