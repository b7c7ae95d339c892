"""Leave-one-out with full ranking: every film of the catalogue is ranked for every user.

For the validation target the history is the training part; for the test target it is everything before it, the
validation interaction included. Both are treated alike: same users, same filter, same tie rule. Films of the history
are taken out of the ranking with `filter_seen`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from batches import Batch, cut, history_batch, history_of, padded_width
from data_processor import SequenceData
from evaluation.metrics import ranks
from support.errors import UserError

GROUP_POSITIONS = {"cpu": 6400, "cuda": 1 << 18}  # what is ranked at once, at most


class Ranker(Protocol):
    """Whatever ranks films: every model and baseline."""

    def score(self, batch: Batch) -> Tensor:
        """(B, R) scores of all films for each history; -inf for PAD and MASK."""


def protocol_line(data: SequenceData, until: str, filter_seen: bool, query_time: str = "unknown") -> str:
    """What a number means: stands above every table."""
    seen = "films of the whole history left out" if filter_seen else "seen films kept in the ranking"
    note = f"; {data.note}" if data.note else ""
    return (f"{data.name}, leave-one-out ({until} = {'last' if until == 'test' else 'second last'} interaction), all "
            f"{data.num_users:,} users, full ranking of {len(data.catalogue.movie_ids):,} films, {seen}, ties against "
            f"the target, request time {query_time}, split {data.split_hash}{note}")


@torch.no_grad()
def target_ranks(ranker: Ranker, data: SequenceData, until: str, seq_length: int, filter_seen: bool = True,
                 batch_size: int = 128, device: torch.device | None = None, rank: int = 0,
                 world: int = 1) -> np.ndarray:
    """(U,) rank of each user's held-out film; 0 for users that fall to another process."""
    result, device = np.zeros(data.num_users, dtype=np.int64), device or torch.device("cpu")
    for users, batch in user_batches(data, until, seq_length, batch_size, device, rank, world):
        scores = ranker.score(batch.to(device)).float()
        targets = torch.from_numpy(data.items[data.target_rows(until)[users]]).to(scores.device)
        if filter_seen:  # the target stays in, should it be a repeat
            own = scores.gather(1, targets[:, None])
            hide_seen(scores, [data.items[slice(*data.span(user, until))] for user in users])
            scores.scatter_(1, targets[:, None], own)
        try:
            result[users] = ranks(scores, targets).cpu().numpy()
        except ValueError as error:
            raise UserError(f"cannot rank: {error}; the model has diverged, train again with a smaller "
                            f"--learning_rate") from error
    return result


def user_batches(data: SequenceData, until: str, seq_length: int, batch_size: int, device: torch.device,
                 rank: int = 0, world: int = 1) -> Iterator[tuple[np.ndarray, Batch]]:
    """(rows of people, their histories) for all users once, people of similar length together, sized for a device."""
    for users in user_groups(data, seq_length, batch_size, device)[rank::world]:
        yield users, history_batch([history_of(data, user, until) for user in users], seq_length)


def user_groups(data: SequenceData, seq_length: int, batch_size: int, device: torch.device,
                users: np.ndarray | None = None) -> list[np.ndarray]:
    """All users, or some, in groups of similar history length, longest first.

    A group holds at most `batch_size` people and GROUP_POSITIONS positions: on a CPU what is computed stays in the
    caches.
    """
    users = np.arange(data.num_users) if users is None else users
    lengths = np.minimum(np.diff(data.offsets)[users], seq_length)
    order = np.argsort(-lengths, kind="stable")
    bounds = cut(padded_width(lengths[order], seq_length), batch_size, GROUP_POSITIONS[device.type])
    return [users[order[start:end]] for start, end in itertools.pairwise(bounds)]


def hide_seen(scores: Tensor, seen: list[np.ndarray]) -> None:
    """Set the scores of films already seen to -inf, in place."""
    rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    scores[torch.from_numpy(rows), torch.from_numpy(np.concatenate(seen))] = -torch.inf
