"""Requests of the service: every field is named, typed and bounded; all else is refused.

Answers are the dataclasses of answers.py.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from answers import Chosen, Explanation, Item, Recommendation

# Whole numbers beyond 2^53 travel as text, where JSON would round them.
Number = Annotated[int, Field(ge=-(2**53), le=2**53)]
Text = Annotated[str, Field(max_length=200)]
Id = Number | Text
Fact = Annotated[float, Field(strict=True)] | Number | Text | list[Text] | None
Count = Annotated[int, Field(ge=1, le=100)]
Values = Annotated[list[Fact], Field(max_length=500)]
Ids = Annotated[list[Id], Field(max_length=5000)]
Condition = Annotated[str, Field(min_length=1, max_length=500)]
Mean = Annotated[str, Field(pattern="^mean$")]
ModelName = Annotated[str, Field(pattern="^(main|vanilla|popularity)$")]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        strict=True,
        use_attribute_docstrings=True,
    )


class User(_Strict):
    """A user of the data or a history of item ids, and columns of the user. A history or columns
    beside a user_id replace those of the data."""

    user_id: Id | None = None
    """a user of the data"""
    history: Annotated[list[Id], Field(max_length=500)] | None = None
    """item ids, oldest first"""
    history_columns: (
        Annotated[dict[str, Values], Field(max_length=50)] | None
    ) = None
    """columns of the given history, such as ratings: a value for each item, null if unknown"""
    columns: Annotated[dict[str, Fact], Field(max_length=50)] | None = None
    """columns of the user by name; /health lists them"""
    until: Annotated[str, Field(pattern="^(end|test|validation)$")] = "end"
    """of a user of the data: the whole history, or what comes before the held-out interaction"""
    at: Annotated[int, Field(ge=0, le=2**33)] | None = None
    """moment of the request in seconds since 1970, for a model that knows request times"""


class Choice(User):
    """Which items may be recommended."""

    where: Annotated[list[Condition], Field(max_length=20)] = []
    """keep items that meet all conditions on their columns"""
    only: Ids | None = None
    """no other items than these"""
    without: Ids = []
    """not these items"""
    filter_seen: bool | None = None
    """leave out items of the history; null = unless the data allow repeats"""


class Wish(Choice):
    """What to recommend."""

    k: Count = 10
    """how many"""
    rank_by: Annotated[str, Field(pattern="^(next|liked)$")] = "next"
    """what comes next, or what comes next and is rated at least as the user's mean"""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 to 1: how much items unlike each other are preferred"""
    prefer_expected: Annotated[float, Field(strict=True)] | Mean | None = None
    """the value, such as a rating, that the list's items shall have on average as the model expects
    it; 'mean' = the mean of the history"""
    model: ModelName = "main"
    """the served model, vanilla BERT4Rec, or the most popular items"""


class Why(Choice):
    """Which items to explain, among those that may be recommended."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=10)]
    k: Count | None = None
    """of one item: also in ranks, and what would have to be otherwise: without which items of the
    history it is not among the first k, and its rank for other users"""

    @model_validator(mode="after")
    def one_in_full(self) -> "Why":
        """Counterfactuals take up to seconds an item."""
        if self.k is not None and len(self.item_ids) > 1:
            raise ValueError("with k, ask for one item at a time")
        return self


class Recommendations(BaseModel):
    """Best first. note: a remark about this answer, '' if there is none. chosen: what the user of
    the data chose next; only with `until`."""

    recommendations: list[Recommendation]
    note: str
    chosen: Chosen | None = None


class Explanations(BaseModel):
    """In the order of the request."""

    explanations: list[Explanation]


class Items(BaseModel):
    """Items whose names fit a query."""

    items: list[Item]


class Error(BaseModel):
    """What was wrong with the request."""

    error: str
