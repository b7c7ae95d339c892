"""`RecommendationEngine`: a trained model that answers questions by raw ids."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from answers import Explanation, Id, Item, Profile, Recommendation
from batches import Batch, History, history_batch, history_of
from dataset import NO_TIME, Dataset
from explanations.explaining import explanations_of
from explanations.question import Question
from growth import for_catalogue
from item_search import rows_where
from model_io import data_of, load_model
from profiles import iso, largest_first, profile, typical_next_time
from reranking import LikedRanker, candidates, varied
from schema import Schema
from scorer import Scorer, best_items
from support.errors import UserError, require

REMEMBERED = 10_000  # items


@dataclass(frozen=True)
class Query:
    """A request to the engine: the `k` best items after a history.

    filter_seen: leave out items of the history; None = as the schema says. where: conditions on the
    items' columns (item_search.py). If fewer items are left, the list is shorter. rank_by: `next`
    or `liked`, diversity: from 0 to 1 (reranking.py).
    """

    history: History
    k: int = 10
    filter_seen: bool | None = None
    where: Sequence[str] = ()
    rank_by: str = "next"
    diversity: float = 0.0


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
        rank_by: str = "next",
        diversity: float = 0.0,
        **known: Any,
    ) -> list[Recommendation]:
        """The `k` best items, best first. The user and `known`: see `history`. The rest: see
        `Query`."""
        history = self.history(user_id, item_sequence, **known)
        query = Query(history, k, filter_seen, where, rank_by, diversity)
        return self.answer([query])[0]

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
        own_id = None
        if user_id is not None:
            own_id = self.catalogue.users.parse_id(user_id)
        found = profile(self.catalogue, own_id, history)
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
    ) -> History:
        """The history to rank from.

        user_id: a user of the data, or None. item_sequence: item ids, oldest first, taken as the
        newest part of a longer history; an empty one is a user without a history; None is the whole
        history in the data. user_columns: some columns of the user, instead of those in the data.
        at: time of the request in seconds since 1970, for a model trained with known request time.
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
        history = History(np.zeros(0, dtype=np.int64))
        if user_id is not None:
            history = history_of(self.data, self.user_rows([user_id])[0])
        if item_sequence is not None:
            rows = self.item_rows(item_sequence, "--history")
            history = History(
                rows,
                user=history.user,
                user_columns=history.user_columns,
                whole=not len(rows),
            )
        if user_columns is not None:
            try:
                columns = self.catalogue.users.stored(user_columns)
            except UserError as error:
                raise UserError(f"--set: {error}") from None
            columns = {**history.user_columns, **columns}
            history = dataclasses.replace(history, user_columns=columns)
        if not len(history.items) and not self.scorer.starts:
            raise UserError(
                f"the history is empty, and this model was trained without a start for users "
                f"without one: give at least one {self.schema.noun}, or train with --start_token"
            )
        return self.timed(history, at)

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
        blocks = self._blocks(queries, states, batch)
        blocks = self._without_barred(blocks, queries)
        numbers = [candidates(query.k, query.diversity) for query in queries]
        rows, scores = best_items(blocks, max(numbers))
        table = getattr(self.scorer, "table", None)  # popularity has none
        answers = []
        for place, query in enumerate(queries):
            left = scores[place, : numbers[place]] > -torch.inf
            number = int(left.sum())  # perhaps fewer than asked for
            pair = (rows[place, :number], scores[place, :number])
            best = varied(*pair, table, query.k, query.diversity)
            answers.append(self._recommendations(states[place], *best))
        return answers

    def _blocks(self, queries, states, batch):
        """The scores by which queries rank; in one block if there is no other way."""
        chosen = torch.tensor([query.rank_by == "liked" for query in queries])
        if not chosen.any() and isinstance(self.scorer, Scorer):
            yield from self.scorer.blocks(states, batch)
            return
        scores = self.scorer.scores(states, batch)
        if chosen.any():
            liking = LikedRanker(self.scorer, self.catalogue).liking
            scores[chosen] += liking(states[chosen], batch.select(chosen))
        yield 0, scores

    def _without_barred(self, blocks, queries):
        """The scores with -inf for items that may not answer a query."""
        barred = [~self._allowed(query) for query in queries]
        for first, scores in blocks:
            for row, mask in zip(scores, barred, strict=True):
                part = torch.from_numpy(mask[first : first + len(row)])
                row.masked_fill_(part, -torch.inf)
            yield first, scores

    def _recommendations(
        self, state: torch.Tensor, items: torch.Tensor, scores: torch.Tensor
    ) -> list[Recommendation]:
        states, values = state.expand(len(items), -1), {}
        for name in self.scorer.value_columns:
            shares = self.scorer.value_probabilities(name, states, items)
            entry = self.catalogue.interaction_fields[name]
            values[name] = entry.expected(shares.numpy())
        places = enumerate(zip(items.tolist(), scores.tolist(), strict=True))
        return [
            Recommendation(
                **self._facts(row),
                rank=place + 1,
                score=round(score, 4),
                values={
                    name: column[place] for name, column in values.items()
                },
            )
            for place, (row, score) in places
        ]

    def explain(
        self,
        query: Query,
        item_ids: Sequence[Id],
        *,
        in_full: bool = False,
    ) -> list[Explanation]:
        """Explanations of these items among those that the query allows (explanations/).

        An item that the query's filters leave out is explained too, as if it were allowed.

        in_full: also each item's rank, how many ranks it falls without each item of the history and
        each family, and the changes that would change the list.
        """
        question = self.question(query, item_ids)
        k = query.k if in_full else None
        return explanations_of(question, self.item, k)

    def question(self, query: Query, item_ids: Sequence[Id]) -> Question:
        """The question why these items are recommended among those that the query allows."""
        rows = self.item_rows(item_ids, "recommended_item_id")
        allowed = self._allowed(query)
        allowed[rows] = True
        among = torch.from_numpy(allowed)
        return Question(
            self.scorer, self.catalogue, query.history, rows, among
        )

    # Parts

    def batch(self, histories: Sequence[History]) -> Batch:
        """The batch of these histories."""
        return history_batch(histories, self.catalogue, self.seq_length)

    def hides_seen(self, filter_seen: bool | None) -> bool:
        """Whether items of the history are left out; None = as the schema says."""
        return not self.schema.repeats if filter_seen is None else filter_seen

    def _allowed(self, query: Query) -> np.ndarray:
        """(R,) which items may answer a query."""
        allowed = rows_where(self.catalogue.items, query.where)
        if self.hides_seen(query.filter_seen):
            allowed[query.history.items] = False
            if query.history.also_seen is not None:
                allowed[query.history.also_seen] = False
        return allowed

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
            "name": str(items.names[row]),
            "columns": items.readable(row),
            "note": note,
        }
        if len(self._remembered) < REMEMBERED:
            self._remembered[row] = found
        return found

    def request_time_note(self, history: History, at: int | None) -> str:
        """A note about the time for which recommendations are made; '' if the model ignores it."""
        if not self.knows_request_time:
            return ""
        if at is not None:
            return f"request time: {iso(at)}"
        if history.request_time == NO_TIME:
            return "request time: unknown (a bare history has no times; give --at)"
        return (
            f"request time assumed: {iso(history.request_time)}, the last interaction plus the "
            f"user's median gap (give --at to change it)"
        )

    def user_rows(self, user_ids: Sequence[Id]) -> np.ndarray:
        """Rows of users in the data. Raises `UserError` for an unknown user."""
        users = self.data.catalogue.users
        return users.known(
            list(user_ids),
            "user {id} is not in {name} (ids {first} to {last}); for a new user give --history",
            name=self.schema.name,
            first=users.ids.min(),
            last=users.ids.max(),
        )

    def item_rows(self, item_ids: Sequence[Id], source: str) -> np.ndarray:
        """Rows of items. Raises `UserError`, naming the source of the ids, for one that is not in
        the catalogue."""
        items, schema = self.catalogue.items, self.schema
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
