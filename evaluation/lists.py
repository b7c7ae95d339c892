"""What lists of K films are like beyond hits: how much of the catalogue, how new, how popular, how varied, how typical.

Q requests, K places, V films, F genres, R rows of the item table.
"""

from __future__ import annotations

import numpy as np
import torch

from data_processor import FIRST_ITEM, SequenceData
from evaluation.protocols import Ranker, hide_seen, request_batches
from settings import EvalSettings


@torch.no_grad()
def top_lists(ranker: Ranker, data: SequenceData, until: str, seq_length: int, settings: EvalSettings, k: int = 10,
              device: torch.device | None = None) -> np.ndarray:
    """(Q, K) best films of each request from the whole catalogue, best first."""
    requests, device = data.split.requests[until], device or torch.device("cpu")
    result = np.zeros((len(requests), k), dtype=np.int64)
    for chosen, batch in request_batches(data, until, seq_length, settings.eval_batch_size, device):
        scores = ranker.score(batch.to(device)).float()
        if settings.filter_seen:
            hide_seen(scores, data, requests.people[chosen], requests.ends[chosen])
        result[chosen] = scores.topk(k).indices.cpu().numpy()
    return result


def list_quality(lists: np.ndarray, data: SequenceData, until: str) -> dict[str, np.ndarray]:
    """Each measure as a vector over requests.

    novelty: mean of -log2 of the share of people who have the film in training (Vargas & Castells, RecSys 2011); a film
    that nobody has counts as one that one person has. popularity: mean number of training interactions of the films.
    popularity lift: that over the same mean of the person's history, minus 1 (Abdollahpouri et al., RecSys 2020).
    diversity: mean over pairs of 1 - Jaccard similarity of genres (Ziegler et al., WWW 2005). genre miscalibration:
    KL divergence of the list's genre distribution, smoothed with 1 % of the history's, from the history's (Steck,
    RecSys 2018, eq. 7).
    """
    rows, requests = data.training_rows(), data.split.requests[until]
    counts = np.bincount(data.items[rows], minlength=data.catalogue.num_rows).astype(float)
    trained = max(1, int((data.split.train_ends > data.offsets[:-1]).sum()))
    genres = data.catalogue.genres[lists].astype(float)  # (Q, K, F)
    shared = np.einsum("qif,qjf->qij", genres, genres)
    sizes = genres.sum(2)
    either = sizes[:, :, None] + sizes[:, None, :] - shared
    apart = 1 - np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    places = lists.shape[1]
    off_diagonal = ~np.eye(places, dtype=bool)
    history = [data.items[data.offsets[person]:end] for person, end in zip(requests.people, requests.ends, strict=True)]
    own = np.array([counts[items].mean() for items in history])
    popularity = counts[lists].mean(1)
    shares = data.catalogue.genre_shares
    wanted = np.array([shares[items].mean(0) for items in history])  # (Q, F)
    given = 0.99 * shares[lists].mean(1) + 0.01 * wanted
    ratio = np.divide(wanted, given, out=np.ones_like(wanted), where=wanted > 0)
    return {"novelty (bits)": -np.log2(np.maximum(counts[lists], 1) / trained).mean(1), "popularity": popularity,
            "popularity lift": popularity / np.maximum(own, 1e-9) - 1,
            "diversity": apart[:, off_diagonal].mean(1) if places > 1 else np.zeros(len(lists)),
            "genre miscalibration": (wanted * np.log(ratio)).sum(1)}


def coverage(lists: np.ndarray, data: SequenceData) -> dict[str, float]:
    """Of all lists together: the share of films that anybody gets, and the Gini coefficient of how often films are
    given (0 = all alike, near 1 = the same few)."""
    exposure = np.sort(np.bincount(lists.ravel(), minlength=data.catalogue.num_rows)[FIRST_ITEM:])
    number = len(exposure)
    gini = float((2 * np.arange(1, number + 1) - number - 1) @ exposure / (number * exposure.sum()))
    return {"catalogue coverage": float((exposure > 0).mean()), "Gini of exposure": gini}
