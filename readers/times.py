"""Times as people write them, to seconds since 1970: epochs, ISO 8601, and dates day or month
first.
"""

import re

import numpy as np
import pandas as pd

from support.errors import UserError

# 2100-01-01: a larger number of seconds is one of milliseconds or less
LATEST = 4_102_444_800
UNITS = (1, 1_000, 1_000_000, 1_000_000_000)  # of epochs, in a second
# 20170714, and with the time of day.
COMPACT_DATES = {
    (19700101, 21001231): "%Y%m%d",
    (19700101000000, 21001231235959): "%Y%m%d%H%M%S",
}
NUMERIC_DATE = r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(.*)"


def seconds_of(values: pd.Series, where: str, first_line: int) -> pd.Series:
    """Seconds since 1970 (int64), of one way of writing for the whole column.

    where: file and field, for `UserError`, which also names the line (the index of `values`
    counted from `first_line`) and the value.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return _of_datetimes(values)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        compact = _of_compact_dates(numbers)
        return _of_epochs(numbers, where) if compact is None else compact
    text = values.astype(str).str.strip()
    parts = text.str.extract(f"^{NUMERIC_DATE}$")
    if parts[0].notna().all():
        text = _ordered(parts, where)
    try:
        moments = pd.to_datetime(text, format="ISO8601", utc=True)
    except ValueError:
        row = _first_unreadable(text)
        raise UserError(
            f"{where}: {values[row]!r} in line {first_line + row} is not a time; "
            f"write seconds since 1970 or ISO dates such as 2015-01-31"
        ) from None
    return _of_datetimes(moments)


def _of_datetimes(moments: pd.Series) -> pd.Series:
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return moments.astype("datetime64[s]").astype(np.int64)


def _of_compact_dates(numbers: pd.Series) -> pd.Series | None:
    """Seconds of numbers such as 20170714, with or without the time of day; None of others."""
    for (first, last), layout in COMPACT_DATES.items():
        if numbers.between(first, last).all():
            text = numbers.astype(np.int64).astype(str)
            moments = pd.to_datetime(text, format=layout, errors="coerce")
            if moments.notna().all():
                return _of_datetimes(moments)
    return None


def _of_epochs(numbers: pd.Series, where: str) -> pd.Series:
    """Epochs in seconds, milliseconds, microseconds or nanoseconds, by the size of the largest."""
    largest = numbers.max()
    for unit in UNITS:
        if largest / unit < LATEST:
            return (numbers // unit).astype(np.int64)
    raise UserError(
        f"{where}: {largest:g} is no time since 1970 in seconds or smaller units"
    )


def _ordered(parts: pd.DataFrame, where: str) -> pd.Series:
    """ISO dates of day, month and year in one order, decided by the whole column."""
    first, second = parts[0].astype(int), parts[1].astype(int)
    day_first, month_first = (first > 12).any(), (second > 12).any()
    if day_first and month_first:
        raise UserError(
            f"{where}: some dates have the day first and some the month; write them as "
            f"2015-01-31"
        )
    if not day_first and not month_first:
        example = "-".join(parts.iloc[0, :3])
        raise UserError(
            f"{where}: {example!r} may be day-month or month-day, and no date of the "
            f"column tells which; write them as 2015-01-31"
        )
    day, month = (first, second) if day_first else (second, first)
    return (
        parts[2]
        + "-"
        + month.map("{:02d}".format)
        + "-"
        + day.map("{:02d}".format)
        + parts[3]
    )


def _first_unreadable(text: pd.Series) -> int:
    """Row of the first text that is neither a number nor an ISO date."""
    numbers = pd.to_numeric(text, errors="coerce")
    for row, value in text[numbers.isna()].items():
        if not re.match(r"\d{4}-\d{2}-\d{2}", value):
            return row
        try:
            pd.to_datetime(value, format="ISO8601", utc=True)
        except ValueError:
            return row
    return text.index[0]
