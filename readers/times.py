"""Seconds since 1970 from written times: epochs, ISO 8601, and dates with day or month first.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from readers.numbers import whole_numbers

Refuse = Callable[[Any, str], NoReturn]

# 2100-01-01: a larger number of seconds is one of milliseconds or less
LATEST = 4_102_444_800
EARLIEST = 100_000_000  # 1973, in seconds
# Of two times of one unit: 1973 and 2100 are not as far from the middle.
LARGEST_RATIO = 20
UNITS = (1, 1_000, 1_000_000, 1_000_000_000)  # of epochs, in a second
# 20170714, and with the time of day.
COMPACT_DATES = {
    (19700101, 21001231): "%Y%m%d",
    (19700101000000, 21001231235959): "%Y%m%d%H%M%S",
}
NUMERIC_DATE = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(.*)$"


def seconds_of(values: pd.Series, refuse: Refuse) -> pd.Series:
    """Seconds since 1970 (int64); the whole column has one format.

    refuse: called with the row (an index of `values`, None for all) and the error.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return _of_datetimes(pd.to_datetime(values, utc=True))
    numbers = whole_numbers(values)
    if numbers is None:
        numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        return _of_numbers(numbers, refuse)
    text = values.astype(str).str.strip()
    parts = text.str.extract(NUMERIC_DATE)
    dates = parts[0].notna()
    if dates.all():
        text = _ordered(parts, refuse)
    elif dates.mean() > 0.5:
        row = (~dates).idxmax()
        refuse(
            row,
            f"{values[row]!r} is not a time beside others such as {text[dates].iloc[0]!r}: leave "
            f"it empty where it is unknown",
        )
    moments = _parsed(text, "ISO8601")
    wrong = moments.isna()
    if wrong.any():
        # A number among dates is not what is wrong, unless nothing else is.
        row = (2 * wrong + (wrong & numbers.isna())).idxmax()
        refuse(
            row,
            f"{values[row]!r} is not a time: write seconds since 1970 or ISO dates such as "
            f"2015-01-31",
        )
    return _of_datetimes(moments)


def _parsed(text, layout):
    return pd.to_datetime(text, format=layout, utc=True, errors="coerce")


def _of_datetimes(moments):
    return moments.astype("datetime64[s, UTC]").astype(np.int64)


def _of_numbers(numbers, refuse):
    """Numbers such as 20170714, with or without the time of day; else epochs in seconds,
    milliseconds, microseconds or nanoseconds, by the size of the largest."""
    for (first, last), layout in COMPACT_DATES.items():
        if numbers.between(first, last).all():
            moments = _parsed(numbers.astype(np.int64).astype(str), layout)
            if moments.notna().all():
                return _of_datetimes(moments)
    if np.isinf(numbers).any() or numbers.max() >= LATEST * UNITS[-1]:
        refuse(numbers.idxmax(), f"{numbers.max():g} is no time since 1970")
    _check_one_unit(numbers, refuse)
    largest = numbers.max()
    unit = next(unit for unit in UNITS if largest / unit < LATEST)
    return (numbers // unit).astype(np.int64)


def _check_one_unit(numbers, refuse):
    """Refuse a time that is truncated, or in another unit than the others."""
    middle = numbers.median()
    if middle < EARLIEST:  # counted from anywhere, in anything
        return
    far = (numbers < middle / LARGEST_RATIO) | (
        numbers > middle * LARGEST_RATIO
    )
    if far.any():
        row = far.idxmax()
        refuse(
            row,
            f"{numbers[row]:.0f} is no time beside others such as {middle:.0f}: leave it empty "
            f"where it is unknown",
        )


def _ordered(parts, refuse):
    """ISO dates of day, month and year in one order, decided by the whole column."""
    # A number above 12 is a day.
    day_places = [
        place for place in (0, 1) if (parts[place].astype(int) > 12).any()
    ]
    if len(day_places) != 1:
        example = "-".join(parts.iloc[0, :3])
        refuse(
            None,
            f"{example!r} may be day-month or month-day, as no date of the column tells "
            f"which, or some have the day first and some the month; write them as 2015-01-31",
        )
    (day,) = day_places
    month = parts[1 - day].str.zfill(2)
    return parts[2] + "-" + month + "-" + parts[day].str.zfill(2) + parts[3]
