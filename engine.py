"""`RecommendationEngine`: a trained model that answers questions by raw ids."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from answers import (
    Contribution,
    Explanation,
    Feature,
    Id,
    Item,
    Profile,
    Reason,
    Recommendation,
)
from batches import History, history_batch, history_of
from dataset import NO_TIME, UNKNOWN, Dataset, Field
from evaluation.protocols import hide_seen, length_groups
from explanations.attribution import (
    DEFAULT,
    Attribution,
    Question,
    attention,
    carried,
    explain,
    places_lost,
)
from explanations.counterfactual import what_if
from explanations.figures import draw
from explanations.sentences import family_label, sentence, strongest
from item_search import known_rows, rows_where
from model_io import data_of, load_model
from profiles import iso, profile, typical_next_time, user_columns_of
from schema import Schema
from splits import Requests
from support.devices import uses_bf16
from support.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Query:
    """What is asked of the engine: the `k` best items after a history.

    filter_seen: leave out items of the history; None = as the schema says. where: conditions on
    the items' columns (item_search.py). or_fewer: give fewer if fewer are left.
    """

    history: History
    k: int = 10
    filter_seen: bool | None = None
    where: Sequence[str] = ()
    or_fewer: bool = False


class RecommendationEngine:
    """A trained model with its catalogue and, when a user of the data is asked for, the data it
    was trained on.

    mapped: several processes share one copy of the weights (support/checkpoint.py). Raises
    `UserError` for whatever the caller can mend: unknown ids, empty histories, unusable
    checkpoints.
    """

    def __init__(
        self,
        model_path: str | Path = "checkpoints/best",
        data_dir: str | None = None,
        mapped: bool = False,
    ) -> None:
        self.model_path, self.data_dir = Path(model_path), data_dir
        self.checkpoint = load_model(self.model_path, mapped, data_dir)
        self.settings, self.info = self.checkpoint.settings, self.checkpoint.info
        self.catalogue = self.checkpoint.catalogue
        self.scorer = self.checkpoint.model.frozen()
        self.new_items: set[Id] = set()
        self.seq_length = self.settings.model.seq_length

    @cached_property
    def data(self) -> Dataset:
        """The data set of the checkpoint, read when first needed: its items and users, perhaps
        with newer interactions."""
        data = data_of(
            self.checkpoint, self.model_path, self.data_dir, same_split=False
        )
        self.catalogue = dataclasses.replace(self.catalogue, users=data.catalogue.users)
        return data.replace(catalogue=self.catalogue)

    @property
    def schema(self) -> Schema:
        """Of the data set."""
        return self.catalogue.schema

    @property
    def knows_request_time(self) -> bool:
        """Whether the model was trained with the time of the request."""
        model = self.settings.model
        return model.model == "enhanced" and model.query_time == "known"

    def with_scorer(self, scorer: Any) -> RecommendationEngine:
        """This engine with another ranker of the same items, for comparison."""
        other = copy.copy(self)
        other.scorer = scorer
        return other

    # Questions by raw ids

    def get_recommendations(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        k: int = 10,
        filter_seen: bool | None = None,
        *,
        where: Sequence[str] = (),
        at: int | None = None,
        user_columns: Mapping[str, Any] | None = None,
    ) -> list[Recommendation]:
        """The `k` best items, best first. Who is asked for: see `history`; the rest: see `Query`."""
        history = self.history(user_id, item_sequence, at, user_columns)
        return self.answer([Query(history, k, filter_seen, where)])[0]

    def explain_recommendation(
        self,
        user_id: Id | None,
        item_sequence: Sequence[Id] | None,
        recommended_item_id: Id,
        *,
        at: int | None = None,
        user_columns: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """What speaks for an item: how much of its log-probability is due to each item of the
        history and each family of features (`explain`)."""
        history = self.history(user_id, item_sequence, at, user_columns)
        return self.explain(Query(history), [recommended_item_id])[0]

    def get_user_profile(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        *,
        at: int | None = None,
        user_columns: Mapping[str, Any] | None = None,
    ) -> Profile:
        """What the data say of a user (profiles.py), and what the model expects next."""
        history = self.history(user_id, item_sequence, at, user_columns)
        row = self._rows([user_id])[0] if user_id is not None else None
        own = None if row is None else self.catalogue.users.id(row)
        found = profile(self.catalogue, own, history)
        heads = self.scorer.preference_columns
        if not heads:
            return found
        with torch.no_grad():
            states = self.scorer.states(self._batch([history]))
            for name in heads:
                shares = self.scorer.preferences(name, states)[0]
                titles = self.catalogue.items.fields[name].titles
                order = shares.argsort(descending=True).tolist()
                found.expected[name] = {
                    titles[code]: round(float(shares[code]), 3) for code in order
                }
        return found

    def add_item(
        self, item_id: Id | None, name: str, columns: Mapping[str, Any] | None = None
    ) -> Id:
        """Let an item that training never saw be recommended and be part of histories; returns
        its id.

        item_id: None = the next free one, of whole numbers. The model ranks it by what its
        columns say, and by the known items most like it in these; a model that knows items by
        their own vectors alone puts it where items with the same values stand. Recommendations
        say so.
        """
        items = self.catalogue.items
        if item_id is None:
            if not items.numeric:
                raise UserError("ids are text here: give the new item one")
            item_id = int(items.ids.max()) + 1
        larger = items.with_row(item_id, name, columns or {})
        catalogue = dataclasses.replace(self.catalogue, items=larger)
        # Always grown from what was trained, so that added items do not stand in for one another.
        self.scorer = self.checkpoint.model.for_catalogue(catalogue).frozen()
        if "data" in self.__dict__:
            self.data = self.data.replace(catalogue=catalogue)
        self.catalogue = catalogue
        item_id = larger.id(len(larger) - 1)
        self.new_items.add(item_id)
        return item_id

    # Questions about a history

    def history(
        self,
        user_id: Id | None = None,
        item_sequence: Sequence[Id] | None = None,
        at: int | None = None,
        user_columns: Mapping[str, Any] | None = None,
    ) -> History:
        """The history to rank from.

        user_id: a user of the data, or None. item_sequence: item ids, oldest first, taken for a
        part of a past, or none at all for a user who begins; without it the user's whole history.
        user_columns: some of the users' columns, instead of what the data say. at: moment of the
        request in seconds since 1970, for a model trained with known request time.
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
            history = history_of(self.data, self._rows([user_id])[0])
        if item_sequence is not None or user_id is None:
            given = [] if item_sequence is None else list(item_sequence)
            rows = known_rows(self.catalogue.items, self.schema, given, "--history")
            history = History(
                rows,
                user=history.user,
                user_columns=history.user_columns,
                whole=not given,
            )
        if user_columns is not None:
            columns = user_columns_of(
                self.catalogue.users, user_columns, history.user_columns
            )
            history = dataclasses.replace(history, user_columns=columns)
        if self.knows_request_time:
            history = dataclasses.replace(
                history, request_time=self._request_time(history, at)
            )
        if not len(history.items) and not self.scorer.starts:
            raise UserError(
                f"the history is empty, and this model was trained without a start for users "
                f"without one: give at least one {self.schema.noun}, or train with "
                f"--start_token"
            )
        return history

    def _request_time(self, history: History, at: int | None) -> int:
        if at is not None:
            return at
        if history.times is None or not len(history.times):
            return NO_TIME
        return typical_next_time(history.times)

    @torch.no_grad()
    def answer(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """Recommendations for each query as in `get_recommendations`, read by the model in one
        batch.
        """
        allowed = np.stack([self._allowed(query) for query in queries])  # (B, R)
        counts = []
        for query, items in zip(queries, allowed, strict=True):
            there = int(items.sum())
            if query.k < 1 or (query.k > there and not query.or_fewer):
                raise UserError(
                    f"--k {query.k}: between 1 and {there} {self.schema.nouns} can be "
                    f"recommended here"
                )
            counts.append(min(query.k, there))
        batch = self._batch([query.history for query in queries])
        states = self.scorer.states(batch)
        scores = self.scorer.scores(states, batch)
        scores = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)  # (B, R)
        return [
            self._recommendations(state, row.topk(count))
            for count, state, row in zip(counts, states, scores, strict=True)
        ]

    def _recommendations(self, state: torch.Tensor, best: Any) -> list[Recommendation]:
        items, count = best.indices, len(best.indices)
        values: list[dict[str, float | str]] = [{} for _ in range(count)]
        for name in self.scorer.value_columns if count else ():
            entry = self.catalogue.interaction_fields[name]
            shares = self.scorer.value_probabilities(
                name, state.expand(count, -1), items
            )
            for place, value in enumerate(_expected(entry, shares.numpy())):
                values[place][name] = value
        found = []
        for place, (row, score) in enumerate(
            zip(items.tolist(), best.values, strict=True)
        ):
            item = self.item(row)
            found.append(
                Recommendation(
                    item.id,
                    item.name,
                    item.columns,
                    item.note,
                    place + 1,
                    round(float(score), 4),
                    values[place],
                )
            )
        return found

    def explain(
        self,
        query: Query,
        item_ids: Sequence[Id],
        method: str = DEFAULT,
        in_full: bool = False,
    ) -> list[Explanation]:
        """Of each item its log-probability among those that the query allows, what each item of
        the history and each family of features contributes to it (explanations/attribution.py has
        the methods), and in a sentence its reasons: the strongest of these, items of the history
        only if it also scores less without them alone.

        in_full: also its rank, by how many ranks it falls without each item of the history and
        each family, and what would have to be otherwise (explanations/counterfactual.py).
        """
        question = self._question(query, item_ids)
        found = explain(question, method)
        true = carried(question, found)
        lost = places_lost(question) if in_full else (None, {})
        answers = []
        for number in range(len(question.candidates)):
            answer = self._explanation(question, found, true[number], lost, number)
            if in_full:
                rank = int(question.one_by_one[1][0, number])
                otherwise = what_if(question, number, query.k, self.item)
                answer = dataclasses.replace(answer, rank=rank, what_if=otherwise)
            answers.append(answer)
        return answers

    def _explanation(
        self,
        question: Question,
        found: Attribution,
        true: np.ndarray,
        lost: tuple[np.ndarray | None, dict[str, np.ndarray]],
        number: int,
    ) -> Explanation:
        """Of one item. true: (L,) which items of the history are reasons."""
        fall, family_fall = lost
        effects = found.history[number]
        order = np.argsort(-effects, kind="stable")
        history, named = [], []
        for place in order.tolist():
            item, effect = self.item(question.read.items[place]), float(effects[place])
            places = None if fall is None else int(fall[number, place])
            history.append(
                Contribution(
                    item.id,
                    item.name,
                    item.columns,
                    item.note,
                    round(effect, 4),
                    places,
                )
            )
            if true[place]:
                named.append((item.name, round(effect, 4)))
        features = []
        for name, values in sorted(
            found.families.items(), key=lambda pair: -pair[1][number]
        ):
            places = int(family_fall[name][number]) if name in family_fall else None
            label = family_label(self.catalogue, name)
            features.append(
                Feature(name, label, round(float(values[number]), 4), places)
            )
        labels = {feature.label: feature.effect for feature in features}
        items, families = strongest(named, labels)
        reasons = [Reason("history", name, effect) for name, effect in items]
        reasons += [Reason("features", name, effect) for name, effect in families]
        item = self.item(question.candidates[number])
        return Explanation(
            item.id,
            item.name,
            item.columns,
            item.note,
            round(float(found.score[number]), 4),
            sentence(self.schema, items, families),
            tuple(reasons),
            tuple(history),
            tuple(features),
        )

    def plot(
        self, path: str | Path, query: Query, reasons: Sequence[Explanation]
    ) -> None:
        """Write what `explain` said and the attention of each layer and head as a figure; the
        ending of `path` says which kind (explanations/figures.py)."""
        maps, first, _ = attention(self._question(query, [why.id for why in reasons]))
        draw(Path(path), reasons, [layer[:, first:, first:].numpy() for layer in maps])

    def _allowed(self, query: Query) -> np.ndarray:
        """(R,) whether a query may be answered with each item."""
        allowed = rows_where(self.catalogue.items, query.where)
        if self._hides(query.filter_seen):
            allowed[query.history.items] = False
        return allowed

    def _hides(self, filter_seen: bool | None) -> bool:
        if filter_seen is None:
            return not self.schema.repeats
        return filter_seen

    def _batch(self, histories: Sequence[History]) -> Any:
        return history_batch(histories, self.catalogue, self.seq_length)

    def _question(self, query: Query, item_ids: Sequence[Id]) -> Question:
        rows = known_rows(
            self.catalogue.items, self.schema, item_ids, "recommended_item_id"
        )
        allowed = self._allowed(query)
        allowed[rows] = True
        return Question(
            self.scorer, self.catalogue, query.history, rows, torch.from_numpy(allowed)
        )

    # Everybody

    def recommend_all(
        self,
        user_ids: Sequence[Id] | None = None,
        k: int = 10,
        until: str = "end",
        filter_seen: bool | None = None,
        precision: str = "auto",
    ) -> pd.DataFrame:
        """Data frame user_id, item_id, rank (from 1), score for these users, or for all; a user
        for whom fewer than `k` items are left has fewer rows.

        until: 'end' ranks from whole histories; 'test' and 'validation' from what comes before
        that target, at its time if the model knows request times; for all users in the very
        batches that the trainer evaluates. precision: 'auto' encodes whole histories in bf16
        where the processor has it, 'fp32' never; what ranks before a target is always encoded in
        fp32, as the trainer does.
        """
        import pandas as pd

        if k < 1:
            raise UserError(f"--k {k}: must be at least 1")
        data, requests = self.data, self._requests(user_ids, until)
        if not len(requests):
            raise UserError("--users: nobody to recommend for")
        bf16 = until == "end" and uses_bf16(precision, CPU)
        lengths = requests.ends - data.offsets[requests.users]
        groups = length_groups(lengths, len(self.catalogue.items), self.seq_length, CPU)
        parts = [
            self._best(requests, chosen, until, k, filter_seen, bf16)
            for chosen in groups
        ]
        users, items, scores = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        order = np.argsort(users, kind="stable")
        users, items, scores = users[order], items[order], scores[order]
        # where fewer items are left the rest is -inf
        there = np.isfinite(scores).ravel()
        width = items.shape[1]
        table = {
            "user_id": np.repeat(self.catalogue.users.id_array(users), width)[there],
            "item_id": self.catalogue.items.id_array(items.ravel()[there]),
            "rank": np.tile(np.arange(1, width + 1), len(users))[there],
            "score": scores.ravel()[there],
        }
        return pd.DataFrame(table)

    @torch.no_grad()
    def _best(
        self,
        requests: Requests,
        chosen: np.ndarray,
        until: str,
        k: int,
        filter_seen: bool | None,
        bf16: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(users (B,), items (B, k), scores (B, k)) of some requests."""
        data, users, ends = self.data, requests.users[chosen], requests.ends[chosen]
        histories = [
            history_of(data, user, end) for user, end in zip(users, ends, strict=True)
        ]
        if until == "end" and self.knows_request_time:
            histories = [
                dataclasses.replace(
                    history, request_time=self._request_time(history, None)
                )
                for history in histories
            ]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            scores = self.scorer.score(self._batch(histories))  # (B, R)
        if self._hides(filter_seen):
            hide_seen(scores, data, users, ends)
        best = scores.topk(min(k, len(self.catalogue.items.ids)))
        return users, best.indices.numpy(), best.values.numpy()

    # Parts

    def item(self, row: int) -> Item:
        """What is said of an item, and a note if training never saw it."""
        items, row = self.catalogue.items, int(row)
        item_id = items.id(row)
        return Item(
            item_id,
            str(items.names[row]),
            items.readable(row),
            self._note() if item_id in self.new_items else "",
        )

    def _note(self) -> str:
        """How items that training never saw are ranked."""
        model = self.scorer.model
        if not model.places_new_items:
            return (
                f"new: placed among the {self.schema.nouns} that share its values, as this model "
                f"knows {self.schema.nouns} by experience alone"
            )
        fields = self.catalogue.items.fields
        told = [fields[name].column.title for name in model.item_columns.encoders]
        columns = " and ".join(told) or "columns"
        return f"new: ranked by its {columns} and by the {self.schema.nouns} most like it in these"

    def request_time_note(self, user_id: Id | None, at: int | None) -> str:
        """What the output must say of the moment that recommendations are made for; '' if the
        model ignores it."""
        if not self.knows_request_time:
            return ""
        if at is not None:
            return f"request time: {iso(at)}"
        if user_id is None:
            return "request time: unknown (a bare history has no times; give --at)"
        moment = self.history(user_id).request_time
        return (
            f"request time assumed: {iso(moment)}, the last interaction plus the user's median gap "
            f"(give --at to change it)"
        )

    def _rows(self, user_ids: Sequence[Id]) -> np.ndarray:
        """Rows of users in the data. Raises `UserError` for one who is not there."""
        users = self.data.catalogue.users
        rows = users.index(list(user_ids))
        if (rows == UNKNOWN).any():
            stranger = list(user_ids)[int(np.argmax(rows == UNKNOWN))]
            raise UserError(
                f"user {stranger} is not in {self.schema.name} (ids {users.ids.min()} to "
                f"{users.ids.max()}); for a new user give --history"
            )
        return rows

    def _requests(self, user_ids: Sequence[Id] | None, until: str) -> Requests:
        """What is asked of these users, or of all. Raises `UserError` unless it is one request a
        user.
        """
        split = self.data.split
        requests = split.requests[until]
        if until != "end" and self.data.split_hash != self.info["split_hash"]:
            raise UserError(
                f"--history_until {until}: {self.model_path} was trained on other "
                f"interactions or times than those at hand, and may know what this would "
                f"ask for; use --history_until end"
            )
        if len(np.unique(requests.users)) < len(requests):
            raise UserError(
                f"--history_until {until}: the protocol {split.protocol} asks for a user "
                f"several times; use --history_until end"
            )
        if user_ids is None:
            return requests
        wanted = np.unique(self._rows(user_ids))
        absent = np.setdiff1d(wanted, requests.users)
        if len(absent):
            raise UserError(
                f"--history_until {until}: user {self.catalogue.users.id(absent[0])} is not "
                f"asked for in this split ({split.protocol}); use --history_until end"
            )
        chosen = np.isin(requests.users, wanted)
        return Requests(requests.users[chosen], requests.ends[chosen], requests.count)


def _expected(entry: Field, shares: np.ndarray) -> list[float | str]:
    """Of each row (N, K) the expected number, or the likeliest value where values are no numbers."""
    if entry.numbers is not None:
        return [round(float(value), 2) for value in shares @ entry.numbers]
    return [entry.titles[code] for code in shares.argmax(1)]
