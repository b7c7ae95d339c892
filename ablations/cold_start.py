"""Users and items that training never saw: `python -m ablations.cold_start --seeds 3`

A twentieth of the items and a fifth of the users are drawn, and every interaction of either taken
out. Two models train on the rest, for each seed: the preset, and the same without its means for
newcomers (MEANS). Three questions:

    new users    those taken out, of whom n interactions are known (0, 1, 2, 5), are asked for the next one: after their
                 first n ('first'), as when somebody joins, or after the n before their last one ('last'), as when a
                 past is lost; all items that training knows are ranked but for those n
    new items    users of the training part are asked for the last new item that they had, among the new items that they
                 had not yet, and among all
    warm         the test items of the users of the training part: what the means for newcomers cost the others

beside popularity, popularity among similar users, nearest neighbours by column, and beside what
goes by the items that others had together or in turn. Any flag of trainer.py may follow and holds
for both models.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.once import trained
from baselines.neighbours import ColumnNeighbours, ease, item_knn, markov_chain
from baselines.popularity import GroupPopularity, Popularity, group_columns
from batches import History, history_batch
from command_line import parse_command_line
from data_processor import process
from dataset import UNKNOWN, Catalogue, Dataset
from evaluation.metrics import bootstrap_interval, per_request, ranks
from evaluation.protocols import Ranker, filters_seen, target_ranks
from evaluation.report import cell, print_table, write_tables
from evaluation.significance import compare, compare_over_seeds, holm, mark
from readers import read
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser, seeds
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

ITEMS, USERS = 0.05, 0.2
KNOWN = (0, 1, 2, 5)  # interactions of a new user
# what the preset has for newcomers, off
MEANS: dict[str, Any] = {"start_token": False, "late_start_share": 0.0}
PLAIN, MADE = "preset without its means", "preset"
METRIC = "NDCG@10"
BATCH = 128
BASELINES: dict[str, Callable[[Dataset], Ranker]] = {
    "popularity": Popularity,
    "popularity in the group": GroupPopularity,
    "column neighbours": ColumnNeighbours,
    "Markov chain": partial(markov_chain, reach=30, backoff=30.0, decay=0.7),
    "ItemKNN": partial(item_knn, neighbours=200, shrinkage=0.0, decay=0.6),
    "EASE": partial(ease, regularisation=1000.0, decay=0.8),
}
DRAWS = int(1 / USERS)  # that share no user and no item
Values = dict[str, dict[str, np.ndarray]]  # question -> row -> (S, Q)


@dataclasses.dataclass(frozen=True)
class ColdRequests:
    """What users are asked. Q requests; rows are those of the whole catalogue."""

    histories: list[History]
    targets: np.ndarray  # (Q,) rows of items
    candidates: list[np.ndarray]  # of each request, the target among them


@dataclasses.dataclass(frozen=True)
class World:
    """What is known, and what is asked; rows are those of the whole catalogue but in `known`."""

    whole: Dataset
    known: Dataset  # without the new items and users
    new_items: np.ndarray  # rows of items
    requests: dict[str, ColdRequests]


def world(settings: Settings, number: int) -> World:
    """New items and users, those of one of DRAWS draws. Raises `UserError` where nothing can be
    asked.
    """
    data = settings.data
    raw = read(data.dataset, data.data_dir, data.columns)
    whole, draw = process(raw, data), np.random.default_rng(0)
    items, users = whole.catalogue.items, whole.catalogue.users
    taken, strangers = (
        _part(draw.permutation(table.ids), share, number)
        for table, share in ((items, ITEMS), (users, USERS))
    )
    rows = raw.interactions
    kept = rows[~rows["item"].isin(taken) & ~rows["user"].isin(strangers)]
    known = process(raw.replace(kept), data, whole.catalogue)
    old = items.index(known.catalogue.items.ids)
    new = np.setdiff1d(items.index(taken), old)
    user_rows = np.sort(users.index(strangers))
    requests = {
        f"{count} {end}": new_user_requests(whole, user_rows, old, count, end)
        for end in ("first", "last")
        for count in KNOWN
    }
    asked = new_item_requests(whole, known, new)
    everything = [
        np.concatenate([np.setdiff1d(old, history.items), candidates])
        for history, candidates in zip(asked.histories, asked.candidates, strict=True)
    ]
    requests["among new items"] = asked
    requests["among all items"] = dataclasses.replace(asked, candidates=everything)
    if not all(len(part.targets) for part in requests.values()):
        raise UserError("nobody is left to ask; use a larger data set")
    return World(whole, known, new, requests)


def _part(ids: np.ndarray, share: float, number: int) -> np.ndarray:
    size = max(1, int(share * len(ids)))
    return ids[number * size : (number + 1) * size]


def new_user_requests(
    whole: Dataset, users: np.ndarray, items: np.ndarray, count: int, end: str
) -> ColdRequests:
    """New users who are asked, among these items, for the one after their first `count`
    interactions with them, or after the `count` before their last one."""
    histories, targets, candidates = [], [], []
    for user in users:
        rows = np.arange(whole.offsets[user], whole.offsets[user + 1])
        rows = rows[np.isin(whole.items[rows], items)]
        if len(rows) <= max(KNOWN):
            continue
        chosen = rows[: count + 1] if end == "first" else rows[-count - 1 :]
        history = history_at(whole, user, chosen[:-1])
        histories.append(
            dataclasses.replace(history, user=UNKNOWN, whole=end == "first")
        )
        targets.append(whole.items[chosen[-1]])
        candidates.append(np.setdiff1d(items, history.items))
    return ColdRequests(histories, np.array(targets), candidates)


def new_item_requests(whole: Dataset, known: Dataset, new: np.ndarray) -> ColdRequests:
    """Requests for the items `new` (rows of the whole catalogue) by the users of the data without
    them.
    """
    is_new = np.zeros(len(whole.catalogue.items), dtype=bool)
    is_new[new] = True
    own_rows = known.catalogue.users.index(whole.catalogue.users.ids)
    histories, targets, candidates = [], [], []
    for user, own in zip(whole.catalogue.users.rows, own_rows, strict=True):
        rows = np.arange(whole.offsets[user], whole.offsets[user + 1])
        asked = rows[is_new[whole.items[rows]]]
        if own == UNKNOWN or not len(asked):
            continue
        past = rows[(rows < asked[-1]) & ~is_new[whole.items[rows]]]
        if not len(past):
            continue
        token = own if known.train_lengths[own] else UNKNOWN
        histories.append(dataclasses.replace(history_at(whole, user, past), user=token))
        targets.append(whole.items[asked[-1]])
        candidates.append(np.setdiff1d(new, whole.items[asked[:-1]]))
    return ColdRequests(histories, np.array(targets), candidates)


def history_at(data: Dataset, user: int, rows: np.ndarray) -> History:
    """Some interactions of a user, at an unknown time."""
    columns = {name: values[rows] for name, values in data.columns.items()}
    return History(
        data.items[rows],
        data.times[rows],
        columns,
        user,
        data.catalogue.users.take(user),
    )


@torch.no_grad()
def cold_ranks(
    ranker: Ranker, requests: ColdRequests, catalogue: Catalogue, seq_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) rank of each target among its candidates, ties for it and ties against it."""
    best, worst = [], []
    for start in range(0, len(requests.targets), BATCH):
        part = slice(start, start + BATCH)
        scores = ranker.score(
            history_batch(requests.histories[part], catalogue, seq_length)
        )
        among = torch.full_like(scores, -torch.inf)
        for row, candidates in enumerate(requests.candidates[part]):
            among[row, candidates] = scores[row, candidates]
        targets = torch.from_numpy(requests.targets[part])[:, None]  # (B, 1)
        last = ranks(among, targets)[:, 0]
        ties = (among == among.gather(1, targets)).sum(1)
        worst.append(last)
        best.append(last + 1 - ties)
    return torch.cat(best).numpy(), torch.cat(worst).numpy()


def answers(
    ranker: Ranker, here: World, catalogue: Catalogue, seq_length: int
) -> dict[str, np.ndarray]:
    """NDCG@10 of each request, question by question; none where nothing is known and the ranker
    has no start.

    Of items with equal scores, as those of which a baseline knows nothing, any order may be
    meant: its mean over all.
    """
    found = {}
    for name, requests in here.requests.items():
        if not len(requests.histories[0].items) and not ranker.starts:
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
    here: World, settings: dict[str, Settings], numbers: list[int], work: Path
) -> Values:
    """NDCG@10 of each question and row; baselines have one seed."""
    data = with_items(here.known, here.whole.catalogue)
    found: Values = {name: {} for name in (*here.requests, "warm")}
    length = settings[PLAIN].model.seq_length
    for name, build in BASELINES.items():
        if build is GroupPopularity and not group_columns(data):
            continue
        for question, values in answers(
            build(data), here, data.catalogue, length
        ).items():
            found[question][name] = values[None]
    for name, own in settings.items():
        runs = []
        for seed in numbers:
            print(f"{name}, seed {seed}", flush=True)
            model, *_ = trained(own.replace(seed=seed), here.known, work)
            warm = target_ranks(model.frozen(), here.known, "test", length, own.eval)
            larger = model.for_catalogue(data.catalogue).frozen()
            runs.append(
                {
                    **answers(larger, here, data.catalogue, length),
                    "warm": per_request(warm)[METRIC],
                }
            )
        for question in runs[0]:
            found[question][name] = np.stack([run[question] for run in runs])
    return found


def summary(found: Values, against: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Question -> row -> users, mean, interval over users, each seed's mean, and the 'gain' of
    the row `against` over it, its p-value corrected for all that are tested (Holm)."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    gains = []
    for question, rows in found.items():
        result[question] = {}
        for name, values in rows.items():
            low, high = bootstrap_interval(values.mean(0))
            row = {
                "users": values.shape[1],
                "mean": float(values.mean()),
                "low": low,
                "high": high,
                "seeds": values.mean(1).tolist(),
            }
            if name != against:
                ours = rows[against]
                paired = len(values) == len(ours) > 1 and values.shape[1] > 1
                gain = (
                    compare_over_seeds(ours, values)
                    if paired
                    else compare(ours, values)
                )
                row["gain"] = {
                    part: getattr(gain, part)
                    for part in ("difference", "low", "high", "p_value")
                }
                gains.append(row["gain"])
            result[question][name] = row
    for gain, p_value in zip(
        gains, holm([gain["p_value"] for gain in gains]), strict=True
    ):
        gain["p_value"] = p_value
    return result


def marked_cell(row: dict[str, Any] | None) -> str:
    """A row's figure as tables show it."""
    if row is None:
        return ""
    return cell(row, mark(row["gain"]["p_value"]) if "gain" in row else "")


def full_ranking_alone(settings: Settings, data: Dataset) -> None:
    """Raises `UserError` for settings under which the notes of these tables would not be true."""
    if settings.train.teacher or settings.train.start_from:
        raise UserError(
            "what the models of this table begin with is not to be chosen: drop --teacher and --start_from"
        )
    full = settings.eval.candidates == "full" and filters_seen(settings.eval, data)
    if settings.model.query_time != "unknown" or not full:
        raise UserError(
            "these tables rank all items but those of the history, at an unknown time: drop --query_time and "
            "--candidates, and give --filter_seen yes"
        )


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on."""
    return {
        name: value
        for name, value in settings.to_dict().items()
        if name not in BOOKKEEPING
    }


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "--seeds",
        type=seeds,
        default=[42],
        metavar="N",
        help="how many: 42, 43, ... (default: 1)",
    )
    add(
        "--draw",
        type=int,
        default=2,
        choices=range(DRAWS),
        help="which items and users; no two draws share any (default: %(default)s; the means for newcomers were chosen "
        "on draws 0 and 1)",
    )
    add(
        "--work",
        type=Path,
        default=Path("runs/cold_start"),
        help="trained models (default: %(default)s)",
    )
    add(
        "--results",
        type=Path,
        default=Path("runs/results/cold-start"),
        help="(default: %(default)s)",
    )
    flags, rest = parser.parse_known_args(argv)
    settings, _ = parse_command_line(rest, "", preset="quick")
    if settings.data.protocol != "leave_one_out" or settings.model.model != "enhanced":
        raise UserError(
            "cold_start asks the enhanced model under --protocol leave_one_out; drop the other flags"
        )
    if not (settings.model.start_token and settings.train.late_start_share):
        raise UserError(
            "cold_start asks what a preset's means for newcomers give: drop --no-start_token and "
            "--late_start_share 0"
        )
    # the same steps for all, whatever else the machine does
    settings = settings.replace(max_minutes=0.0)
    here = world(settings, flags.draw)
    full_ranking_alone(settings, here.whole)
    both = {PLAIN: settings.replace(**MEANS), MADE: settings}
    result = summary(measured(here, both, flags.seeds, flags.work), MADE)
    users, items = (
        len(here.requests[name].targets) for name in ("0 first", "among new items")
    )
    note = (
        f"{here.whole.name}: {len(here.new_items)} items and {USERS:.0%} of the users (draw {flags.draw}), unseen in "
        f"training; {users:,} new users, {items:,} users asked for a new item, {here.known.num_users:,} warm users "
        f"(test of leave-one-out, history left out); {METRIC}, full ranking of "
        f"{len(here.known.catalogue.items.ids):,} known items where not said otherwise, what is known left out, items "
        f"of equal score in all orders; training holds what known users had after a new item; 95 % bootstrap "
        f"intervals over users, mean of {len(flags.seeds)} seeds; difference to the preset: paired, Holm, * .05 ** "
        f".01 *** .001, between the two models over users and seeds; {here.whole.note}"
    )
    rows = [
        name
        for name in (*BASELINES, PLAIN, MADE)
        if any(name in of_row for of_row in result.values())
    ]
    cells = [
        [question, *(marked_cell(of_row.get(name)) for name in rows)]
        for question, of_row in result.items()
    ]
    print_table("New users, new items", note, ["asked", *rows], cells)
    write_tables(flags.results / "table.md", note, ["asked", *rows], cells)
    write_json(
        flags.results / "results.json",
        {
            "note": note,
            "questions": result,
            "git_commit": git_commit(),
            "settings": {name: recorded(own) for name, own in both.items()},
        },
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
