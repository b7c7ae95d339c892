"""Recommendations for many users at once: `python inference.py --users all --output FILE`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from answers import Id
from batches import history_of
from engine import RecommendationEngine
from evaluation.protocols import hide_seen, length_groups
from splits import Requests
from support.devices import uses_bf16
from support.errors import UserError

CPU = torch.device("cpu")


def recommend_all(
    engine: RecommendationEngine,
    user_ids: Sequence[Id] | None = None,
    k: int = 10,
    until: str = "end",
    filter_seen: bool | None = None,
    precision: str = "auto",
) -> Any:
    """Data frame user_id, item_id, rank (from 1), score for these users, or for all; a user for
    whom fewer than `k` items are left has fewer rows.

    until: 'end' ranks from whole histories; 'test' and 'validation' from what comes before that
    target, at its time if the model knows request times; for all users in the very batches that
    the trainer evaluates. precision: 'auto' encodes whole histories in bf16 where the processor
    has it, 'fp32' never; what ranks before a target is always encoded in fp32.
    """
    import pandas as pd

    if k < 1:
        raise UserError(f"--k {k}: must be at least 1")
    requests = _requests(engine, user_ids, until)
    if not len(requests):
        raise UserError("--users: nobody to recommend for")
    catalogue = engine.catalogue
    bf16 = until == "end" and uses_bf16(precision, CPU)
    lengths = requests.ends - engine.data.offsets[requests.users]
    users, items, scores = [], [], []
    for chosen in length_groups(
        lengths, len(catalogue.items), engine.seq_length, CPU
    ):
        best = _best(engine, requests, chosen, until, k, filter_seen, bf16)
        users.append(requests.users[chosen])
        items.append(best.indices.numpy())
        scores.append(best.values.numpy())
    order = np.argsort(np.concatenate(users), kind="stable")
    ids = np.concatenate(users)[order]
    rows, values = np.concatenate(items)[order], np.concatenate(scores)[order]
    width = rows.shape[1]
    # Where fewer items are left the rest is -inf.
    there = np.isfinite(values).ravel()
    table = {
        "user_id": np.repeat(catalogue.users.id_array(ids), width)[there],
        "item_id": catalogue.items.id_array(rows.ravel()[there]),
        "rank": np.tile(np.arange(1, width + 1), len(ids))[there],
        "score": values.ravel()[there],
    }
    return pd.DataFrame(table)


@torch.no_grad()
def _best(
    engine: RecommendationEngine,
    requests: Requests,
    chosen: np.ndarray,
    until: str,
    k: int,
    filter_seen: bool | None,
    bf16: bool,
) -> torch.return_types.topk:
    """Scores and items, (B, k) each, of some requests."""
    data, users, ends = (
        engine.data,
        requests.users[chosen],
        requests.ends[chosen],
    )
    histories = []
    for user, end in zip(users, ends, strict=True):
        history = history_of(data, user, end)
        histories.append(engine.timed(history) if until == "end" else history)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        scores = engine.scorer.score(engine.batch(histories))  # (B, R)
    if engine.hides_seen(filter_seen):
        hide_seen(scores, data, users, ends)
    return scores.topk(min(k, len(engine.catalogue.items.ids)))


def _requests(
    engine: RecommendationEngine, user_ids: Sequence[Id] | None, until: str
) -> Requests:
    """What is asked of these users, or of all. Raises `UserError` unless it is one request a
    user."""
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
    chosen = np.isin(requests.users, wanted)
    return Requests(
        requests.users[chosen], requests.ends[chosen], requests.count
    )
