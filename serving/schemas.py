"""What the service takes and gives: every field named, typed and bounded; anything else is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from people import DEMOGRAPHICS
from readers.interactions import GENRES

LONGEST_HISTORY, MOST_FILMS, MOST_EXPLAINED = 500, 100, 10
Id = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
ModelName = Literal["main", "vanilla", "popularity"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Person(_Strict):
    """Somebody in the data (user_id), or new: a history of film ids, oldest first, and what is known of the person.
    What is given beside a user_id stands instead of what the data say."""

    user_id: Id | None = Field(None, description="somebody in the data", examples=[123])
    history: Annotated[list[Id], Field(max_length=LONGEST_HISTORY)] | None = Field(
        None, description="film ids, oldest first", examples=[[260, 1210]])
    gender: Literal["F", "M"] | None = Field(None, examples=["F"])
    age: Annotated[int, Field(ge=1, le=120, strict=True)] | None = Field(None, description="in years", examples=[25])
    occupation: Annotated[int, Field(ge=0, le=100, strict=True)] | None = Field(
        None, description="code of the data set; /health lists them", examples=[4])
    at: Annotated[int, Field(ge=0, le=2**33, strict=True)] | None = Field(
        None, description="moment of the request in seconds since 1970, for a model that knows request times")

    @property
    def facts(self) -> dict[str, str | int | None] | None:
        """The demographics that the request names, if any."""
        return {name: getattr(self, name) for name in DEMOGRAPHICS if name in self.model_fields_set} or None


class Choice(Person):
    """Which films may be recommended."""

    genres: Annotated[list[Literal[GENRES]], Field(max_length=len(GENRES))] = Field(
        default=[], description="keep films with any of these", examples=[["Comedy"]])
    year_from: Annotated[int, Field(ge=0, le=9999, strict=True)] | None = Field(
        None, description="keep films of this year or later", examples=[1980])
    filter_seen: bool = Field(True, description="leave out films of the history", strict=True)


class Wish(Choice):
    """What to recommend."""

    k: Annotated[int, Field(ge=1, le=MOST_FILMS, strict=True)] = Field(10, description="how many films")
    model: ModelName = Field("main", description="the served model, vanilla BERT4Rec, or the most popular films")


class Why(Choice):
    """Which films to explain, among those that may be recommended."""

    movie_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_EXPLAINED)] = Field(examples=[[1196]])
    k: Annotated[int, Field(ge=1, le=MOST_FILMS, strict=True)] | None = Field(
        None, description="of one film: also in ranks, and what would have to be otherwise: without which films of the "
                          "history it is not among the first k, and its rank for people of another gender or age",
        examples=[10])

    @model_validator(mode="after")
    def one_in_full(self) -> Why:
        """What would have to be otherwise takes up to seconds a film."""
        if self.k is not None and len(self.movie_ids) > 1:
            raise ValueError("with k, ask for one film at a time")
        return self


class Film(BaseModel):
    """A film of the catalogue."""

    movie_id: int
    title: str
    year: int | None
    genres: list[str]
    note: str | None = Field(None, description="if training never saw the film: what it is ranked by")


class Recommendation(Film):
    """A recommended film."""

    rank: int
    score: float
    predicted_rating: float | None = None


class Recommendations(BaseModel):
    """Best first."""

    recommendations: list[Recommendation]
    note: str = Field(description="what must be said of this answer, '' if nothing")


class Contribution(Film):
    """What one film of the history contributes to the log-probability; with k, how many ranks are lost without it."""

    effect: float
    places: int | None = None


class Flip(BaseModel):
    """The rank of the film were the person of this gender or age group."""

    fact: str
    value: str
    rank: int
    log_probability: float


class WhatIf(BaseModel):
    """without: films of the history without which it is not among the first k; null if it stays without any."""

    without: list[Film] | None
    as_another: list[Flip]


class Reason(BaseModel):
    """What the sentence names: a title of the history, or a family of features."""

    of: Literal["history", "features"]
    name: str
    effect: float


class Explanation(Film):
    """What speaks for a film, and against it; with k also its rank, how many ranks are lost without each family of
    features, and what would have to be otherwise."""

    log_probability: float
    history: list[Contribution]
    features: dict[str, float]
    sentence: str
    reasons: list[Reason]
    rank: int | None = None
    feature_places: dict[str, int] | None = None
    what_if: WhatIf | None = None


class Explanations(BaseModel):
    """In the order asked for."""

    explanations: list[Explanation]


class Films(BaseModel):
    """Films whose titles hold all words of a query."""

    films: list[Film]


class Error(BaseModel):
    """What was wrong with the request."""

    error: str
