"""People and films that training never saw: `python -m ablations.cold_start --seeds 3`

A twentieth of the films and a fifth of the people are drawn, and every interaction of either taken out. Two models
train on the rest, for each seed: the preset, and the same without its means for newcomers (MEANS). Three questions:

    new people   those taken out, of whom n interactions are known (0, 1, 2, 5), are asked for the next one: after their
                 first n ('first'), as when somebody joins, or after the n before their last one ('last'), as when a
                 past is lost; all films that training knows are ranked but for those n
    new films    people of the training part are asked for the last new film that they watched, as in cold_films.py,
                 among the new films alone and among all
    warm         the test items of the people of the training part: what the means for newcomers cost the others

beside popularity, popularity among people of the same gender and age group, and nearest neighbours by genre, and beside
what goes by the films that others watched together or in turn, as tuned on the validation items of the loo-3706 board.
Any flag of trainer.py may follow and holds for both models.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ablations.cold_films import ColdRequests, cold_ranks, cold_requests, from_nothing_alone, with_films
from ablations.once import trained
from baselines.neighbours import GenreNeighbours, ease, item_knn, markov_chain
from baselines.popularity import GroupPopularity, Popularity
from batches import History
from command_line import parse_command_line
from data_processor import SequenceData, process
from evaluation.metrics import bootstrap_interval, per_request
from evaluation.protocols import Ranker, target_ranks
from evaluation.report import print_table, table_text
from evaluation.significance import compare, compare_over_seeds, holm, mark
from readers import read_interactions
from settings import BOOKKEEPING, Settings
from support.arguments import ArgumentParser, seeds
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

FILMS, PEOPLE = 0.05, 0.2
KNOWN = (0, 1, 2, 5)  # interactions of a new person
MEANS: dict[str, Any] = {"start_token": False, "late_start_share": 0.0}  # what the preset has for newcomers, off
PLAIN, MADE = "preset without its means", "preset"
METRIC = "NDCG@10"
BASELINES: dict[str, Callable[[SequenceData], Ranker]] = {
    "popularity": Popularity, "popularity in the group": GroupPopularity, "genre neighbours": GenreNeighbours,
    "Markov chain": partial(markov_chain, reach=30, backoff=30.0, decay=0.7),
    "ItemKNN": partial(item_knn, neighbours=200, shrinkage=0.0, decay=0.6),
    "EASE": partial(ease, regularisation=1000.0, decay=0.8)}
DRAWS = int(1 / PEOPLE)  # that share nobody and no film


@dataclasses.dataclass(frozen=True)
class World:
    """What is known, and what is asked; indices are those of the whole catalogue but in `known`."""

    whole: SequenceData
    known: SequenceData  # without the new films and people
    new_films: np.ndarray  # item_index
    requests: dict[str, ColdRequests]

    @property
    def known_in_whole(self) -> SequenceData:
        """What is known, with rows for the new films."""
        return with_films(self.known, self.whole.catalogue)


def world(settings: Settings, number: int) -> World:
    """New films and people, those of one of DRAWS draws. Raises `UserError` where nothing can be asked."""
    interactions = read_interactions(settings.data.dataset, settings.data.data_dir)
    whole, order = process(interactions, settings.data), np.random.default_rng(0)
    taken, strangers = (order.permutation(ids)[number * size:(number + 1) * size] for ids, size in (
        (ids, max(1, int(share * len(ids)))) for ids, share in (
            (whole.catalogue.movie_ids, FILMS), (whole.catalogue.user_ids, PEOPLE))))
    ratings = interactions.ratings
    known = process(dataclasses.replace(interactions, ratings=ratings[
        ~ratings["movie_id"].isin(taken) & ~ratings["user_id"].isin(strangers)]), settings.data)
    old = whole.catalogue.item_index(known.catalogue.movie_ids)
    new = np.setdiff1d(whole.catalogue.item_index(taken), old)
    requests = {f"{n} {end}": people_requests(whole, np.sort(whole.catalogue.user_index(strangers) - 1), old, n, end)
                for end in ("first", "last") for n in KNOWN}
    films_asked = cold_requests(whole, known, new)
    requests["among new films"] = films_asked
    requests["among all films"] = dataclasses.replace(films_asked, candidates=[
        np.concatenate([np.setdiff1d(old, history.items), candidates])
        for history, candidates in zip(films_asked.histories, films_asked.candidates, strict=True)])
    if not all(len(asked.targets) for asked in requests.values()):
        raise UserError("nobody is left to ask; use a larger data set")
    return World(whole, known, new, requests)


def people_requests(whole: SequenceData, people: np.ndarray, films: np.ndarray, count: int, end: str) -> ColdRequests:
    """Strangers (rows of the data) who are asked, among these films, for the one after their first `count`
    interactions with them, or after the `count` before their last one."""
    histories, targets, candidates = [], [], []
    for person in people:
        rows = np.arange(whole.offsets[person], whole.offsets[person + 1])
        rows = rows[np.isin(whole.items[rows], films)]
        if len(rows) <= max(KNOWN):
            continue
        *past, target = rows[:count + 1] if end == "first" else rows[-count - 1:]
        past = np.array(past, dtype=int)
        histories.append(History(whole.items[past], whole.ratings[past], whole.timestamps[past],
                                 demographics=tuple(whole.demographics[person].tolist()), whole=end == "first"))
        targets.append(whole.items[target])
        candidates.append(np.setdiff1d(films, whole.items[past]))
    return ColdRequests(histories, np.array(targets), candidates)


def answers(ranker: Ranker, asked: dict[str, ColdRequests], seq_length: int) -> dict[str, np.ndarray]:
    """NDCG@10 of each request, question by question; none where nothing is known and the ranker has no start.

    Of films with equal scores, as those of which a baseline knows nothing, any order may be meant: its mean over all.
    """
    found = {}
    for name, requests in asked.items():
        if len(requests.histories[0].items) or getattr(ranker, "starts", True):
            best, worst = cold_ranks(ranker, requests, seq_length)
            gains = per_request(np.arange(1, worst.max() + 1)[:, None])[METRIC].cumsum()  # of all ranks up to each
            found[name] = (gains[worst - 1] - np.where(best > 1, gains[best - 2], 0.0)) / (worst - best + 1)
    return found


def measured(here: World, settings: dict[str, Settings], number: list[int],
             work: Path) -> dict[str, dict[str, np.ndarray]]:
    """Question -> row -> (S, Q) NDCG@10; baselines have one seed."""
    data, found = here.known_in_whole, {name: {} for name in (*here.requests, "warm")}
    for name, build in BASELINES.items():
        for question, values in answers(build(data), here.requests, settings[PLAIN].model.seq_length).items():
            found[question][name] = values[None]
    for name, own in settings.items():
        runs = []
        for seed in number:
            print(f"{name}, seed {seed}", flush=True)
            seeded = own.replace(seed=seed)
            model, *_ = trained(seeded, here.known, work)
            warm = target_ranks(model, here.known, "test", own.model.seq_length, own.eval)
            larger = model.for_catalogue(here.known.catalogue, data.catalogue)
            runs.append({**answers(larger, here.requests, own.model.seq_length), "warm": per_request(warm)[METRIC]})
        for question in runs[0]:
            found[question][name] = np.stack([run[question] for run in runs])
    return found


def summary(found: dict[str, dict[str, np.ndarray]], against: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Question -> row -> people, mean, interval over people, each seed's mean, and the 'gain' of the row `against` over
    it, its p-value corrected for all that are tested (Holm), of (S, P) values of each row of each question."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for question, of_row in found.items():
        for name, values in of_row.items():
            low, high = bootstrap_interval(values.mean(0), 1000)
            row = {"people": values.shape[1], "mean": float(values.mean()), "low": low, "high": high,
                   "seeds": [float(value) for value in values.mean(1)]}
            if name != against:
                ours = of_row[against]
                paired = len(values) == len(ours) > 1 and values.shape[1] > 1
                gain = compare_over_seeds(ours, values) if paired else compare(ours, values)
                row["gain"] = {part: getattr(gain, part) for part in ("difference", "low", "high", "p_value")}
            result.setdefault(question, {})[name] = row
    gains = [row["gain"] for of_row in result.values() for row in of_row.values() if "gain" in row]
    for gain, p_value in zip(gains, holm([gain["p_value"] for gain in gains]), strict=True):
        gain["p_value"] = p_value
    return result


def full_ranking_alone(settings: Settings) -> None:
    """Raises `UserError` for settings under which the notes of these tables would not be true."""
    from_nothing_alone(settings)
    if settings.model.query_time != "unknown" or settings.eval.candidates != "full" or not settings.eval.filter_seen:
        raise UserError("these tables rank all films but those of the history, at an unknown time: drop --query_time, "
                        "--candidates and --no-filter_seen")


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--seeds", type=seeds, default=[42], metavar="N", help="how many: 42, 43, ... (default: 1)")
    parser.add_argument("--draw", type=int, default=2, choices=range(DRAWS),
                        help="which films and people; no two draws share any (default: %(default)s; the means "
                             "for newcomers were chosen on draws 0 and 1)")
    parser.add_argument("--work", type=Path, default=Path("runs/cold_start"),
                        help="trained models (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/cold-start"), help="(default: %(default)s)")
    flags, rest = parser.parse_known_args(argv)
    settings, _ = parse_command_line(rest, "", preset="quick")
    if settings.data.protocol != "leave_one_out" or settings.model.model != "enhanced":
        raise UserError("cold_start asks the enhanced model under --protocol leave_one_out; drop the other flags")
    full_ranking_alone(settings)
    settings = settings.replace(max_minutes=0.0)  # the same steps for all, whatever else the machine does
    here = world(settings, flags.draw)
    both = {PLAIN: settings.replace(**MEANS), MADE: settings}
    if not (settings.model.start_token and settings.train.late_start_share):
        raise UserError("cold_start asks what a preset's means for newcomers give: drop --no-start_token and "
                        "--late_start_share 0")
    found = measured(here, both, flags.seeds, flags.work)
    result = summary(found, MADE)
    people, films = (len(here.requests[name].targets) for name in ("0 first", "among new films"))
    note = (f"{here.whole.name}: {len(here.new_films)} films and {PEOPLE:.0%} of the people (draw "
            f"{flags.draw}), unseen in training; {people:,} new people, {films:,} people asked for a new film, "
            f"{here.known.num_users:,} warm people (test of leave-one-out, history left out); {METRIC}, full ranking "
            f"of {len(here.known.catalogue.movie_ids):,} known films where not said otherwise, what is known left out, "
            f"films of equal score in all orders (so popularity, which does not know new films, is chance among them); "
            f"training holds what known people watched after a new film; 95 % bootstrap intervals over people, mean of "
            f"{len(flags.seeds)} seeds; difference to the preset: paired, Holm, * .05 ** .01 *** "
            f".001, between the two models over people and seeds"
            f"{'; ' + here.whole.note if here.whole.note else ''}")
    report(flags.results, note, result, both)


def report(folder: Path, note: str, result: dict[str, dict[str, dict[str, Any]]], both: dict[str, Settings]) -> None:
    """Print the table and write it, with all figures and the settings."""
    rows = [*BASELINES, PLAIN, MADE]
    header = ["asked", *rows]

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        star = mark(row["gain"]["p_value"]) if "gain" in row else ""
        return f"{row['mean']:.4f}{star}\n{row['low']:.3f}-{row['high']:.3f}"

    cells = [[question, *(cell(of_row.get(name)) for name in rows)] for question, of_row in result.items()]
    print_table("New people, new films", note, header, cells)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(f"{note}\n\n{table_text(header, cells)}", encoding="utf-8")
    write_json(folder / "results.json", {"note": note, "questions": result, "git_commit": git_commit(), "settings": {
        name: {key: value for key, value in own.to_dict().items() if key not in BOOKKEEPING}
        for name, own in both.items()}})


if __name__ == "__main__":
    sys.exit(run_command(main))
