"""How models are ranked: who is asked, what they choose among, and the line above every number that says so.

Who is asked, and from which history, is the split's business (splits.py); for validation and test alike: same filter,
same tie rule. Films of the history are taken out of the ranking with `filter_seen`. The whole catalogue is ranked
unless `--candidates` asks for a sample, drawn once for each request from a seed, so that all models meet the same one.
Q requests, T targets of a request, C candidates, R rows of the item table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from batches import Batch, cut, history_batch, history_of, padded_width
from data_processor import FIRST_ITEM, SequenceData
from evaluation.metrics import ranks
from settings import EvalSettings
from support.errors import UserError

GROUP_POSITIONS = {"cpu": 6400, "cuda": 1 << 18}  # what is ranked at once, at most
CANDIDATES = 100


class Ranker(Protocol):
    """Whatever ranks films: every model and baseline."""

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores of all films for each history; -inf for PAD and MASK."""


def protocol_line(data: SequenceData, until: str, settings: EvalSettings, query_time: str = "unknown") -> str:
    """What a number means: stands above every table."""
    requests, films = data.split.requests[until], len(data.catalogue.movie_ids)
    seen = "films of the whole history left out" if settings.filter_seen else "seen films kept in the ranking"
    candidates = f"full ranking of {films:,} films" if settings.candidates == "full" else \
        f"{CANDIDATES} candidates beside the target{'s' if requests.count > 1 else ''}, " \
        f"{settings.candidates.partition('_')[0]} draw from " \
        f"{'all' if settings.candidates.endswith('_any') else 'the unseen of'} {films:,} films"
    cold = "".join(f"; {share:.1%} of the {what} unknown to training"
                   for share, what in zip(cold_shares(data, until), ("requests by people", "targets"), strict=True)
                   if share)
    people = len(np.unique(requests.people))
    asked = f"{len(requests):,} requests by {people:,} people" if len(requests) != people else \
        f"all {people:,} users" if people == data.num_users else f"{people:,} users"
    note = f"; {data.note}" if data.note else ""
    return (f"{data.name}, {until} of {data.split.description}, {asked}, {candidates}, {seen}, ties against the "
            f"target, request time {query_time}, split {data.split_hash}{cold}{note}")


def cold_shares(data: SequenceData, until: str) -> tuple[float, float]:
    """Shares of requests by people, and of targets, that the training part does not have."""
    requests = data.split.requests[until]
    known = np.zeros(data.catalogue.num_rows, dtype=bool)
    known[data.items[data.training_rows()]] = True
    trained = data.split.train_ends > data.offsets[:-1]
    return float((~trained[requests.people]).mean()), float((~known[data.items[requests.target_rows]]).mean())


@torch.no_grad()
def target_ranks(ranker: Ranker, data: SequenceData, until: str, seq_length: int, settings: EvalSettings,
                 device: torch.device | None = None, rank: int = 0, world: int = 1) -> np.ndarray:
    """(Q, T) ranks of each request's targets, best first; 0 for requests that fall to another process."""
    requests, device = data.split.requests[until], device or torch.device("cpu")
    result = np.zeros((len(requests), requests.count), dtype=np.int64)
    candidates = draw_candidates(data, until, settings)
    for chosen, batch in request_batches(data, until, seq_length, settings.eval_batch_size, device, rank, world):
        scores = ranker.score(batch.to(device)).float()
        targets = torch.from_numpy(data.items[requests.target_rows[chosen]]).to(scores.device)  # (B, T)
        own = scores.gather(1, targets)
        if settings.filter_seen:
            hide_seen(scores, data, requests.people[chosen], requests.ends[chosen])
        if candidates is not None:
            rows = torch.from_numpy(candidates[chosen]).to(scores.device)
            scores = torch.full_like(scores, -torch.inf).scatter_(1, rows, scores.gather(1, rows))
        scores.scatter_(1, targets, own)  # a target stays in, should it be a repeat
        try:
            result[chosen] = ranks(scores, targets).cpu().numpy()
        except ValueError as error:
            raise UserError(f"cannot rank: {error}; the model has diverged, train again with a smaller "
                            f"--learning_rate") from error
    return result


def request_batches(data: SequenceData, until: str, seq_length: int, batch_size: int, device: torch.device,
                    rank: int = 0, world: int = 1) -> Iterator[tuple[np.ndarray, Batch]]:
    """(indices of requests, their histories) for all requests once, those of similar length together."""
    requests = data.split.requests[until]
    lengths = requests.ends - data.offsets[requests.people]
    for chosen in length_groups(lengths, seq_length, batch_size, device)[rank::world]:
        yield chosen, history_batch([history_of(data, person, end) for person, end in
                                     zip(requests.people[chosen], requests.ends[chosen], strict=True)], seq_length)


def length_groups(lengths: np.ndarray, seq_length: int, batch_size: int, device: torch.device) -> list[np.ndarray]:
    """Indices of histories in groups of similar length, longest first.

    A group holds at most `batch_size` histories and GROUP_POSITIONS positions: on a CPU what is computed stays in the
    caches.
    """
    order = np.argsort(-np.minimum(lengths, seq_length), kind="stable")
    widths = padded_width(np.minimum(lengths, seq_length)[order], seq_length)
    bounds = cut(widths, batch_size, GROUP_POSITIONS[device.type])
    return [order[start:end] for start, end in itertools.pairwise(bounds)]


def hide_seen(scores: Tensor, data: SequenceData, people: np.ndarray, ends: np.ndarray) -> None:
    """Set the scores (B, R) of films that B people have before these positions to -inf, in place."""
    seen = [data.items[data.offsets[person]:end] for person, end in zip(people, ends, strict=True)]
    rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    scores[torch.from_numpy(rows), torch.from_numpy(np.concatenate(seen))] = -torch.inf


def draw_candidates(data: SequenceData, until: str, settings: EvalSettings) -> np.ndarray | None:
    """(Q, C) films to rank the targets among, none of them a target or (but for popular_100_any) seen; None = the whole
    catalogue.

    Uniform or by popularity in the training part, without repetition (Efraimidis & Spirakis, 2006: the largest of
    log(u) / weight are such a sample). The same for everybody who gives the same split, kind and seed. Where fewer
    films are left, one of them stands several times. Raises `UserError` where none is left.
    """
    if settings.candidates == "full":
        return None
    weights = np.ones(data.catalogue.num_rows)
    if settings.candidates.startswith("popular"):
        weights = np.bincount(data.items[data.training_rows()], minlength=len(weights)).astype(float)
    weights[:FIRST_ITEM] = 0
    requests = data.split.requests[until]
    draw = np.random.default_rng((0, until == "test", int(data.split_hash, 16)))
    result = np.empty((len(requests), CANDIDATES), dtype=np.int64)
    for number, (person, end) in enumerate(zip(requests.people, requests.ends, strict=True)):
        keys = np.full(len(weights), -np.inf)
        possible = weights > 0
        start = end if settings.candidates.endswith("_any") else data.offsets[person]
        possible[data.items[start:end + requests.count]] = False
        if not possible.any():
            raise UserError(f"--candidates {settings.candidates}: nothing is left to draw for user "
                            f"{data.catalogue.user_ids[person]}; use --candidates full")
        keys[possible] = np.log(draw.random(int(possible.sum()))) / weights[possible]
        best = np.argsort(-keys)[:CANDIDATES]
        result[number] = np.resize(best[np.isfinite(keys[best])], CANDIDATES)
    return result
