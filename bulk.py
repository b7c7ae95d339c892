"""Recommendations for many users at once: `python inference.py --users all --output FILE`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from answers import Id
from engine import RecommendationEngine
from evaluation.lists import top_lists
from evaluation.protocols import Ranker
from reranking import LikedRanker, candidates, varied_lists
from support.devices import uses_bf16
from support.errors import UserError


def recommend_all(
    engine: RecommendationEngine,
    user_ids: Sequence[Id] | None = None,
    k: int = 10,
    until: str = "end",
    filter_seen: bool | None = None,
    precision: str = "auto",
    rank_by: str = "next",
    diversity: float = 0.0,
) -> Any:
    """Data frame with user_id, item_id, rank (from 1) and score, for these users or for all. Users
    for whom fewer than `k` items are left have fewer rows.

    until: 'end' ranks from whole histories; 'test' and 'validation' from what comes before that
    target, at its time if the model knows request times; for all users in the very batches that
    the trainer evaluates. precision: 'auto' encodes whole histories in bf16 where the processor
    has it, 'fp32' never; what ranks before a target is always encoded in fp32. rank_by,
    diversity: as in `Query`.
    """
    import pandas as pd

    if k < 1:
        raise UserError(f"--k {k}: must be at least 1")
    requests = _requests(engine, user_ids, until)
    if not len(requests):
        raise UserError("--users: nobody to recommend for")
    # With the items that were added.
    data = engine.data.replace(catalogue=engine.catalogue)
    ranker: Ranker = engine.scorer
    if rank_by == "liked":
        ranker = LikedRanker(engine.scorer, engine.catalogue)
    whole = until == "end"
    bf16 = whole and uses_bf16(precision, torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        rows, values = top_lists(
            ranker,
            data,
            requests,
            engine.seq_length,
            engine.hides_seen(filter_seen),
            candidates(k, diversity),
            engine.timed if whole else lambda history: history,
        )
        table = engine.scorer.table
        rows, values = varied_lists(rows, values, table, k, diversity)
    return pd.DataFrame(_columns(data, requests.users, rows, values))


def _columns(data, users, rows, values):
    """The columns of the table, from lists (Q, K) and their scores."""
    width = rows.shape[1]
    # Where fewer items are left the rest is -inf.
    there = np.isfinite(values).ravel()
    ids = data.catalogue.users.id_array(users)
    return {
        "user_id": np.repeat(ids, width)[there],
        "item_id": data.catalogue.items.id_array(rows.ravel()[there]),
        "rank": np.tile(np.arange(1, width + 1), len(rows))[there],
        "score": values.ravel()[there],
    }


def _requests(engine, user_ids, until):
    """The requests of these users, or of all. Raises `UserError` unless each user has one."""
    data, flag = engine.data, f"--history_until {until}"
    requests = data.split.requests[until]
    if until != "end" and data.split_hash != engine.info["split_hash"]:
        raise UserError(
            f"{flag}: {engine.model_path} was trained on other interactions or times than those "
            f"at hand, and may know what this would ask for; use --history_until end"
        )
    if len(np.unique(requests.users)) < len(requests):
        raise UserError(
            f"{flag}: the protocol {data.split.protocol} asks for a user several times; use "
            f"--history_until end"
        )
    if user_ids is None:
        return requests
    wanted = np.unique(engine.user_rows(user_ids))
    absent = np.setdiff1d(wanted, requests.users)
    if len(absent):
        raise UserError(
            f"{flag}: user {engine.catalogue.users.id(absent[0])} is not asked for in this split "
            f"({data.split.protocol}); use --history_until end"
        )
    return requests.part(np.isin(requests.users, wanted))
