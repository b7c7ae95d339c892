"""From raw ids and values to histories and requests."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from answers import Id
from batches import History
from dataset import Catalogue, Dataset
from splits import Requests
from support.errors import UserError, require


def user_rows(data: Dataset, user_ids: Sequence[Id]) -> np.ndarray:
    """Rows of users in the data. Raises `UserError` for an unknown user."""
    users = data.catalogue.users
    return users.known(
        list(user_ids),
        "user {id} is not in {name} (ids {first} to {last}); for a new user give --history",
        name=data.catalogue.schema.name,
        first=users.ids.min(),
        last=users.ids.max(),
    )


def item_rows(
    catalogue: Catalogue, item_ids: Sequence[Id], source: str
) -> np.ndarray:
    """Rows of items. Raises `UserError`, naming the source of the ids, for one that is not in the
    catalogue."""
    items, schema = catalogue.items, catalogue.schema
    require(
        not isinstance(item_ids, str),
        f"{source}: expected a list of ids, not the text {item_ids!r}",
    )
    return items.known(
        list(item_ids),
        "{source}: {noun} {id!r} is not in this model's catalogue of {count} {nouns}",
        source=source,
        noun=schema.noun,
        count=len(items.ids),
        nouns=schema.nouns,
    )


def given_history(
    catalogue: Catalogue,
    item_ids: Sequence[Id],
    columns: Mapping[str, Sequence[Any]],
    user: History,
) -> History:
    """A history of these items, oldest first, of a user whose other history is not read.

    columns: of interactions, a value for each item, None if unknown. Raises `UserError` for an
    unknown item, column or value.
    """
    rows = item_rows(catalogue, item_ids, "--history")
    fields, stored = catalogue.interaction_fields, {}
    for name, values in columns.items():
        require(
            name in fields,
            f"no column of interactions is called {name!r}; there are "
            f"{', '.join(fields) or 'none'}",
        )
        require(
            len(values) == len(rows),
            f"{name}: give {len(rows)} values, one for each {catalogue.schema.noun}",
        )
        entry = fields[name]
        if len(rows):
            stored[name] = np.stack([entry.stored(value) for value in values])
    return History(
        rows,
        columns=stored,
        user=user.user,
        user_columns=user.user_columns,
        whole=not len(rows),
    )


def with_facts(
    catalogue: Catalogue, facts: Mapping[str, Any], history: History
) -> History:
    """The history with some columns of its user. Raises `UserError` for an unknown one."""
    try:
        columns = catalogue.users.stored(facts)
    except UserError as error:
        raise UserError(f"--set: {error}") from None
    columns = {**history.user_columns, **columns}
    return dataclasses.replace(history, user_columns=columns)


def requests_of(
    data: Dataset,
    user_ids: Sequence[Id] | None,
    until: str,
    trained_on: str,
) -> Requests:
    """The requests of these users, or of all: with whole histories if until is 'end', else with
    what comes before the held-out interaction of 'test' or 'validation'.

    trained_on: hash of the split that the model was trained on. Raises `UserError` unless each
    user has one request, which the model could not know.
    """
    flag = f"--history_until {until}"
    require(
        until in data.split.requests,
        f"{flag}: choose one of {', '.join(data.split.requests)}",
    )
    requests = data.split.requests[until]
    if until != "end" and data.split_hash != trained_on:
        raise UserError(
            f"{flag}: the model was trained on other interactions or times than those at hand, "
            f"and may know what this would ask for; use --history_until end"
        )
    if len(np.unique(requests.users)) < len(requests):
        raise UserError(
            f"{flag}: the protocol {data.split.protocol} asks for a user several times; use "
            f"--history_until end"
        )
    require(len(requests), "nobody to recommend for")
    if user_ids is None:
        return requests
    require(len(user_ids), "nobody to recommend for: --users names no user")
    wanted = np.unique(user_rows(data, user_ids))
    absent = np.setdiff1d(wanted, requests.users)
    if len(absent):
        raise UserError(
            f"{flag}: user {data.catalogue.users.id(absent[0])} is not asked for in this split "
            f"({data.split.protocol}); use --history_until end"
        )
    return requests.part(np.isin(requests.users, wanted))
