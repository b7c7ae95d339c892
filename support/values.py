"""Kinds of values that settings have, each with its range."""

from typing import Annotated, Any

from annotated_types import Ge, Le, Lt
from pydantic import BeforeValidator, ConfigDict

# Kinds and limits of values are checked by pydantic; the text under a field is its description.
CHECKED = ConfigDict(
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    coerce_numbers_to_str=True,
)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth)]
Number = Annotated[Whole, Ge(0), Le(1_000_000_000)]
Count = Annotated[Number, Ge(1)]
Seed = Annotated[Whole, Ge(0), Lt(1 << 32)]
Size = Annotated[Real, Ge(0), Le(1_000_000)]
Share = Annotated[Real, Ge(0), Le(1)]
