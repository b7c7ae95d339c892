"""What the service takes: every field named, typed and bounded; anything else is refused.

What it gives are the dataclasses of answers.py.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from answers import Explanation, Item, Recommendation

LONGEST_HISTORY, MOST_ITEMS, MOST_EXPLAINED, MOST_CONDITIONS = 500, 100, 10, 20
# Whole numbers beyond 2^53 travel as text, where JSON would round them.
Number = Annotated[int, Field(ge=-(2**53), le=2**53)]
Text = Annotated[str, Field(max_length=200)]
Id = Number | Text
Fact = Annotated[float, Field(strict=True)] | Number | Text | list[Text] | None
Condition = Annotated[str, Field(min_length=1, max_length=500)]
ModelName = Annotated[str, Field(pattern="^(main|vanilla|popularity)$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class User(_Strict):
    """A user of the data (user_id), or a new one: a history of item ids, oldest first, and
    columns of the user. What is given beside a user_id stands instead of what the data say."""

    user_id: Id | None = Field(
        None, description="a user of the data", examples=[123]
    )
    history: Annotated[list[Id], Field(max_length=LONGEST_HISTORY)] | None = (
        Field(
            None, description="item ids, oldest first", examples=[[260, 1210]]
        )
    )
    columns: Annotated[dict[str, Fact], Field(max_length=50)] | None = Field(
        None,
        description="columns of the user by name; /health lists them",
        examples=[{}],
    )
    at: Annotated[int, Field(ge=0, le=2**33)] | None = Field(
        None,
        description="moment of the request in seconds since 1970, for a model that knows request "
        "times",
    )


class Choice(User):
    """Which items may be recommended."""

    where: Annotated[list[Condition], Field(max_length=MOST_CONDITIONS)] = (
        Field(
            default=[],
            description="keep items that meet all conditions on their columns",
            examples=[[]],
        )
    )
    filter_seen: bool | None = Field(
        None,
        description="leave out items of the history; null = unless the data allow repeats",
    )


class Wish(Choice):
    """What to recommend."""

    k: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = Field(
        10, description="how many"
    )
    model: ModelName = Field(
        "main",
        description="the served model, vanilla BERT4Rec, or the most popular items",
    )


class Why(Choice):
    """Which items to explain, among those that may be recommended."""

    item_ids: Annotated[
        list[Id], Field(min_length=1, max_length=MOST_EXPLAINED)
    ] = Field(examples=[[1196]])
    k: Annotated[int, Field(ge=1, le=MOST_ITEMS)] | None = Field(
        None,
        examples=[10],
        description="of one item: also in ranks, and what would have to be otherwise: "
        "without which items of the history it is not among the first k, and its rank for "
        "other users",
    )

    @model_validator(mode="after")
    def one_in_full(self) -> "Why":
        """What would have to be otherwise takes up to seconds an item."""
        if self.k is not None and len(self.item_ids) > 1:
            raise ValueError("with k, ask for one item at a time")
        return self


class Recommendations(BaseModel):
    """Best first; note: what must be said of this answer, '' if nothing."""

    recommendations: list[Recommendation]
    note: str


class Explanations(BaseModel):
    """In the order asked for."""

    explanations: list[Explanation]


class Items(BaseModel):
    """Items whose names hold all words of a query."""

    items: list[Item]


class Error(BaseModel):
    """What was wrong with the request."""

    error: str
