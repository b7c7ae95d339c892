"""`Field`: a column of a data set, and how its values are stored.

A table has R rows; row 0 is 'unknown' (dataset.py).

    category   (R,) int64 code of a value, 0 = unknown; code c is values[c - 1]
    tags       (R, M) int64 codes, padded with 0
    number     (R,) float32, NaN = unknown
    text       (R,) str, '' = unknown
    vector     (R, E) float32, NaN = unknown
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from schema import Column, plain_number
from support.errors import UserError

UNKNOWN = 0


@dataclass(frozen=True)
class Field:
    """A column of a data set: its entry in the schema, and what was found in the data.

    values: of a category or of tags, in the order of their codes. knots: quantiles of the known
    numbers. size: length of a vector.
    """

    column: Column
    values: tuple[str, ...] = ()
    knots: tuple[float, ...] = ()
    size: int = 0

    @property
    def name(self) -> str:
        """Of the column."""
        return self.column.name

    @property
    def predicted(self) -> bool:
        """Whether a head learns it."""
        return self.column.predict and bool(self.values)

    @cached_property
    def titles(self) -> list[str]:
        """The values in readable form."""
        return [self.column.values.get(value, value) for value in self.values]

    @cached_property
    def _codes(self) -> dict[str, int]:
        exact = [*enumerate(self.values, 1), *enumerate(self.titles, 1)]
        folded = [(code, name.casefold()) for code, name in exact]
        codes: dict[str, int] = {}
        for code, name in exact + folded:
            # The first counts: FR is FR, where fr is another value.
            codes.setdefault(name, code)
        return codes

    def find(self, text: str) -> int | None:
        """Code of a value or of its title, ignoring case; None if there is none."""
        text = text.strip()
        for form in (text, text.casefold(), plain_number(text)):
            if form in self._codes:
                return self._codes[form]
        return None

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """The values of a category as numbers, such as stars; None if one is not a number."""
        try:
            return np.array([float(value) for value in self.values])
        except ValueError:
            return None

    def as_numbers(self, stored: np.ndarray) -> np.ndarray | None:
        """Stored values as numbers, NaN if unknown; None if they are no numbers."""
        if self.column.kind == "number":
            return stored
        if self.column.kind != "category" or self.numbers is None:
            return None
        return np.append(np.nan, self.numbers)[stored]

    def expected(self, shares: np.ndarray) -> list[float | str]:
        """The expected number of each row of shares (N, K) of a category's values, or the likeliest
        value if they are no numbers."""
        if self.numbers is not None:
            return [round(float(value), 2) for value in shares @ self.numbers]
        return [self.titles[code] for code in shares.argmax(1)]

    @cached_property
    def unknown(self) -> np.ndarray:
        """The stored form of an unknown value."""
        return {
            "number": np.array(np.nan, dtype=np.float32),
            "vector": np.full(self.size, np.nan, dtype=np.float32),
            "text": np.array("", dtype=object),
            "tags": np.array([UNKNOWN]),
            "category": np.array(UNKNOWN),
        }[self.column.kind]

    def stored(self, value: Any) -> np.ndarray:
        """The stored form of a given value or title. Raises `UserError`."""
        kind = self.column.kind
        if value is None or (isinstance(value, str) and not value):
            return self.unknown
        if kind == "text":
            return np.array(str(value), dtype=object)
        if kind == "category":
            return np.array(self.code(value))
        parts = value.split(",") if isinstance(value, str) else value
        if kind == "tags":
            tags = parts if isinstance(parts, list | tuple) else [parts]
            codes = sorted({self.code(tag) for tag in tags})
            return np.array(codes or [UNKNOWN])
        try:
            numbers = np.array(parts, dtype=np.float32)
            numbers = numbers.reshape(self.unknown.shape)
        except (TypeError, ValueError):
            numbers = np.array(np.inf)
        if np.isinf(numbers).any():
            wanted = f"{self.size} finite numbers" if self.size else "a number"
            raise UserError(f"{self.name}: {value!r} is not {wanted}")
        return numbers

    def code(self, value: Any) -> int:
        """Code of a value or of its title, ignoring case. Raises `UserError` naming the values.

        A number takes the largest value that is not above it: an age in years takes its group.
        """
        text = str(value)
        found = self.find(text)
        if found:
            return found
        numbers = self.numbers
        if numbers is not None and not self.column.ordered:
            try:
                below = np.flatnonzero(numbers <= float(text))
            except ValueError:
                below = []
            if len(below) and float(text) < 1.5 * numbers.max() + 10:
                return int(below[np.argmax(numbers[below])]) + 1
        raise UserError(
            f"{self.name} {value!r}: choose one of {', '.join(self.values[:30])}"
        )

    def readable(self, stored: np.ndarray) -> Any:
        """A stored row for JSON: titles of values, None if unknown."""
        kind = self.column.kind
        if kind == "category":
            return self.titles[int(stored) - 1] if stored else None
        if kind == "tags":
            titles = self.titles
            return tuple(titles[code - 1] for code in stored.tolist() if code)
        if kind == "text":
            return str(stored) or None
        if np.isnan(stored).any():
            return None
        if kind == "vector":
            return tuple(round(float(part), 6) for part in stored)
        number = float(stored)
        return int(number) if number == int(number) else round(number, 4)
