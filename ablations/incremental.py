"""Fine-tuning a model, or training it again? `python -m ablations.incremental --seeds 3`

At each date but the first, three models are compared: the model of the date before; that model
fine-tuned for a few epochs on all data so far, with new items and users (as `trainer.py
--start_from` does); and a new model trained on all data so far. Targets are the interactions until
the next date, and histories grow up to each target. A model represents items and users unknown to
it by their columns. Users known to the old model have a row of their own: are they forgotten?
Nothing is selected in these trainings, so no interaction is held out.

Any flag of trainer.py may follow and holds for all trainings.
"""

import dataclasses
import datetime
import sys
from pathlib import Path

import numpy as np

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
from baselines.popularity import Popularity
from command_line import parse_settings
from data_processor import process
from dataset import Dataset
from evaluation.metrics import METRIC, per_user
from evaluation.protocols import Ranker, target_ranks
from growth import for_catalogue
from readers import read
from readers.raw import RawData
from settings import Settings
from splits import MOST_TARGETS, Split, ends_before, spread_requests
from support.arguments import whole
from support.errors import require, run_command

DATES = ("2000-10-01", "2000-11-01", "2000-12-01", "2001-01-01", "2001-02-01")
POPULARITY = "popularity"
OLDER, TUNED, AGAIN = "old model", "fine-tuned", "trained again"
ROWS = (POPULARITY, OLDER, TUNED, AGAIN)


@dataclasses.dataclass(frozen=True)
class Round:
    """The data known at the date before and at this one, and the requests until the next one.
    """

    date: str
    older: Dataset
    newer: Dataset
    asked: Dataset
    groups: dict[str, np.ndarray]  # name -> (P,) which of those asked


def rounds(
    raw: RawData, settings: Settings, dates: list[datetime.date]
) -> list[Round]:
    """A round for each three dates in a row. Raises `UserError` if a training part or the requests
    are empty.
    """
    require(
        "time" in raw.interactions,
        "incremental needs times, which these data lack",
    )
    whole = process(raw, settings.data)
    ends = np.array(dates, dtype="datetime64[s]").astype(np.int64)
    times = raw.interactions["time"]
    data = [
        process(
            raw.replace(raw.interactions[times < end]),
            settings.data,
            whole.catalogue,
        )
        for end in ends
    ]
    training = [_split_at(*part) for part in zip(data, ends, strict=True)]
    result = []
    for place, date in enumerate(dates[1:-1], start=1):
        older, newer = training[place - 1 : place + 1]
        asked = _split_at(data[place + 1], ends[place])
        users = asked.catalogue.users.id_array(
            np.unique(asked.split.requests["test"].users)
        )
        require(
            len(users),
            f"--dates: nobody has a history and an interaction between {date} and "
            f"{dates[place + 1]}",
        )
        known, joined = (
            part.catalogue.users.index(users) > 0 for part in (older, newer)
        )
        groups = {
            "all": np.ones(len(users), dtype=bool),
            "known to the old model": known,
            "joined before the renewal": joined & ~known,
            "joined after the renewal": ~joined,
        }
        groups = {name: among for name, among in groups.items() if among.any()}
        result.append(Round(str(date), older, newer, asked, groups))
    return result


def _split_at(data, time):
    """The same data, with interactions before `time` (s) for training and those after it as
    targets, at most MOST_TARGETS of a user.
    """
    ends = ends_before(data.offsets, data.times, time)
    requests = {"test": spread_requests(data.offsets, data.times >= time)}
    description = "a round of ablations/incremental.py"
    return data.replace(
        split=Split("global_time", ends, requests, description)
    )


def quality(
    ranker: Ranker, here: Round, settings: Settings
) -> dict[str, np.ndarray]:
    """METRIC of the requests, by date and group."""
    requests = here.asked.split.requests["test"]
    rank = target_ranks(
        ranker, here.asked, "test", settings.model.seq_length, settings.eval
    )
    values = per_user(rank, requests.users)[METRIC]
    return {
        f"{here.date} {name}": values[among]
        for name, among in here.groups.items()
    }


def measured(
    chain: list[Round],
    settings: Settings,
    tuning_epochs: int,
    numbers: list[int],
    work: Path,
) -> tuple[Values, dict[str, dict[str, float]]]:
    """(metric of each date and group; date -> row -> seconds of training, mean over seeds)."""
    values: Values = {}
    seconds: dict[str, dict[str, float]] = {}
    for here in chain:
        popularity = quality(Popularity(here.asked), here, settings)
        collect(values, POPULARITY, popularity)
        spent = seconds[here.date] = {TUNED: 0.0, AGAIN: 0.0}
        for seed in numbers:
            print(f"{here.date}, seed {seed}", flush=True)
            seeded = settings.replace(seed=seed)
            older = trained(seeded, here.older, work)
            going_on = seeded.replace(
                start_from=str(older[-1]), max_epochs=tuning_epochs
            )
            models = {
                OLDER: older,
                TUNED: trained(going_on, here.newer, work),
                AGAIN: trained(seeded, here.newer, work),
            }
            for name, (model, record, _) in models.items():
                grown = for_catalogue(model, here.asked.catalogue)
                collect(values, name, quality(grown.frozen(), here, seeded))
                if name in spent:
                    spent[name] += record["seconds"] / len(numbers)
    return values, seconds


def _parser():
    parser = training_parser(__doc__, "incremental", "1")
    day = datetime.date.fromisoformat
    parser.add_argument(
        "--dates",
        nargs="+",
        type=day,
        default=[day(date) for date in DATES],
        metavar="DATE",
        help="UTC; three or more, a round for each three in a row",
    )
    parser.add_argument("--tuning_epochs", type=whole(1), default=24)
    return parser


def main(argv: list[str]) -> None:
    """See the module's head."""
    flags, rest = _parser().parse_known_args(argv)
    settings = parse_settings(rest, "quick")
    settings = settings.replace(protocol="global_time", max_minutes=0.0)
    require(
        len(flags.dates) >= 3 and flags.dates == sorted(set(flags.dates)),
        "--dates needs three dates or more, each later than the one before it",
    )
    data = settings.data
    raw = read(data.dataset, data.data_dir, data.columns)
    chain = rounds(raw, settings, flags.dates)
    check_full_ranking(settings, chain[0].asked)
    epochs = flags.tuning_epochs
    values, seconds = measured(
        chain, settings, epochs, flags.seeds, flags.work
    )
    note = (
        f"{raw.schema.name}: at each date all that is before it trains, for "
        f"{settings.train.max_epochs} epochs or, from the weights of the date before, for "
        f"{epochs}; asked for up to {MOST_TARGETS} interactions of each user until "
        f"the next date (last: {flags.dates[-1]}), {METRIC}, means over each user's first, full "
        f"ranking, history left out, ties against the target, request time unknown; {MEANING}, "
        f"mean of {len(flags.seeds)} seeds; {raw.schema.note}"
    )
    result = summary(values, TUNED)
    cells = []
    for asked, rows in result.items():
        users = f"{rows[TUNED]['users']:,}"
        figures = [marked_cell(rows[name]) for name in ROWS]
        cells.append([asked, users, *figures])
    for date, spent in seconds.items():
        times = [f"{spent[name]:.0f} s" for name in (TUNED, AGAIN)]
        cells.append([f"{date} training", "", "", "", *times])
    header = ["renewed on, asked", "users", *ROWS]
    content = {
        "results": result,
        "seconds": seconds,
        "settings": settings.recorded(),
    }
    table = "Going on, or training again", note, header, cells
    write_results(flags.results, [table], content)


if __name__ == "__main__":
    sys.exit(run_command(main))
