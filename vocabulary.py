"""Raw columns as stored arrays: the rows of a table, the values of a column, their codes.

What is stored of each kind of column: fields.py.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dataset import Table
from fields import UNKNOWN, Field
from schema import Column
from support.errors import require

KNOTS = 16  # quantiles of a number's known values
MOST_TAGS = 64  # of one item
LARGEST = float(np.finfo(np.float32).max)  # what is larger is unknown


def table_of(
    found: pd.DataFrame | None,
    columns: Mapping[str, Column],
    used: pd.Series,
    first: int,
    known: Mapping[str, Field] | None = None,
) -> Table:
    """The table of the ids that are used, in their order; ids without a row have unknown columns.

    found: as in `RawData`. first, known: as in `Table` and `fields_of`.
    """
    ids = np.sort(used.unique())
    if ids.dtype != np.int64:
        ids = ids.astype(object)
    names = np.array([""] * first + ids.astype(str).tolist(), dtype=object)
    fields, data = {}, {}
    if found is not None:
        rows = found.set_index("id").reindex(ids).reset_index(drop=True)
        rows = rows.reindex(range(-first, len(ids)))  # unknown ones first
        if "name" in rows:
            names = rows["name"].fillna(pd.Series(names, rows.index))
        fields = fields_of(columns, rows, known)
        for column, entry in fields.items():
            data[column] = stored(entry, rows[column])
    return Table(ids, first, np.array(names, dtype=object), fields, data)


def fields_of(
    columns: Mapping[str, Column],
    rows: pd.DataFrame,
    known: Mapping[str, Field] | None = None,
) -> dict[str, Field]:
    """The fields of the columns, known already or found from their values."""
    # A column that the model does not know is not read by it either.
    return {
        name: (known or {}).get(name) or field_of(column, rows[name])
        for name, column in columns.items()
    }


def field_of(column: Column, values: pd.Series) -> Field:
    """The field of a column from its values: vocabulary, quantiles, or length."""
    known = values.dropna()
    if column.kind in ("category", "tags"):
        if column.kind == "tags":
            known = known.explode().dropna()
        found = set(known.unique())
        declared = list(column.values)
        return Field(
            column, values=tuple(declared + _in_order(found - set(declared)))
        )
    if column.kind == "number":
        known = known[known.abs() <= LARGEST]
        numbers = np.log1p(known.clip(lower=0)) if column.log else known
        knots = np.zeros(1)
        if len(known):
            quantiles = np.quantile(numbers, np.linspace(0, 1, KNOTS))
            # Different ones in fp32, as an encoder divides by their distances.
            knots = np.unique(quantiles.astype(np.float32))
        return Field(column, knots=tuple(knots.tolist()))
    if column.kind == "vector":
        return Field(column, size=len(known.iloc[0]) if len(known) else 1)
    return Field(column)


def _in_order(values):
    """Sorted as numbers if all are numbers, else as text."""
    # First as text: long numbers that are equal as floats have an order, too.
    values = sorted(values)
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def stored(entry: Field, values: pd.Series) -> np.ndarray:
    """(n, ...) a column's values in the stored form of its kind."""
    kind = entry.column.kind
    code = {
        value: number for number, value in enumerate(entry.values, start=1)
    }
    if kind == "category":
        return values.map(code).fillna(UNKNOWN).to_numpy(dtype=np.int64)
    if kind == "tags":
        coded = []
        for tags in values.fillna(""):
            known = {code[tag] for tag in tags if tag in code}
            coded.append(sorted(known)[:MOST_TAGS])
        width = max([1, *map(len, coded)])
        rows = np.full((len(coded), width), UNKNOWN)
        for row, codes in zip(rows, coded, strict=True):
            row[: len(codes)] = codes
        return rows
    if kind == "number":
        numbers = values.to_numpy(dtype=np.float64)
        too_large = np.abs(numbers) > LARGEST
        return np.where(too_large, np.nan, numbers).astype(np.float32)
    if kind == "vector":
        return _vectors(entry, values)
    return values.fillna("").to_numpy(dtype=object)


def recoded(
    fields: Mapping[str, Field],
    data: Mapping[str, np.ndarray],
    known: Mapping[str, Field],
) -> tuple[dict[str, Field], dict[str, np.ndarray]]:
    """Fields and stored columns with the codes of known fields, where a column has one.

    Values that a known field does not have are unknown. Raises `UserError` for a column of another
    kind or size there.
    """
    taken = {name: known.get(name, entry) for name, entry in fields.items()}
    columns = {
        name: _recoded(values, fields[name], taken[name])
        for name, values in data.items()
    }
    return taken, columns


def _recoded(values, own, known):
    """The same array if no code changes."""
    require(
        (own.column.kind, own.size) == (known.column.kind, known.size),
        f"column {own.name!r} is {_kind(own)} here and {_kind(known)} in the model",
    )
    if own.values == known.values:
        return values
    code = {value: number for number, value in enumerate(known.values, 1)}
    codes = [code.get(value, UNKNOWN) for value in own.values]
    found = np.array([UNKNOWN, *codes])[values]
    if own.column.kind == "tags":
        # In order, the unknown ones last, as wide as the longest row.
        last = len(known.values) + 1
        found = np.sort(np.where(found == UNKNOWN, last, found), axis=1)
        found[found == last] = UNKNOWN
        found = found[:, : max(1, (found != UNKNOWN).sum(1).max())]
    return found


def _kind(entry):
    kind = entry.column.kind
    return f"a {kind} of {entry.size} numbers" if entry.size else f"a {kind}"


def _vectors(entry, values):
    """(n, size), unknown where a number is too large. Raises `UserError` for a vector of another
    length."""
    rows = [entry.unknown if isinstance(row, float) else row for row in values]
    for row in rows:
        require(
            len(row) == entry.size,
            f"column {entry.name!r}: a vector of {len(row)} numbers, where {entry.size} are "
            f"expected",
        )
    numbers = np.array(rows, dtype=np.float64).reshape(len(rows), entry.size)
    numbers[(np.abs(numbers) > LARGEST).any(1)] = np.nan
    return numbers.astype(np.float32)
