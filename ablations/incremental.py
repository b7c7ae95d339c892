"""Going on with a model, or training it again? `python -m ablations.incremental --seeds 3`

At each date but the first, the model of the date before has three futures: it stays as it was; it goes on for a few
epochs with all that is known by now, new films and people included (as `trainer.py --start_from` does); or a new one is
trained from nothing. All are asked for what people watched until the next date, histories growing up to each target,
films and people that a model does not know in it by what is known beside them. `warm` are the people whom the oldest of
the three knows: does it forget them? Nothing is selected in these trainings, so no interaction is held out of them.

Any flag of trainer.py may follow and holds for all trainings.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ablations.cold_start import full_ranking_alone, summary
from ablations.once import trained
from baselines.popularity import Popularity
from command_line import parse_command_line
from data_processor import SequenceData, process
from evaluation.metrics import per_person
from evaluation.protocols import Ranker, target_ranks
from evaluation.report import print_table, table_text
from evaluation.significance import mark
from readers import read_interactions
from readers.interactions import Interactions
from settings import BOOKKEEPING, Settings
from splits import MOST_TARGETS, Requests, Split, spread
from support.arguments import ArgumentParser, seeds
from support.checkpoint import write_json
from support.errors import UserError, run_command
from support.tracking import git_commit

DATES = ("2000-10-01", "2000-11-01", "2000-12-01", "2001-01-01", "2001-02-01")
TOGETHER = "all dates"
POPULARITY, OLDER, TUNED, AGAIN = "popularity", "as it was", "fine-tuned", "trained again"
METRIC = "NDCG@10"
Values = dict[str, np.ndarray]  # group of people -> (P,) metric of each


@dataclasses.dataclass(frozen=True)
class Round:
    """What was known at the date before and at this one, and who is asked for what until the next one."""

    date: str
    older: SequenceData
    newer: SequenceData
    asked: SequenceData
    groups: dict[str, np.ndarray]  # name -> ids of people


def rounds(interactions: Interactions, settings: Settings, dates: list[str]) -> list[Round]:
    """A round for each three dates in a row. Raises `UserError` where nothing trains or nobody is asked."""
    ends = [seconds_of(date) for date in dates]
    data = [process(_before(interactions, end), settings.data) for end in ends]
    result = []
    for place, date in enumerate(dates[1:-1], start=1):
        older, newer = (_split_at(data[part], ends[part]) for part in (place - 1, place))
        asked = _split_at(data[place + 1], ends[place])
        people = asked.catalogue.user_ids[np.unique(asked.split.requests["test"].people)]
        if not len(people):
            raise UserError(f"--dates: nobody has a history and an interaction between {date} and {dates[place + 1]}")
        known, joined = (np.isin(people, part.catalogue.user_ids) for part in (older, newer))
        groups = {"all": people, "warm": people[known], "joined between": people[joined & ~known],
                  "joined since": people[~joined]}
        result.append(Round(date, older, newer, asked, {name: ids for name, ids in groups.items() if len(ids)}))
    return result


def seconds_of(date: str) -> int:
    """Midnight UTC of a day such as 2000-11-01, in seconds since 1970. Raises `UserError` for anything else."""
    try:
        day = datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UserError(f"--dates: {error}; write 2000-11-01") from error
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def _before(interactions: Interactions, end: int) -> Interactions:
    ratings = interactions.ratings
    return dataclasses.replace(interactions, ratings=ratings[ratings["timestamp"] < end])


def _split_at(data: SequenceData, time: int) -> SequenceData:
    """The same data: what is before `time` (s) trains, what is not is asked for, at most MOST_TARGETS of a person."""
    people = data.people
    rows = np.flatnonzero((data.timestamps >= time) & (np.arange(len(people)) > data.offsets[people]))
    rows = spread(rows, people, MOST_TARGETS)
    known = data.offsets[:-1] + np.bincount(people, data.timestamps < time, data.num_users).astype(np.int64)
    return dataclasses.replace(data, split=Split("global_time", known, {"test": Requests(people[rows], rows)},
                                                 "a round of ablations/incremental.py"))


def quality(ranker: Ranker, here: Round, settings: Settings) -> Values:
    """METRIC of those who are asked, in each group."""
    requests = here.asked.split.requests["test"]
    rank = target_ranks(ranker, here.asked, "test", settings.model.seq_length, settings.eval)
    values = per_person(rank, requests.people)[METRIC]
    people = here.asked.catalogue.user_ids[np.unique(requests.people)]
    return {name: values[np.isin(people, ids)] for name, ids in here.groups.items()}


def measured(chain: list[Round], settings: Settings, tuning: dict[str, Any], numbers: list[int],
             work: Path) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], dict[str, dict[str, float]]]:
    """(date -> group -> row -> (S, P) METRIC, date -> row -> seconds of training, mean over seeds)."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for here in chain:
        runs: dict[str, list[Values]] = {POPULARITY: [quality(Popularity(here.asked), here, settings)],
                                         OLDER: [], TUNED: [], AGAIN: []}
        spent = {TUNED: 0.0, AGAIN: 0.0}
        for seed in numbers:
            print(f"{here.date}, seed {seed}", flush=True)
            seeded = settings.replace(seed=seed)
            older = trained(seeded, here.older, work, validate=False)
            tuned = trained(seeded.replace(start_from=str(older[-1]), **tuning), here.newer, work, validate=False)
            again = trained(seeded, here.newer, work, validate=False)
            for name, (model, record, _), data in ((OLDER, older, here.older), (TUNED, tuned, here.newer),
                                                (AGAIN, again, here.newer)):
                grown = model.for_catalogue(data.catalogue, here.asked.catalogue)
                runs[name].append(quality(grown, here, seeded))
                if name in spent:
                    spent[name] += record["seconds"] / len(numbers)
        found[here.date] = {group: {name: np.stack([run[group] for run in of_row]) for name, of_row in runs.items()}
                            for group in here.groups}
        seconds[here.date] = spent
    if len(chain) > 1:
        groups = {group: list(of_row) for of_date in found.values() for group, of_row in of_date.items()}
        together = {group: {row: np.concatenate([of_date[group][row] for of_date in found.values() if group in of_date],
                                                axis=1) for row in rows} for group, rows in groups.items()}
        found, seconds = {**found, TOGETHER: together}, {**seconds, TOGETHER: {
            name: sum(spent[name] for spent in seconds.values()) for name in (TUNED, AGAIN)}}
    return found, seconds


def main(argv: list[str]) -> None:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--seeds", type=seeds, default=[42], metavar="N", help="how many: 42, 43, ... (default: 1)")
    parser.add_argument("--dates", nargs="+", default=list(DATES), metavar="DATE",
                        help="UTC; three or more, a round for each three in a row (default: %(default)s)")
    parser.add_argument("--tuning_epochs", type=int, default=24, help="(default: %(default)s)")
    parser.add_argument("--tuning_learning_rate", type=float, default=5e-3, help="(default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/incremental"),
                        help="trained models (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/incremental"), help="(default: %(default)s)")
    flags, rest = parser.parse_known_args(argv)
    settings, _ = parse_command_line(rest, "", preset="quick")
    settings = settings.replace(protocol="global_time", max_minutes=0.0)
    full_ranking_alone(settings)
    if len(flags.dates) < 3 or any(later <= date for date, later in itertools.pairwise(map(seconds_of, flags.dates))):
        raise UserError("--dates needs three dates or more, each later than the one before it")
    interactions = read_interactions(settings.data.dataset, settings.data.data_dir)
    chain = rounds(interactions, settings, flags.dates)
    tuning = {"max_epochs": flags.tuning_epochs, "learning_rate": flags.tuning_learning_rate}
    found, seconds = measured(chain, settings, tuning, flags.seeds, flags.work)
    note = (f"{interactions.name}: at each date all that is before it trains, for {settings.train.max_epochs} epochs "
            f"or, from the weights of the date before, for {flags.tuning_epochs}; asked for up to "
            f"{MOST_TARGETS} interactions of each person until the next date (last: "
            f"{flags.dates[-1]}), {METRIC}, means over each person's first, full ranking, history left out, ties "
            f"against the target, request time unknown; 95 % bootstrap intervals over people, mean of "
            f"{len(flags.seeds)} seeds; difference to the fine-tuned model: paired, Holm, * .05 ** .01 *** .001"
            f"{', over people and seeds' if len(flags.seeds) > 1 else ''}; {TOGETHER}: who is asked at two counts twice"
            f"{'; ' + interactions.note if interactions.note else ''}")
    flat = summary({f"{date} {group}": of_row for date, of_date in found.items() for group, of_row in of_date.items()},
                   TUNED)
    report(flags.results, note, {date: {group: flat[f"{date} {group}"] for group in of_date}
                                 for date, of_date in found.items()}, seconds, settings)


def report(folder: Path, note: str, result: dict[str, dict[str, dict[str, dict[str, Any]]]],
           seconds: dict[str, dict[str, float]], settings: Settings) -> None:
    """Print the table and write it, with all figures and the settings."""
    rows = [POPULARITY, OLDER, TUNED, AGAIN]
    header, cells = ["renewed on", "asked", *rows], []
    for date, of_group in result.items():
        for group, of_row in of_group.items():
            marks = {name: mark(of_row[name].get("gain", {}).get("p_value", 1.0)) for name in rows}
            cells.append([date, f"{group}\n{of_row[TUNED]['people']:,} people", *(
                f"{of_row[name]['mean']:.4f}{marks[name]}\n{of_row[name]['low']:.3f}-{of_row[name]['high']:.3f}"
                for name in rows)])
        cells.append([date, "seconds of training", "", "", *(f"{seconds[date][name]:.0f}" for name in (TUNED, AGAIN))])
    print_table("Going on, or training again", note, header, cells)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(f"{note}\n\n{table_text(header, cells)}", encoding="utf-8")
    write_json(folder / "results.json", {"note": note, "dates": result, "seconds": seconds, "git_commit": git_commit(),
                                         "settings": {key: value for key, value in settings.to_dict().items()
                                                      if key not in BOOKKEEPING}})


if __name__ == "__main__":
    sys.exit(run_command(main))
