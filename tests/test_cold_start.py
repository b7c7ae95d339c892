"""Newcomers: nothing of them trains, the requests are what happened, ties count in all orders."""

import json

import numpy as np
import pytest
import torch

from ablations import cold_start
from command_line import parse_settings
from support.errors import run_command
from tests.conftest import TINY_MODEL, films, write_ml_1m


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The tiny world in files, and a model of seconds."""
    folder = write_ml_1m(
        tmp_path_factory.mktemp("newcomers") / "data", films()
    )
    values = {
        **TINY_MODEL,
        "data_dir": folder,
        "max_steps": 3,
        "device": "cpu",
    }
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def settings(flags):
    return parse_settings(flags, "quick")


@pytest.fixture(scope="module")
def here(settings):
    return cold_start.world(settings, 1)


def test_new_users_and_items_are_nowhere_in_training(here, tiny):
    """Neither those who are asked nor the new items; the requests are what happened, by hand."""
    items, users = here.whole.catalogue.items, here.whole.catalogue.users
    known = here.known.catalogue
    strangers = np.setdiff1d(users.ids, known.users.ids)
    new = np.setdiff1d(items.ids, known.items.ids)
    assert len(strangers) >= 5 and len(new) >= 3
    rows = tiny.interactions
    rows = rows[rows["user"].isin(strangers) & ~rows["item"].isin(new)]
    rows = rows.sort_values(["user", "time"], kind="stable")
    lists = [own["item"].tolist() for _, own in rows.groupby("user")]
    lists = [own for own in lists if len(own) > max(cold_start.KNOWN)]
    for count in cold_start.KNOWN:
        for end, name in cold_start.ENDS.items():
            requests = here.requests[f"{name}, {count} known"]
            for asked, own in zip(requests, lists, strict=True):
                place = count if end == "first" else len(own) - 1
                history = asked.history
                assert (
                    items.id_array(history.items).tolist()
                    == own[place - count : place]
                )
                assert items.id(asked.target) == own[place]
                assert history.user == 0
                assert not set(items.id_array(asked.candidates)) & set(new)
    for asked in here.requests["among all items"]:
        assert items.id(asked.target) in new
        assert not set(items.id_array(asked.history.items)) & set(new)


def test_draws_share_no_user_and_no_item(here, settings):
    other = cold_start.world(settings, 2)
    assert not set(here.new_items) & set(other.new_items)
    users = here.whole.catalogue.users.ids
    taken = [
        set(users) - set(world.known.catalogue.users.ids)
        for world in (here, other)
    ]
    assert all(taken) and not taken[0] & taken[1]


def test_items_of_equal_score_stand_in_all_orders(here):
    """A ranker without an opinion gets what random orders give on average; one with a full order
    gets its own ranks."""
    catalogue = here.whole.catalogue
    rows = len(catalogue.items)

    class Nothing:
        starts = True

        def score(self, batch):
            return torch.zeros(len(batch.lengths), rows)

    class Certain(Nothing):
        def score(self, batch):
            return torch.arange(rows).float().expand(len(batch.lengths), -1)

    found = cold_start.answers(Nothing(), here, catalogue, 12)
    exact = cold_start.answers(Certain(), here, catalogue, 12)
    for name in ("past lost, 1 known", "among all items"):
        for number, asked in enumerate(here.requests[name]):
            ranks = np.arange(1, len(asked.candidates) + 1)
            gains = (ranks <= 10) / np.log2(1 + ranks)
            assert found[name][number] == pytest.approx(gains.mean())
            rank = (asked.candidates >= asked.target).sum()
            assert exact[name][number] == pytest.approx(gains[rank - 1])


def test_the_command(flags, tmp_path, capsys):
    """Every question has an answer from every row that can give one; a second run trains nothing
    again."""
    folders = [
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "results"),
    ]
    command = ["--seeds", "2", *folders, *flags]
    assert run_command(cold_start.main, command) == 0
    path = tmp_path / "results" / "results.json"
    found = json.loads(path.read_text())["questions"]
    starting = {"popularity", "column neighbours"}
    assert set(found["just joined, 0 known"]) == {*starting, cold_start.PRESET}
    every = {*cold_start.BASELINES, cold_start.PRESET}
    assert set(found["past lost, 1 known"]) == every
    for name, row in found["past lost, 5 known"].items():
        assert len(row["seeds"]) == (2 if name == cold_start.PRESET else 1)
    capsys.readouterr()
    assert run_command(cold_start.main, command) == 0
    assert "epoch" not in capsys.readouterr().out
    assert json.loads(path.read_text())["questions"] == found
    assert str(tmp_path) not in (tmp_path / "results" / "table.md").read_text()
    for flag in (
        "--teacher",
        "--start_from",
    ):  # a model that knows what is new here
        assert (
            run_command(cold_start.main, [*command, flag, str(tmp_path)]) == 2
        )
        assert f"made with {flag} none" in capsys.readouterr().err
    assert run_command(cold_start.main, [*command, "--model", "vanilla"]) == 2
