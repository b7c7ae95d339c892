"""Texts that are whole numbers, millions of them at once."""

import numpy as np
import pandas as pd

POWERS = 10 ** np.arange(1, 19)


def whole_numbers(values: pd.Series) -> pd.Series | None:
    """Texts as int64, None unless each is a whole number as Python writes it ('7', not '007')."""
    import pyarrow as pa
    from pyarrow import compute

    texts = pa.array(values, from_pandas=True)
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not (
        pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
    ):
        return None
    try:
        found = compute.cast(texts, pa.int64())
    except pa.ArrowInvalid:
        return None
    if found.null_count:
        return None
    numbers = found.to_numpy()
    lengths = compute.binary_length(texts).to_numpy()
    if not np.array_equal(_written_length(numbers), lengths):
        return None
    return pd.Series(numbers, index=values.index)


def _written_length(numbers):
    """Characters of each whole number as Python writes it: '007' has more, and so has '+7'."""
    digits = np.searchsorted(POWERS, np.abs(numbers), side="right") + 1
    return digits + (numbers < 0)
