"""Texts that are whole numbers, millions of them at once."""

import pandas as pd


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
    same = compute.equal(compute.cast(found, texts.type), texts)
    if found.null_count or not compute.all(same).as_py():
        return None
    return pd.Series(found.to_numpy(), index=values.index)
