"""`Question`: scores of items when a model is shown only a part of what is known.

An item's score is its log-probability among the items that may be recommended. (A constant added to
every logit changes no ranking, and must not change an explanation.)

The part that is shown is a *coalition*: some interactions of the history and some families of
features. v(coalition) is the item's score then.

Axes: C items asked about, L interactions that the model reads, N coalitions, R rows of the item
table.
"""

import dataclasses
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from batches import Batch, History, history_batch
from dataset import MASK, NO_TIME, Catalogue
from evaluation.protocols import CPU, length_groups
from fields import UNKNOWN
from scorer import NOTHING, Scorer

USER_ID = "users.id"
IN_TABLE = ("items.", "graph")  # how families of the item table begin
Absence = Literal["removed", "masked", "replaced"]


@dataclass(frozen=True)
class Question:
    """Why these items for this history? Computes scores with parts left out.

    candidates: (C,) rows of items; allowed: (R,) True at the items among which probabilities are
    formed. absent: how an interaction is left out: removed from the sequence, its item and
    columns masked, or replaced by another item.
    """

    scorer: Scorer
    catalogue: Catalogue
    history: History
    candidates: np.ndarray
    allowed: Tensor
    absent: Absence = "removed"
    # (L,) items for 'replaced'
    stand_ins: np.ndarray | None = field(default=None, compare=False)

    @property
    def seq_length(self) -> int:
        """Interactions that the model reads, a mask counted."""
        return self.scorer.model.settings.seq_length

    def batch(self, histories: list[History]) -> Batch:
        """The batch of these histories."""
        return history_batch(histories, self.catalogue, self.seq_length)

    def request(self, history: History) -> Batch:
        """A history in the form that the ranking head reads."""
        return self.scorer.model.as_request(self.batch([history]))

    @cached_property
    def read(self) -> History:
        """The newest interactions of the history, which the model reads."""
        nothing = self.history.select(np.zeros(0, dtype=int))
        # it may append a mask
        room = self.seq_length - int(self.request(nothing).lengths[0])
        length = len(self.history.items)
        read = self.history.select(np.arange(length)[-room:])
        return dataclasses.replace(
            read, whole=self.history.whole and len(read.items) == length
        )

    @property
    def length(self) -> int:
        """L."""
        return len(self.read.items)

    @property
    def everything(self) -> np.ndarray:
        """(1, L) the coalition in which all interactions are known."""
        return np.ones((1, self.length), dtype=bool)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of features that the model has."""
        return self.scorer.families

    def scores(
        self, known: np.ndarray, without: Set[str] = NOTHING
    ) -> np.ndarray:
        """(N, C) score of each item when only the interactions in `known` (N, L) are, and not
        these families."""
        return self.outcomes(known, without)[0]

    def outcomes(
        self, known: np.ndarray, without: Set[str] = NOTHING
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, ranks from 1), (N, C) each, as in `scores`."""
        in_table = {one for one in without if one.startswith(IN_TABLE)}
        histories = [self._only(row) for row in known]
        for family in without - in_table:
            histories = [lacking(history, family) for history in histories]
        return self.of_histories(histories, in_table)

    @cached_property
    def one_by_one(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores, ranks), (1 + L, C) each: with everything known, then without each
        interaction."""
        each = ~np.eye(self.length, dtype=bool)
        return self.outcomes(np.concatenate([self.everything, each]))

    @cached_property
    def without_families(self) -> np.ndarray:
        """(F, 2, C) scores and ranks without each family, one at a time."""
        told = [
            name for name in self.families if not name.startswith(IN_TABLE)
        ]
        # In one batch, as single requests take most of an explanation's time.
        outcomes = self.of_histories(
            [lacking(self.read, family) for family in told]
        )
        found = dict(zip(told, zip(*outcomes, strict=True), strict=True))
        for family in set(self.families) - set(told):
            scores, ranks = self.outcomes(self.everything, {family})
            found[family] = scores[0], ranks[0]
        ordered = [found[family] for family in self.families]
        return np.reshape(ordered, (-1, 2, len(self.candidates)))

    @property
    def tagged(self) -> tuple[str, ...]:
        """The families that are a column of tags of the items."""
        fields = self.catalogue.items.fields
        return tuple(
            f"items.{name}"
            for name, entry in fields.items()
            if entry.column.kind == "tags" and f"items.{name}" in self.families
        )

    @cached_property
    def _without_tags(self) -> dict[str, np.ndarray]:
        return {}

    def without_tag(self, family: str, code: int) -> np.ndarray:
        """(C,) scores when no item has this tag."""
        key = f"{family}={code}"
        if key not in self._without_tags:
            self._without_tags[key] = self.scores(self.everything, {key})[0]
        return self._without_tags[key]

    @torch.no_grad()
    def of_histories(
        self, histories: list[History], without: Set[str] = NOTHING
    ) -> tuple[np.ndarray, np.ndarray]:
        """`outcomes` of N other histories. without: families of the item table."""
        lengths = np.array([len(history.items) for history in histories])
        scores = np.empty((len(histories), len(self.candidates)))
        ranks = np.empty(scores.shape, dtype=int)
        candidates = torch.from_numpy(self.candidates)
        for chosen in length_groups(
            lengths, len(self.allowed), self.seq_length, CPU
        ):
            batch = self.batch([histories[row] for row in chosen])
            logits = self.scorer.score(batch, without)
            scores[chosen] = self.of_logits(logits).double().numpy()
            rivals = logits.masked_fill(~self.allowed, -torch.inf)
            better = [
                (rivals > one[:, None]).sum(1)
                for one in logits[:, candidates].T
            ]
            ranks[chosen] = 1 + torch.stack(better, dim=1).numpy()
        return scores, ranks

    def of_logits(self, logits: Tensor) -> Tensor:
        """(N, R) logits to (N, C) scores."""
        among = logits.masked_fill(~self.allowed, -torch.inf)
        return among.log_softmax(1)[:, torch.from_numpy(self.candidates)]

    def _only(self, known: np.ndarray) -> History:
        """The history with only these interactions (L,) known."""
        history = self.read
        if self.absent == "removed":
            left = history.select(known)
            if len(left.items) or self.scorer.starts:
                return left
            # Nothing known of one interaction stands for no history.
            return unknown_items(history, MASK).select(np.array([-1]))
        others = MASK if self.absent == "masked" else self.stand_ins
        columns = {}
        for name, values in history.columns.items():
            unknown = self.catalogue.interaction_fields[name].unknown
            columns[name] = np.where(known, values, unknown).astype(
                values.dtype
            )
        items = np.where(known, history.items, others)
        return dataclasses.replace(history, items=items, columns=columns)


def lacking(history: History, family: str) -> History:
    """The history without what it says of a family that is not in the item table."""
    table, _, name = family.partition(".")
    if family == "times":
        return dataclasses.replace(
            history, times=NO_TIME, request_time=NO_TIME
        )
    if family == USER_ID:
        return dataclasses.replace(history, user=UNKNOWN)
    field_name = {"interactions": "columns", "users": "user_columns"}[table]
    columns = dict(getattr(history, field_name))
    columns.pop(name, None)
    return dataclasses.replace(history, **{field_name: columns})


def unknown_items(history: History, items: int | np.ndarray) -> History:
    """Another item at every position, without columns, at the same times."""
    others = np.empty_like(history.items)
    others[:] = items
    return dataclasses.replace(history, items=others, columns={})
