"""`RecommendationEngine`: a trained model that answers questions by raw ids."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from answers import (
    Chosen,
    Explanation,
    Id,
    Item,
    Profile,
    Recommendation,
)
from batches import Batch, History, history_batch, history_of
from dataset import NO_TIME, Dataset
from explanations.explaining import explanations_of
from explanations.question import Question
from growth import for_catalogue
from histories import (
    given_history,
    item_rows,
    requests_of,
    user_rows,
    with_facts,
)
from item_search import spoken
from model_io import data_of, load_model
from profiles import (
    largest_first,
    newest_of,
    profile,
    typical_next_time,
    usual_shares,
)
from queries import (
    Query,
    allowed_items,
    best_of,
    place_of,
    similar_rows,
)
from schema import Schema
from splits import Requests
from support.errors import UserError

REMEMBERED = 10_000  # items


class RecommendationEngine:
    """A trained model with its catalogue. The data set is read when a user of it is asked for.

    copies: folder of copies of weights that several processes share (support/checkpoint.py). Raises
    `UserError` for unknown ids, empty histories and unusable checkpoints.
    """

    def __init__(
        self,
        model_path: str | Path = "checkpoints/best",
        data_dir: str | None = None,
        copies: str | None = None,
    ) -> None:
        self.model_path = Path(model_path)
        self.checkpoint = load_model(self.model_path, copies, data_dir)
        self.settings, self.info = (
            self.checkpoint.settings,
            self.checkpoint.info,
        )
        self.catalogue = self.checkpoint.catalogue
        self.scorer = self.checkpoint.model.frozen()
        self.seq_length = self.settings.model.seq_length
        # row -> what answers say of an item
        self._remembered: dict[int, dict[str, Any]] = {}

    @cached_property
    def data(self) -> Dataset:
        """The data set of the checkpoint, read when first needed: its items and users, perhaps
        with newer interactions."""
        data = data_of(self.checkpoint, self.model_path, same_split=False)
        self.catalogue = dataclasses.replace(
            self.catalogue, users=data.catalogue.users
        )
        return data

    @cached_property
    def _usual(self):
        """Of all users, what profiles compare with (profiles.py)."""
        return usual_shares(self.catalogue.items, self.data.item_counts())

    @property
    def schema(self) -> Schema:
        """Of the data set."""
        return self.catalogue.schema

    @property
    def knows_request_time(self) -> bool:
        """Whether the model was trained with the time of the request."""
        return self.settings.model.query_time == "known"

    # Questions by raw ids

    def get_recommendations(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        k: int = 10,
        filter_seen: bool | None = None,
        *,
        where: Sequence[str] = (),
        only: Sequence[Id] | None = None,
        without: Sequence[Id] = (),
        rank_by: str = "next",
        diversity: float = 0.0,
        prefer_expected: float | Literal["mean"] | None = None,
        **known: Any,
    ) -> list[Recommendation]:
        """The `k` best items, best first. The user and `known`: see `history`. The rest: see
        `Query`."""
        history = self.history(user_id, item_sequence, **known)
        ranked = (rank_by, diversity, prefer_expected)
        query = Query(history, k, filter_seen, where, only, without, *ranked)
        return self.answer([query])[0]

    def similar_items(
        self, item_id: Id, k: int = 10, where: Sequence[str] = ()
    ) -> list[Recommendation]:
        """The `k` items whose vectors have the largest cosine with that of an item; the score is
        the cosine. where: as in `Query`."""
        (row,) = item_rows(self.catalogue, [item_id], "item_id").tolist()
        found = similar_rows(self.scorer, self.catalogue, row, k, where)
        return self._ranked(*found, {})

    def explain_recommendation(
        self,
        user_id: Id | None,
        item_sequence: Sequence[Id] | None,
        recommended_item_id: Id,
        **known: Any,
    ) -> Explanation:
        """The parts of an item's log-probability that are due to each item of the history and to
        each family of features (`explain`). known: as in `history`."""
        history = self.history(user_id, item_sequence, **known)
        return self.explain(Query(history), [recommended_item_id])[0]

    def get_user_profile(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        **known: Any,
    ) -> Profile:
        """A user's columns and history (profiles.py), and what the model expects next. known: as in
        `history`."""
        history = self.history(user_id, item_sequence, **known)
        return self.profile_of(history, user_id)

    def profile_of(self, history: History, user_id: Id | None) -> Profile:
        """The profile of a history, of a user of the data or of nobody known."""
        own_id = None
        if user_id is not None:
            own_id = self.catalogue.users.parse_id(user_id)
        usual = self._usual if "data" in vars(self) else None
        found = profile(self.catalogue, own_id, history, usual)
        newest = newest_of(self.catalogue, history, self._facts)
        found = dataclasses.replace(found, newest=newest)
        with torch.no_grad():
            states = self.scorer.states(self.batch([history]))
            for name in self.scorer.preference_columns:
                shares = self.scorer.preferences(name, states)[0]
                found.expected[name] = largest_first(
                    self.catalogue.items.fields[name], shares.double().numpy()
                )
        return found

    def add_item(
        self,
        item_id: Id | None,
        name: str,
        columns: Mapping[str, Any] | None = None,
    ) -> Id:
        """Add an item that training never saw, for recommendations and histories; returns its id.

        item_id: None = the next free whole number. The model ranks the item by its columns and by
        the known items most like it. A model without column encoders ranks it like known items
        with the same values. Recommendations carry a note about it.
        """
        items = self.catalogue.items
        if item_id is None:
            if not items.numeric:
                raise UserError("ids are text here: give the new item one")
            item_id = int(items.ids.max()) + 1
        larger = items.with_row(item_id, name, columns or {})
        catalogue = dataclasses.replace(self.catalogue, items=larger)
        # Always grown from what was trained, so that added items do not stand in for one another.
        self.scorer = for_catalogue(self.checkpoint.model, catalogue).frozen()
        self.catalogue, self._remembered = catalogue, {}
        return larger.id(len(larger) - 1)

    # Questions about a history

    def history(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        at: int | None = None,
        user_columns: Mapping[str, Any] | None = None,
        until: str = "end",
        history_columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> History:
        """The history to rank from.

        user_id: a user of the data, or None. item_sequence: item ids, oldest first, taken as the
        newest part of a longer history; an empty one is a user without a history; None is the whole
        history in the data. history_columns: their columns, such as ratings (histories.py).
        user_columns: some columns of the user, instead of those in the data.
        at: time of the request in seconds since 1970, for a model trained with known request time.
        until: 'test' and 'validation' end the history of a user in the data before that item.
        """
        if at is not None and not self.knows_request_time:
            raise UserError(
                "--at: this model was trained with request time unknown and never sees it; "
                "drop the flag or train with --query_time known"
            )
        if user_id is None and item_sequence is None and user_columns is None:
            raise UserError(
                "nobody to recommend for: give --user_id, --history or --users all"
            )
        if history_columns and item_sequence is None:
            raise UserError("history_columns need the items of a history")
        if until != "end" and (user_id is None or item_sequence is not None):
            raise UserError(
                f"--history_until {until} is for users of the data: give --user_id alone"
            )
        history = History(np.zeros(0, dtype=np.int64))
        if user_id is not None:
            history = self._of_user(user_id, until)
        if item_sequence is not None:
            history = given_history(
                self.catalogue, item_sequence, history_columns or {}, history
            )
        if user_columns is not None:
            history = with_facts(self.catalogue, user_columns, history)
        if not len(history.items) and not self.scorer.starts:
            raise UserError(
                f"the history is empty, and this model was trained without a start for users "
                f"without one: give at least one {self.schema.noun}, or train with --start_token"
            )
        if until != "end" and at is None:
            return history  # at the time of the held-out interaction
        return self.timed(history, at)

    def _of_user(self, user_id, until):
        if until == "end":
            return history_of(self.data, user_rows(self.data, [user_id])[0])
        asked = self.requests([user_id], until)
        return history_of(self.data, asked.users[0], asked.ends[0])

    def held_out(self, user_id: Id, until: str) -> Id:
        """The id of the item that a user of the data chose after the history `until`."""
        asked = self.requests([user_id], until)
        return self.data.catalogue.items.id(self.data.items[asked.ends[0]])

    def requests(self, user_ids: Sequence[Id] | None, until: str) -> Requests:
        """The requests of users of the data, or of all (histories.py)."""
        return requests_of(self.data, user_ids, until, self.info["split_hash"])

    def timed(self, history: History, at: int | None = None) -> History:
        """A history with the time of the request, if the model reads it: `at`, or the time when the
        user may come back."""
        if not self.knows_request_time:
            return history
        if at is None and np.ndim(history.times) and len(history.items):
            at = typical_next_time(history.times)
        return dataclasses.replace(
            history, request_time=NO_TIME if at is None else at
        )

    @torch.no_grad()
    def answer(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """Recommendations for each query as in `get_recommendations`, computed in one batch."""
        batch = self.batch([query.history for query in queries])
        states = self.scorer.states(batch)
        found = best_of(self.scorer, self.catalogue, queries, batch, states)
        return [
            self._recommendations(state, *best)
            for state, best in zip(states, found, strict=True)
        ]

    @torch.no_grad()
    def place(self, query: Query, item_id: Id) -> Chosen:
        """An item that a user chose, and its place among all answers to a query."""
        (row,) = item_rows(self.catalogue, [item_id], "item_id").tolist()
        batch = self.batch([query.history])
        plain = dataclasses.replace(
            query, rank_by="next", prefer_expected=None
        )
        places = [
            place_of(self.scorer, self.catalogue, one, batch, row)
            for one in (query, plain)
        ]
        return Chosen(
            **self._facts(row), place=places[0], place_by_next=places[1]
        )

    def _recommendations(
        self, state: torch.Tensor, items: torch.Tensor, scores: torch.Tensor
    ) -> list[Recommendation]:
        states, values = state.expand(len(items), -1), {}
        for name in self.scorer.value_columns:
            shares = self.scorer.value_probabilities(name, states, items)
            entry = self.catalogue.interaction_fields[name]
            values[name] = entry.expected(shares.numpy())
        return self._ranked(items, scores, values)

    def _ranked(self, items, scores, values):
        """Recommendations by rows of items, scores, and values of each item by name."""
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return [
            Recommendation(
                **self._facts(row),
                rank=place + 1,
                score=round(score, 4),
                values={
                    name: column[place] for name, column in values.items()
                },
            )
            for place, (row, score) in enumerate(pairs)
        ]

    def explain(
        self,
        query: Query,
        item_ids: Sequence[Id],
        *,
        in_full: bool = False,
    ) -> list[Explanation]:
        """`explanations` as a list."""
        return list(self.explanations(query, item_ids, in_full=in_full))

    def explanations(
        self,
        query: Query,
        item_ids: Sequence[Id],
        *,
        in_full: bool = False,
    ) -> Iterator[Explanation]:
        """Explanations of these items among those that the query allows (explanations/), each as
        soon as it is found.

        An item that the query's filters leave out is explained too, as if it were allowed.

        in_full: also each item's rank, how many ranks it falls without each item of the history and
        each family, and the changes that would change the list.
        """
        question = self.question(query, item_ids)
        k = query.k if in_full else None
        return explanations_of(question, self.item, k)

    def question(self, query: Query, item_ids: Sequence[Id]) -> Question:
        """The question why these items are recommended among those that the query allows."""
        rows = item_rows(self.catalogue, item_ids, "recommended_item_id")
        allowed = allowed_items(self.catalogue, query)
        allowed[rows] = True
        among = torch.from_numpy(allowed)
        return Question(
            self.scorer, self.catalogue, query.history, rows, among
        )

    # Parts

    def batch(self, histories: Sequence[History]) -> Batch:
        """The batch of these histories."""
        return history_batch(histories, self.catalogue, self.seq_length)

    def item(self, row: int) -> Item:
        """An item by its row, with a note if training never saw it."""
        return Item(**self._facts(row))

    def _facts(self, row):
        found = self._remembered.get(row)
        if found is not None:
            return found
        items, note = self.catalogue.items, None
        if row >= len(self.checkpoint.catalogue.items):
            nouns = self.schema.nouns
            note = f"new: placed by its columns and by the {nouns} most like it in these"
        found = {
            "id": items.id(row),
            "name": spoken(items.names[row]),
            "columns": items.readable(row),
            "note": note,
        }
        if len(self._remembered) < REMEMBERED:
            self._remembered[row] = found
        return found
