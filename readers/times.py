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
# of epochs, in a second
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# 20170714, and with the time of day.
COMPACT_DATES = {
    "%Y%m%d": (19700101, 21001231),
    "%Y%m%d%H%M%S": (19700101000000, 21001231235959),
}
FORMS_OF_NUMBERS = (*UNITS, *COMPACT_DATES)
DATETIMES, ISO = "datetimes", "ISO 8601"
# The place of the day in dates such as 31-01-2015.
DAY_PLACES = {"day first": 0, "month first": 1}
NUMERIC_DATE = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(.*)$"


def seconds_of(
    values: pd.Series, refuse: Refuse, form: str = ""
) -> pd.Series:
    """Seconds since 1970 (int64); the whole column has one format.

    refuse: called with the row (an index of `values`, None for all) and the error. form: of
    `time_form`, if it is known already.
    """
    form = form or time_form(values, refuse)
    if form == DATETIMES:
        return _of_datetimes(pd.to_datetime(values, utc=True))
    if form in FORMS_OF_NUMBERS:
        return _of_numbers(_as_numbers(values), form, refuse)
    text = values.astype(str).str.strip()
    if form in DAY_PLACES:
        text = _in_iso_order(text, DAY_PLACES[form])
    moments = _parsed(text, "ISO8601")
    wrong = moments.isna()
    if wrong.any():
        # A number among dates is not what is wrong, unless nothing else is.
        numbers = _as_numbers(values)
        unreadable = wrong & numbers.isna()
        row = (unreadable if unreadable.any() else wrong).idxmax()
        refuse(
            row,
            f"{values[row]!r} is not a time: write seconds since 1970 or ISO dates such as "
            f"2015-01-31",
        )
    return _of_datetimes(moments)


def time_form(values: pd.Series, refuse: Refuse) -> str:
    """How all times of a column are written: a unit of numbers, a layout, or an order of dates."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return DATETIMES
    numbers = _as_numbers(values)
    if numbers.notna().all():
        return _form_of_numbers(numbers, refuse)
    text = values.astype(str).str.strip()
    parts = text.str.extract(NUMERIC_DATE)
    dates = parts[0].notna()
    if dates.all():
        return _order_of_dates(parts, refuse)
    if dates.mean() > 0.5:
        row = (~dates).idxmax()
        refuse(
            row,
            f"{values[row]!r} is not a time beside others such as {text[dates].iloc[0]!r}: leave "
            f"it empty where it is unknown",
        )
    return ISO


def _as_numbers(values):
    numbers = whole_numbers(values)
    if numbers is None:
        numbers = pd.to_numeric(values, errors="coerce")
    return numbers


def _parsed(text, layout):
    return pd.to_datetime(text, format=layout, utc=True, errors="coerce")


def _of_datetimes(moments):
    return moments.astype("datetime64[s, UTC]").astype(np.int64)


def _of_numbers(numbers, form, refuse):
    for row in numbers.index[numbers.isna()]:
        refuse(row, "is not a number, as the times before it are")
    if form in UNITS:
        _check_one_unit(numbers, refuse)
        return (numbers // UNITS[form]).astype(np.int64)
    moments = _parsed(numbers.astype(np.int64).astype(str), form)
    for row in moments.index[moments.isna()]:
        refuse(row, f"{numbers[row]:.0f} is no date such as 20170714")
    return _of_datetimes(moments)


def _form_of_numbers(numbers, refuse):
    """Numbers such as 20170714, with or without the time of day; else epochs in seconds,
    milliseconds, microseconds or nanoseconds, by the size of the largest."""
    for layout, (first, last) in COMPACT_DATES.items():
        if numbers.between(first, last).all():
            moments = _parsed(numbers.astype(np.int64).astype(str), layout)
            if moments.notna().all():
                return layout
    if np.isinf(numbers).any() or numbers.max() >= LATEST * UNITS["ns"]:
        refuse(numbers.idxmax(), f"{numbers.max():g} is no time since 1970")
    _check_one_unit(numbers, refuse)
    largest = numbers.max()
    return next(
        name for name, unit in UNITS.items() if largest / unit < LATEST
    )


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


def _order_of_dates(parts, refuse):
    """Whether the day or the month is first, decided by the whole column."""
    # A number above 12 is a day.
    found = [
        form
        for form, place in DAY_PLACES.items()
        if (parts[place].astype(int) > 12).any()
    ]
    if len(found) != 1:
        example = "-".join(parts.iloc[0, :3])
        refuse(
            None,
            f"{example!r} may be day-month or month-day, as no date of the column tells "
            f"which, or some have the day first and some the month; write them as 2015-01-31",
        )
    return found[0]


def _in_iso_order(text, day):
    """Dates with the day in place `day` (0 or 1) as ISO dates; other text as it is."""
    parts = text.str.extract(NUMERIC_DATE)
    month = parts[1 - day].str.zfill(2)
    dates = parts[2] + "-" + month + "-" + parts[day].str.zfill(2) + parts[3]
    return dates.fillna(text)
