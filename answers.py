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
class Contribution(Item):
    """What one item of the history contributes to a log-probability, and in full by how many
    ranks the recommended item falls without it."""

    effect: float = 0.0
    places: int | None = None


@dataclass(frozen=True)
class Reason:
    """What a sentence of an explanation names: an item of the history, or a family of features."""

    of: Literal["history", "features"]
    name: str
    effect: float


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
    the largest first. means: numeric interaction column -> mean. expected: item column -> value
    -> share in what comes next.
    """

    user_id: Id | None = None
    columns: dict[str, Any]
    interactions: int
    affinities: dict[str, dict[str, float]]
    means: dict[str, float]
    expected: dict[str, dict[str, float]] = field(default_factory=dict)


def to_json(answer: Any) -> Any:
    """Dictionaries and lists; a field that is None is left out."""
    return to_jsonable_python(answer, exclude_none=True)
