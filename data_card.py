"""What a reader must know of a data set before believing a number measured on it."""

import numpy as np

from dataset import UNKNOWN, Dataset, Field


def data_card(data: Dataset) -> list[tuple[str, str]]:
    """What a reader must know of the data before believing a number: (name, value) rows."""
    schema, items = data.catalogue.schema, data.catalogue.items
    lengths = np.diff(data.offsets)[1:]
    shares = (0, 0.25, 0.5, 0.75, 0.95, 1)
    quantiles = [
        f"{share:.0%} {int(np.quantile(lengths, share))}" for share in shares
    ]
    pairs = np.ravel_multi_index(
        (data.user_of, data.items), (len(data.offsets), len(items))
    )
    repeats = 1 - len(np.unique(pairs)) / len(pairs)
    rows = [
        ("data set", data.name),
        ("interactions", f"{len(data.items):,}"),
        ("users", f"{data.num_users:,}"),
        (schema.nouns, f"{len(items.ids):,}"),
        (
            "sparsity",
            f"{1 - len(data.items) / (data.num_users * len(items.ids)):.4f}",
        ),
        ("history length, quantiles", ", ".join(quantiles)),
        ("repeats (an item again)", f"{repeats:.1%}"),
    ]
    rows += _time_rows(data)
    rows += [(what, f"{number:,}") for what, number in data.counts]
    users = data.catalogue.users
    for table, fields, values, first in (
        ("interactions", data.catalogue.interaction_fields, data.columns, 0),
        ("items", items.fields, items.data, items.first),
        ("users", users.fields, users.data, users.first),
    ):
        rows += [
            (
                f"column {table}.{name}",
                _column_line(entry, values[name][first:]),
            )
            for name, entry in fields.items()
        ]
    requests = data.split.requests
    rows += [
        ("split", data.split.description),
        (
            "requests, validation / test",
            f"{len(requests['validation']):,} / {len(requests['test']):,}",
        ),
        ("hash of the split", data.split_hash),
    ]
    return [*rows, ("note", data.note)] if data.note else rows


def _time_rows(data: Dataset) -> list[tuple[str, str]]:
    if not data.has_times:
        return [
            (
                "times",
                "none: the order is that of the file; what needs times is off",
            )
        ]
    same_user = np.diff(data.user_of) == 0
    ties = ((np.diff(data.times) == 0) & same_user).sum() / max(
        same_user.sum(), 1
    )
    days = [
        str(np.datetime64(int(time), "s").astype("datetime64[D]"))
        for time in (data.times.min(), data.times.max())
    ]
    return [
        ("neighbouring times that are equal", f"{ties:.1%}"),
        ("from / to (UTC)", " / ".join(days)),
    ]


def _column_line(entry: Field, values: np.ndarray) -> str:
    """Kind, values and share missing of a column, and what the model makes of it."""
    kind = entry.column.kind
    if kind in ("category", "tags"):
        missing = (values.reshape(len(values), -1) == UNKNOWN).all(1).mean()
        size = f"{len(entry.values):,} values"
    elif kind == "text":
        missing, size = (values == "").mean(), "read by --text_encoder"
    else:
        missing = np.isnan(values.reshape(len(values), -1)).any(1).mean()
        size = (
            f"{entry.size} numbers"
            if kind == "vector"
            else f"from {np.nanmin(values):g} to {np.nanmax(values):g}"
        )
    flags = [
        name
        for name in ("ordered", "log", "predict", "counterfactual")
        if getattr(entry.column, name)
    ]
    return ", ".join([kind, size, f"{missing:.1%} missing", *flags])
