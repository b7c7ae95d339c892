"""What /health says: the served model, and the words, columns and limits that the page needs."""

from typing import Any

import numpy as np

from answers import exact
from reranking import liked_column
from serving.engines import Engines

SOME_USERS = 200  # at least, that are named where there are so many
MOST_VALUES = 1000  # of a column, that are named


def health_of(engines: Engines) -> dict[str, Any]:
    """The served model, words and columns of its data, and its limits."""
    main = engines.main
    catalogue, schema = main.catalogue, main.schema
    users = catalogue.users
    ids = users.ids.tolist() if engines.has_data else []
    return {
        "status": "ok",
        "dataset": schema.name,
        "data_note": schema.note,
        "noun": schema.noun,
        "nouns": schema.nouns,
        "verb": schema.verb,
        "repeats": schema.repeats,
        "items": len(catalogue.items.ids),
        "validation": main.info["validation"],
        "git_commit": main.info["git_commit"],
        "models": list(engines.by_name),
        "users": len(ids),
        "until": engines.until,
        "numeric_ids": users.numeric,
        "numeric_items": catalogue.items.numeric,
        "some_items": engines.some_items,
        "some_users": [
            exact(one) for one in ids[:: max(1, len(ids) // SOME_USERS)]
        ],
        "serves_empty_histories": main.scorer.starts,
        "knows_request_time": main.knows_request_time,
        "liked_by": _liked_by(main),
        "item_columns": _described(catalogue.items.fields, catalogue.items),
        "user_columns": _described(
            users.fields, users if engines.has_data else None
        ),
        "interaction_columns": _described(catalogue.interaction_fields, None),
    }


def _liked_by(engine):
    """The name of the column by which `liked` ranks, None if there is none."""
    name = liked_column(engine.scorer, engine.catalogue)
    fields = engine.catalogue.interaction_fields
    return None if name is None else fields[name].column.title


def _described(fields, table):
    """Columns in the form that the page needs for its widgets."""
    columns = []
    for name, entry in fields.items():
        column = {
            "name": name,
            "label": entry.column.title,
            "kind": entry.column.kind,
            "ordered": entry.column.ordered,
        }
        if entry.values:
            pairs = list(zip(entry.values, entry.titles, strict=True))
            column["values"] = [
                pairs[code] for code in _most_common(entry, table)
            ]
        if entry.column.kind == "number" and table is not None:
            known = table.data[name][~np.isnan(table.data[name])]
            if len(known):
                column["range"] = [float(known.min()), float(known.max())]
        columns.append(column)
    return columns


def _most_common(entry, table):
    """Positions of a column's MOST_VALUES most common values, in the order of the schema."""
    count = len(entry.values)
    if table is None or count <= MOST_VALUES:
        return list(range(count))
    occurrences = np.bincount(
        table.data[entry.name].ravel(), minlength=count + 1
    )[1:]
    return sorted(
        np.argsort(-occurrences, kind="stable")[:MOST_VALUES].tolist()
    )
