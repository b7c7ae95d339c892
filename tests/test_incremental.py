"""Going on with a model against training it again: who is asked for what, and that nothing later
trains.
"""

import datetime
import json

import numpy as np
import pytest

from ablations import incremental
from baselines.popularity import Popularity
from settings import Settings
from support.errors import UserError, run_command
from tests.conftest import TINY_MODEL, films, write_ml_1m


@pytest.fixture(scope="module")
def dates(tiny):
    """Four dates that cut the tiny world's interactions into fifths."""
    times = np.quantile(tiny.interactions["time"], [0.2, 0.4, 0.6, 0.8])
    found = [
        datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(
            "%Y-%m-%d"
        )
        for time in times
    ]
    assert len(set(found)) == 4
    return found


def seconds(date: str) -> int:
    return int(
        datetime.datetime.fromisoformat(date + "T00:00+00:00").timestamp()
    )


def test_each_round_trains_on_the_past_and_asks_for_what_follows(
    tiny, dates, monkeypatch
):
    """By hand, from the table of ratings."""
    monkeypatch.setattr("splits.MOST_TARGETS", 1000)
    settings = Settings().replace(
        dataset="synthetic",
        protocol="global_time",
        min_item_count=1,
        min_user_count=1,
    )
    found = incremental.rounds(tiny, settings, dates)
    assert [here.date for here in found] == dates[1:3]
    table = tiny.interactions
    for number, here in enumerate(found):
        before, now, until = (
            seconds(date) for date in dates[number : number + 3]
        )
        for data, end in ((here.older, before), (here.newer, now)):
            assert (
                len(data.training_rows())
                == len(data.items)
                == (table["time"] < end).sum()
            )
            assert data.times.max() < end
        requests = here.asked.split.requests["test"]
        month = table[(table["time"] >= now) & (table["time"] < until)]
        starts = table.groupby("user")["time"].min()
        # nobody can be asked for the first interaction of all
        firsts = (starts[starts >= now] < until).sum()
        assert len(requests) == len(month) - firsts
        assert here.asked.times[requests.target_rows].min() >= now
        assert here.asked.times.max() < until
        groups = members(here)
        assert set(groups["all"]) <= set(month["user"])
        for name, low, high in (
            ("known to the old model", 0, before),
            ("joined before the renewal", before, now),
            ("joined after the renewal", now, until),
        ):
            people = starts[(starts >= low) & (starts < high)].index
            assert set(groups.get(name, [])) == set(groups["all"]) & set(
                people
            )


def members(here):
    """The ids of the users in each group."""
    requests = here.asked.split.requests["test"]
    ids = here.asked.catalogue.users.id_array(np.unique(requests.users))
    return {name: ids[among] for name, among in here.groups.items()}


def test_quality_is_each_groups_mean_of_its_users(tiny, dates, monkeypatch):
    """Popularity before the date, ranked by hand in pandas for everybody who is asked."""
    monkeypatch.setattr("splits.MOST_TARGETS", 1000)
    settings = Settings().replace(
        dataset="synthetic", protocol="global_time", min_user_count=1
    )
    here = incremental.rounds(tiny, settings, dates)[0]
    found = incremental.quality(Popularity(here.asked), here, settings)
    table = tiny.interactions.sort_values(["user", "time"], kind="stable")
    table = table[table["time"] < seconds(dates[2])]
    counts = (
        table[table["time"] < seconds(dates[1])]["item"]
        .value_counts()
        .reindex(table["item"].unique(), fill_value=0)
    )
    of_people: dict[int, list[float]] = {}
    for user, rows in table.groupby("user"):
        films, times = rows["item"].tolist(), rows["time"].tolist()
        for place in range(1, len(films)):
            if times[place] >= seconds(dates[1]):
                rivals = counts.drop(films[:place])
                # ties against it, itself counted
                rank = int((rivals >= counts[films[place]]).sum())
                of_people.setdefault(user, []).append(
                    1 / np.log2(1 + rank) if rank <= 10 else 0.0
                )
    groups = members(here)
    assert set(found) == {f"{here.date} {name}" for name in groups}
    for name, people in groups.items():
        assert found[f"{here.date} {name}"] == pytest.approx(
            [np.mean(of_people[user]) for user in sorted(people)]
        )


def test_the_command_measures_each_row_and_trains_nothing_twice(
    tiny, dates, tmp_path
):
    data = write_ml_1m(tmp_path / "data", films())
    small = [
        f"--{name}={value}"
        for name, value in {
            **TINY_MODEL,
            "data_dir": data,
            "max_epochs": 1,
            "device": "cpu",
            "precision": "fp32",
        }.items()
    ]
    command = [
        "--seeds",
        "2",
        "--dates",
        *dates,
        "--tuning_epochs",
        "1",
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "results"),
        *small,
    ]
    assert run_command(incremental.main, command) == 0
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    assert found["results"]
    written = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "work").glob("*/best/checkpoint.json")
    }
    # three dates trained, two of them gone on to as well
    assert len(written) == 2 * (3 + 2)
    assert run_command(incremental.main, command) == 0
    assert written == {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "work").glob("*/best/checkpoint.json")
    }
    assert (
        json.loads((tmp_path / "results" / "results.json").read_text())
        == found
    )
    # Another base is another chain: no fine-tuned model of the older one is taken for its own.
    other = [*command, "--learning_rate", "0.01", "--seeds", "1"]
    assert run_command(incremental.main, other) == 0
    trained = list((tmp_path / "work").glob("*/best/checkpoint.json"))
    assert len(trained) == len(written) + (3 + 2)


@pytest.mark.parametrize(
    "wrong",
    [
        ["2000-01-01", "2000-02-01"],
        ["2000-01-01", "2000-03-01", "2000-02-01"],
        ["2000-01-01", "soon", "2000-02-01"],
        ["2000-10", "2000-11", "2000-12"],
    ],
)
def test_dates_that_make_no_round_are_refused(wrong, capsys):
    assert run_command(incremental.main, ["--dates", *wrong]) == 2
    assert "--dates" in capsys.readouterr().err


def test_a_span_without_interactions_is_refused(tiny):
    settings = Settings().replace(dataset="synthetic", protocol="global_time")
    last = datetime.datetime.fromtimestamp(
        int(tiny.interactions["time"].max()) + 10**7, datetime.UTC
    )
    dates = ["2001-01-01", last.strftime("%Y-%m-%d"), "2100-01-01"]
    with pytest.raises(UserError, match="nobody has a history"):
        incremental.rounds(tiny, settings, dates)
