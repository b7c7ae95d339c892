"""Users and items unknown to training: `python -m ablations.cold_start --seeds 3`

A twentieth of the items and a fifth of the users are drawn, and all their interactions are taken
out. The preset trains on the rest, once for each seed. Two questions:

    new users    the users taken out, with n known interactions (0, 1, 2, 5). The target is the
                 next one: after their first n ('first'), as when a user joins, or after the n
                 before their last one ('last'), as when older history is lost. All items known
                 to training are ranked, without those n
    new items    users of the training part; the target is the last new item that they had, among
                 the new items that they had not yet, and among all items

Baselines are popularity, nearest neighbours by columns, and counts of items that occur together or
in turn. Any flag of trainer.py may follow.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ablations.comparison import (
    MEANING,
    Values,
    check_full_ranking,
    collect,
    marked_cell,
    summary,
    training_parser,
    write_results,
)
from ablations.once import trained
from baselines.neighbours import ColumnNeighbours, ease, item_knn, markov_chain
from baselines.popularity import Popularity
from batches import History, history_batch, history_of
from command_line import parse_settings
from data_processor import process
from dataset import Catalogue, Dataset
from evaluation.metrics import METRIC, per_request, ranks
from evaluation.protocols import Ranker
from fields import UNKNOWN
from growth import for_catalogue
from readers import read
from settings import Settings
from support.errors import require, run_command

ITEMS, USERS = 0.05, 0.2  # shares that are taken out
DRAWS = int(1 / USERS)  # as many share no user and no item
KNOWN = (0, 1, 2, 5)  # interactions of a new user
# Which end of a history is known -> what such users are called.
ENDS = {"first": "just joined", "last": "past lost"}
NEWEST = "just joined, 0 known"
PRESET = "preset"
BATCH = 128
BASELINES: dict[str, Callable[[Dataset], Ranker]] = {
    "popularity": Popularity,
    "column neighbours": ColumnNeighbours,
    "Markov chain": partial(markov_chain, reach=30, backoff=30.0, decay=0.7),
    "ItemKNN": partial(item_knn, neighbours=200, shrinkage=0.0, decay=0.6),
    "EASE": partial(ease, regularisation=1000.0, decay=0.8),
}


class Asked(NamedTuple):
    """The request of one user; rows are those of the whole catalogue."""

    history: History
    target: int  # row of an item
    candidates: np.ndarray  # rows of items, the target among them


@dataclasses.dataclass(frozen=True)
class World:
    """Known interactions and requests; rows are those of the whole catalogue, except in `known`."""

    whole: Dataset
    known: Dataset  # without the new items and users
    new_items: np.ndarray  # rows of items
    requests: dict[str, list[Asked]]


def world(settings: Settings, number: int) -> World:
    """New items and users of one of DRAWS draws. Raises `UserError` if there are no requests."""
    data = settings.data
    raw = read(data.dataset, data.data_dir, data.columns)
    whole, draw = process(raw, data), np.random.default_rng(0)
    items, users = whole.catalogue.items, whole.catalogue.users
    new_ids = _part(draw.permutation(items.ids), ITEMS, number)
    user_ids = _part(draw.permutation(users.ids), USERS, number)
    rows = raw.interactions
    kept = rows[~rows["item"].isin(new_ids) & ~rows["user"].isin(user_ids)]
    known = process(raw.replace(kept), data, whole.catalogue)
    old = items.index(known.catalogue.items.ids)
    new = np.setdiff1d(items.index(new_ids), old)
    user_rows = np.sort(users.index(user_ids))
    requests = {}
    for end, name in ENDS.items():
        for count in KNOWN:
            asked = new_user_requests(whole, user_rows, old, count, end)
            requests[f"{name}, {count} known"] = asked
    asked = new_item_requests(whole, known, new)
    requests["among new items"] = asked
    everything = []
    for one in asked:
        others = np.setdiff1d(old, one.history.items)
        candidates = np.concatenate([others, one.candidates])
        everything.append(one._replace(candidates=candidates))
    requests["among all items"] = everything
    require(
        all(requests.values()), "nobody is left to ask; use a larger data set"
    )
    return World(whole, known, new, requests)


def _part(ids, share, number):
    size = max(1, int(share * len(ids)))
    return ids[number * size : (number + 1) * size]


def new_user_requests(
    whole: Dataset, users: np.ndarray, items: np.ndarray, count: int, end: str
) -> list[Asked]:
    """New users who are asked, among these items, for the one after their first `count`
    interactions with them, or after the `count` before their last one."""
    requests = []
    for user in users:
        history = history_of(whole, user)
        rows = np.flatnonzero(np.isin(history.items, items))
        if len(rows) <= max(KNOWN):
            continue
        chosen = rows[: count + 1] if end == "first" else rows[-count - 1 :]
        known = dataclasses.replace(
            history.select(chosen[:-1]), user=UNKNOWN, whole=end == "first"
        )
        candidates = np.setdiff1d(items, known.items)
        target = history.items[chosen[-1]]
        requests.append(Asked(known, target, candidates))
    return requests


def new_item_requests(
    whole: Dataset, known: Dataset, new: np.ndarray
) -> list[Asked]:
    """Requests for the items `new` (rows of the whole catalogue) by the known users."""
    known_rows = known.catalogue.users.index(whole.catalogue.users.ids)
    requests = []
    for user, row in zip(whole.catalogue.users.rows, known_rows, strict=True):
        history = history_of(whole, user)
        is_new = np.isin(history.items, new)
        if row == UNKNOWN or not is_new.any():
            continue
        last = np.flatnonzero(is_new)[-1]
        past = np.flatnonzero(~is_new[:last])
        if not len(past):
            continue
        token = row if known.train_lengths[row] else UNKNOWN
        past = dataclasses.replace(history.select(past), user=token)
        candidates = np.setdiff1d(new, history.items[:last])
        requests.append(Asked(past, history.items[last], candidates))
    return requests


@torch.no_grad()
def cold_ranks(
    ranker: Ranker,
    requests: list[Asked],
    catalogue: Catalogue,
    seq_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) rank of each target among its candidates, ties for it and ties against it."""
    best, worst = [], []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        histories = [asked.history for asked in part]
        scores = ranker.score(history_batch(histories, catalogue, seq_length))
        among = torch.full_like(scores, -torch.inf)
        for row, asked in enumerate(part):
            among[row, asked.candidates] = scores[row, asked.candidates]
        targets = torch.tensor([[asked.target] for asked in part])  # (B, 1)
        last = ranks(among, targets)[:, 0]
        ties = (among == among.gather(1, targets)).sum(1)
        worst.append(last)
        best.append(last + 1 - ties)
    return torch.cat(best).numpy(), torch.cat(worst).numpy()


def answers(
    ranker: Ranker, here: World, catalogue: Catalogue, seq_length: int
) -> dict[str, np.ndarray]:
    """METRIC of each request, question by question; none for an empty history if the ranker has no
    start.

    Items with equal scores, such as those unknown to a baseline, have no order: the mean over all
    orders counts.
    """
    found = {}
    for name, requests in here.requests.items():
        if not len(requests[0].history.items) and not ranker.starts:
            continue
        best, worst = cold_ranks(ranker, requests, catalogue, seq_length)
        each = per_request(np.arange(1, worst.max() + 1)[:, None])[METRIC]
        gains = np.append(0.0, each.cumsum())  # of all ranks up to each
        found[name] = (gains[worst] - gains[best - 1]) / (worst - best + 1)
    return found


def with_items(known: Dataset, catalogue: Catalogue) -> Dataset:
    """The known interactions, with the items of a larger catalogue."""
    larger = dataclasses.replace(catalogue, users=known.catalogue.users)
    ids = known.catalogue.items.id_array(known.items)
    return known.replace(catalogue=larger, items=larger.items.index(ids))


def measured(
    here: World, settings: Settings, numbers: list[int], work: Path
) -> Values:
    """METRIC of each question and row; baselines have one seed."""
    data = with_items(here.known, here.whole.catalogue)
    length = settings.model.seq_length
    values: Values = {}
    for name, build in BASELINES.items():
        found = answers(build(data), here, data.catalogue, length)
        collect(values, name, found)
    for seed in numbers:
        print(f"seed {seed}", flush=True)
        model, *_ = trained(settings.replace(seed=seed), here.known, work)
        larger = for_catalogue(model, data.catalogue).frozen()
        found = answers(larger, here, data.catalogue, length)
        collect(values, PRESET, found)
    return values


def _parser():
    parser = training_parser(__doc__, "cold-start", "1")
    parser.add_argument(
        "--draw",
        type=int,
        default=2,
        choices=range(DRAWS),
        help="which items and users (settings were chosen on draws 0 and 1)",
    )
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags, rest = _parser().parse_known_args(argv)
    settings = parse_settings(rest, "quick")
    # The same steps for all, whatever else the machine does.
    settings = settings.replace(max_minutes=0.0)
    here = world(settings, flags.draw)
    check_full_ranking(
        settings, here.whole, protocol="leave_one_out", model="enhanced"
    )
    result = summary(measured(here, settings, flags.seeds, flags.work), PRESET)
    asked = here.requests
    note = (
        f"{here.whole.name}: {len(here.new_items)} items and {USERS:.0%} of the users (draw "
        f"{flags.draw}), unseen in training; {len(asked[NEWEST]):,} new users, "
        f"{len(asked['among new items']):,} users asked for a new item; {METRIC}, full "
        f"ranking of {len(here.known.catalogue.items.ids):,} known items where not said "
        f"otherwise, what is known left out, items of equal score in all orders; training holds "
        f"what known users had after a new item; {MEANING}, mean of {len(flags.seeds)} seeds; "
        f"{here.whole.note}"
    )
    names = [*BASELINES, PRESET]
    rows = []
    for question, of_row in result.items():
        cells = [marked_cell(of_row.get(name)) for name in names]
        rows.append([question, *cells])
    table = "New users, new items", note, ["asked", *names], rows
    content = {"questions": result, "settings": settings.recorded()}
    write_results(flags.results, [table], content)


if __name__ == "__main__":
    sys.exit(run_command(main))
