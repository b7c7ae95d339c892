"""Times as people write them, to seconds since 1970: epochs, ISO 8601, and dates day or month
first.
"""

import numpy as np
import pandas as pd

from support.errors import UserError

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


def seconds_of(values: pd.Series, where: str, first_line: int) -> pd.Series:
    """Seconds since 1970 (int64), of one way of writing for the whole column.

    where: file and field, for `UserError`, which also names the line (the index of `values`
    counted from `first_line`) and the value.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return _of_datetimes(pd.to_datetime(values, utc=True))
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        return _of_numbers(numbers, where, first_line)
    text = values.astype(str).str.strip()
    parts = text.str.extract(NUMERIC_DATE)
    if parts[0].notna().all():
        text = _ordered(parts, where)
    moments = _parsed(text, "ISO8601")
    wrong = moments.isna()
    if wrong.any():
        # A number among dates is not what is wrong, unless nothing else is.
        row = (2 * wrong + (wrong & numbers.isna())).idxmax()
        raise UserError(
            f"{where}: {values[row]!r} in line {first_line + row} is not a time; "
            f"write seconds since 1970 or ISO dates such as 2015-01-31"
        )
    return _of_datetimes(moments)


def _parsed(text, layout):
    return pd.to_datetime(text, format=layout, utc=True, errors="coerce")


def _of_datetimes(moments):
    return moments.astype("datetime64[s, UTC]").astype(np.int64)


def _of_numbers(numbers, where, first_line):
    """Numbers such as 20170714, with or without the time of day; else epochs in seconds,
    milliseconds, microseconds or nanoseconds, by the size of the largest."""
    for (first, last), layout in COMPACT_DATES.items():
        if numbers.between(first, last).all():
            moments = _parsed(numbers.astype(np.int64).astype(str), layout)
            if moments.notna().all():
                return _of_datetimes(moments)
    _check_one_unit(numbers, where, first_line)
    largest = numbers.max()
    for unit in UNITS:
        if largest / unit < LATEST:
            return (numbers // unit).astype(np.int64)
    raise UserError(
        f"{where}: {largest:g} is no time since 1970 in seconds or smaller units"
    )


def _check_one_unit(numbers, where, first_line):
    """Raises `UserError` for a time that is cut off, or of another unit than the others."""
    middle = numbers.median()
    if middle < EARLIEST:  # counted from anywhere, in anything
        return
    far = (numbers < middle / LARGEST_RATIO) | (
        numbers > middle * LARGEST_RATIO
    )
    if far.any():
        row = far.idxmax()
        raise UserError(
            f"{where}: {numbers[row]:.0f} in line {first_line + row} is no time beside others such "
            f"as {middle:.0f}; correct the line, or leave the time empty where it is unknown"
        )


def _ordered(parts, where):
    """ISO dates of day, month and year in one order, decided by the whole column."""
    # A number above 12 is a day.
    day_places = [
        place for place in (0, 1) if (parts[place].astype(int) > 12).any()
    ]
    if len(day_places) != 1:
        example = "-".join(parts.iloc[0, :3])
        raise UserError(
            f"{where}: {example!r} may be day-month or month-day, as no date of the column tells "
            f"which, or some have the day first and some the month; write them as 2015-01-31"
        )
    (day,) = day_places
    month = parts[1 - day].str.zfill(2)
    return parts[2] + "-" + month + "-" + parts[day].str.zfill(2) + parts[3]
