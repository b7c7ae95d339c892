"""Measures of lists of K items beside hits: catalogue coverage, novelty, popularity, diversity
within a list, calibration.

Q requests, K places, F values of a column.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import rel_entr

from batches import History
from dataset import ITEM_ROWS, Dataset
from evaluation.protocols import Ranker, hide_seen, request_batches
from scorer import BLOCK, Scorer, best_items
from splits import Requests


@torch.no_grad()
def top_lists(
    ranker: Ranker,
    data: Dataset,
    requests: Requests,
    seq_length: int,
    hides: bool,
    k: int = 10,
    timed: Callable[[History], History] = lambda history: history,
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) best items of each request from the whole catalogue, best first, and their scores; 0
    and -inf where none is left. hides: the items of the history are left out."""
    k = min(k, len(data.catalogue.items.ids))
    items = np.zeros((len(requests), k), dtype=np.int64)
    values = np.zeros((len(requests), k), dtype=np.float32)
    scored = len(data.catalogue.items)
    if isinstance(ranker, Scorer):
        scored = min(scored, BLOCK)
    for chosen, part, batch in request_batches(
        data, requests, seq_length, timed=timed, scored=scored
    ):
        blocks = _blocks(ranker, batch)
        if hides:
            blocks = _without_seen(blocks, data, part)
        rows, best = best_items(blocks, k)
        items[chosen] = rows.where(best > -torch.inf, 0).numpy()
        values[chosen] = best.numpy()
    return items, values


def _blocks(ranker, batch):
    """The scores of a ranker; in one block if it has no other way."""
    if not isinstance(ranker, Scorer):
        yield 0, ranker.score(batch).float()
        return
    for first, scores in ranker.blocks(ranker.states(batch), batch):
        yield first, scores.float()


def _without_seen(blocks, data, requests):
    """The scores with -inf for items that users had before their requests."""
    for first, scores in blocks:
        hide_seen(scores, data, requests, first)
        yield first, scores


def list_quality(
    lists: np.ndarray, data: Dataset, until: str
) -> dict[str, np.ndarray]:
    """Each measure as a vector over requests; NaN where it has no value. Empty places (0) of lists
    do not count.

    - novelty: mean of -log2 of the share of users who have the item in training (Vargas &
      Castells, RecSys 2011). An item without users counts as one with one user.
    - popularity: mean number of training interactions.
    - popularity lift: popularity over the same mean of the user's history, minus 1
      (Abdollahpouri et al., RecSys 2020). None where training has no item of the history.

    For each tags column with `predict: true`:

    - diversity: mean over pairs of 1 - Jaccard similarity (Ziegler et al., WWW 2005).
    - miscalibration: KL divergence of the list's distribution from the history's; the list's is
      smoothed with 1 % of the history's (Steck, RecSys 2018, eq. 7).
    """
    counts = data.item_counts().astype(float)
    users = max(1, int((data.train_lengths > 0).sum()))
    owners = np.asarray(data.user_items().sum(0))[0]  # (R,)
    owners = np.maximum(owners, 1)
    rarity = -np.log2(owners / users)
    history = data.histories(data.split.requests[until])
    in_history = np.array([counts[items].mean() for items in history])
    in_history[in_history == 0] = np.nan
    there = lists >= ITEM_ROWS  # (Q, K)
    popularity = _mean(counts[lists], there)
    found = {
        "novelty (bits)": _mean(rarity[lists], there),
        "popularity": popularity,
        "popularity lift": popularity / in_history - 1,
    }
    items = data.catalogue.items
    for entry in items.fields.values():
        column = entry.column
        if column.kind != "tags" or not column.predict:
            continue
        shares = items.shares(entry.name)  # (R, F)
        diversity = _diversity(shares[lists] > 0, there)
        miscalibration = _miscalibration(shares, lists, history)
        found[f"diversity of {column.title}"] = diversity
        found[f"miscalibration of {column.title}"] = miscalibration
    return found


def _mean(values, there):
    """(Q,) mean over the places (Q, K) that are there; NaN where there is none."""
    total = np.where(there, values, 0).sum(1)
    number = there.sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _diversity(flags, there):
    """(Q,) from flags (Q, K, F) of the places (Q, K) that are there."""
    flags = flags.astype(float)
    shared = np.einsum("qif,qjf->qij", flags, flags)
    sizes = flags.sum(2)
    both = sizes[:, :, None] + sizes[:, None, :]
    either = both - shared
    # Two items without values are as far apart as can be.
    apart = 1 - shared / np.maximum(either, 1)
    first, second = np.triu_indices(flags.shape[1], 1)
    both_there = there[:, first] & there[:, second]
    return _mean(apart[:, first, second], both_there)


def _miscalibration(shares, lists, history):
    """(Q,) from shares (R, F)."""
    wanted = [shares[items].mean(0) for items in history]
    wanted = np.array(wanted)
    # Row 0, an empty place, has no shares.
    number = (lists >= ITEM_ROWS).sum(1, keepdims=True)
    given = shares[lists].sum(1) / np.maximum(number, 1)
    smoothed = 0.99 * given + 0.01 * wanted
    divergence = rel_entr(wanted, smoothed).sum(1)
    return np.where(number[:, 0] > 0, divergence, np.nan)


def coverage(lists: np.ndarray, data: Dataset) -> dict[str, float]:
    """Over all lists: the share of items in at least one list, and the Gini coefficient of how
    often items are recommended (0 = equally often, near 1 = the same few)."""
    rows = len(data.catalogue.items)
    counts = np.bincount(lists.ravel(), minlength=rows)[ITEM_ROWS:]
    exposure = np.sort(counts)
    number = len(counts)
    weights = 2 * np.arange(1, number + 1) - number - 1
    gini = float(weights @ exposure / (number * exposure.sum()))
    return {
        "catalogue coverage": float((exposure > 0).mean()),
        "Gini of exposure": gini,
    }
