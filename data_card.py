"""The data card: what to know about a data set before believing a number measured on it."""

import numpy as np

from dataset import Dataset


def data_card(data: Dataset) -> list[tuple[str, str]]:
    """(name, value) rows of the card."""
    rows = _size_rows(data) + _time_rows(data)
    rows += [(what, f"{number:,}") for what, number in data.counts.items()]
    items, users = data.catalogue.items, data.catalogue.users
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


def _size_rows(data):
    schema, items = data.catalogue.schema, data.catalogue.items
    lengths = np.diff(data.offsets)[1:]
    shares = (0, 0.25, 0.5, 0.75, 0.95, 1)
    quantiles = [
        f"{share:.0%} {int(np.quantile(lengths, share))}" for share in shares
    ]
    pairs = data.user_of * len(items) + data.items
    repeats = 1 - len(np.unique(pairs)) / len(pairs)
    sparsity = 1 - len(data.items) / (data.num_users * len(items.ids))
    roles = schema.interactions.roles.items()
    trained = data.item_counts()
    trained = trained[trained > 0].mean() if trained.any() else 0
    return [
        ("data set", data.name),
        ("fields", ", ".join(f"{role}: {field}" for role, field in roles)),
        ("interactions", f"{len(data.items):,}"),
        ("users", f"{data.num_users:,}"),
        (schema.nouns, f"{len(items.ids):,}"),
        ("sparsity", f"{sparsity:.4f}"),
        ("history length, quantiles", ", ".join(quantiles)),
        ("training interactions of an item, mean", f"{trained:.1f}"),
        ("repeats (an item again)", f"{repeats:.1%}"),
    ]


def _time_rows(data):
    if not data.has_times:
        what = "none: the order is that of the file; what needs times is off"
        return [("times", what)]
    ends = np.array([data.times.min(), data.times.max()], dtype="M8[s]")
    days = " to ".join(ends.astype("M8[D]").astype(str))
    ties = np.diff(data.times)[np.diff(data.user_of) == 0] == 0
    equal = f"{ties.sum() / max(len(ties), 1):.1%}"
    return [
        ("times", f"{days} (UTC)"),
        ("neighbouring times that are equal", equal),
    ]


def _column_line(entry, values):
    """Kind, values and missing share of a column, and how the model uses it."""
    kind = entry.column.kind
    numeric = kind in ("number", "vector")
    blank = np.isnan(values) if numeric else values == entry.unknown
    missing = blank.reshape(len(values), -1).all(1).mean()
    size = f"{len(entry.values) or entry.size:,} values"
    if kind == "number" and missing < 1:
        size = f"from {np.nanmin(values):g} to {np.nanmax(values):g}"
    if kind == "text":
        size = "read by --text_encoder"
    flags = [
        name
        for name in ("ordered", "log", "predict", "counterfactual")
        if getattr(entry.column, name)
    ]
    if entry.column.decimal == ",":
        flags.append("decimal comma")
    return ", ".join([kind, size, f"{missing:.1%} missing", *flags])
