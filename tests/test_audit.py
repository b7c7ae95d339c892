"""The audit finds planted leaks and clears what is clean."""

import numpy as np
import pandas as pd
import pytest

import batches
import training_batches
from ablations import audit
from ablations.audit import (
    repeated_order,
    suspicious,
    swap_test,
    swapped,
    training_test,
)
from data_processor import process
from dataset import NO_TIME
from evaluation import protocols
from settings import DataSettings
from support.errors import run_command
from tests.conftest import REAL, VARIANTS, fresh_model, tiny_settings


@pytest.mark.parametrize(
    "protocol", ["leave_one_out", "global_time", "multi5"]
)
def test_clean_models_pass_under_every_protocol(
    tiny, tmp_path, protocol, variant
):
    data, settings = (
        process(tiny, DataSettings(protocol=protocol)),
        tiny_settings(tmp_path, variant),
    )
    model = fresh_model(data, variant)
    assert (
        swap_test(model.frozen(), data, settings, "validation") == 0
        and swap_test(model.frozen(), data, settings, "test") == 0
    )
    assert training_test(model, data, settings) == 0


def test_a_history_that_holds_its_target_is_caught(
    data, tmp_path, monkeypatch
):
    model, settings = (
        fresh_model(data, VARIANTS["enhanced"]),
        tiny_settings(tmp_path, VARIANTS["enhanced"]),
    )
    monkeypatch.setattr(
        protocols,
        "history_of",
        lambda data, person, end: batches.history_of(data, person, end + 1),
    )
    assert swap_test(model.frozen(), data, settings, "test") > 1e-4


def test_a_request_time_that_should_be_unknown_is_caught(data, tmp_path):
    """A model that reads it, audited as one that does not."""
    model = fresh_model(data, VARIANTS["enhanced-known-time"])
    assert (
        swap_test(
            model.frozen(),
            data,
            tiny_settings(tmp_path, VARIANTS["enhanced"]),
            "test",
        )
        > 1e-4
    )


def test_a_split_that_trains_on_targets_is_caught(data, tmp_path, monkeypatch):
    model, settings = (
        fresh_model(data, VARIANTS["enhanced"]),
        tiny_settings(tmp_path, VARIANTS["enhanced"]),
    )
    monkeypatch.setattr(
        training_batches.TrainingBatches,
        "_windows",
        lambda self, share: (
            data.catalogue.users.rows,
            data.offsets[1:-1],
            data.offsets[2:],
        ),
    )
    assert training_test(model, data, settings) > 0


def test_swapping_changes_what_it_says(data):
    rows = data.split.requests["test"].ends
    other = swapped(data, rows)
    kept = np.setdiff1d(np.arange(len(data.items)), rows)
    assert (other.items[kept] == data.items[kept]).all()
    assert sorted(other.items[rows]) == sorted(data.items[rows])
    assert (other.times[rows] != data.times[rows]).all()
    assert (other.items[rows] != data.items[rows]).mean() > 0.9
    assert (swapped(data, rows, times=False).times == data.times).all()


def test_signs_by_hand(tiny, monkeypatch):
    """Against loops over the raw positions."""
    monkeypatch.setattr("splits.MOST_TARGETS", 10**6)
    data = process(tiny, DataSettings(protocol="global_time"))
    signs, rows = suspicious(data, "test"), data.training_rows()
    known = set(data.items[rows].tolist())
    for number, end in enumerate(data.split.requests["test"].ends):
        assert signs["item unknown to training"][number] == (
            int(data.items[end]) not in known
        )
        assert signs[
            "target at the very time of the history's last interaction"
        ][number] == (data.times[end] == data.times[end - 1])
    # that is what the protocol is for
    assert (signs["training later than the target"] == 0).all()
    assert not signs["item in training only after the target"].any()
    loo = suspicious(process(tiny, DataSettings()), "test")
    assert 0 < loo["training later than the target"].mean() < 1


def test_an_order_that_the_file_makes_is_told_from_chance(data):
    """All of a user at one time: in the order of the items, or in any."""
    once = data.replace(times=np.full_like(data.times, 10**9))
    by_item = np.lexsort((data.items, data.user_of))
    share, number = repeated_order(
        once.replace(items=data.items[by_item]), True
    )
    assert share == 1 and number > 200
    draw = np.random.default_rng(0).random(len(data.items))
    mixed = once.replace(items=data.items[np.lexsort((draw, data.user_of))])
    share, number = repeated_order(mixed, True)
    assert 0.4 < share < 0.6 and number > 200
    assert repeated_order(mixed, False) == (0, 0)
    unknown = mixed.replace(times=np.full_like(data.times, NO_TIME))
    assert repeated_order(unknown, True) == (0, 0)


def perl_hash(identifier: str) -> int:
    """Of Perl 5.6: h = 33 h + c over the characters, then h + (h >> 5)."""
    value = 0
    for character in identifier:
        value = (33 * value + ord(character)) % 2**32
    return (value + (value >> 5)) % 2**32


def test_rows_of_movielens_stand_in_the_order_of_a_hash(real_data):
    """For each user there is a number of buckets, a power of two, such that the films of no two
    neighbouring rows of ratings.dat descend (docs/protocols.md)."""
    fields = pd.read_csv(REAL / "ratings.dat", sep=":", header=None)
    users, films = fields[0].to_numpy(), fields[2].astype(str)
    hashes = films.map({film: perl_hash(film) for film in films.unique()})
    hashes = hashes.to_numpy()
    same_user = users[1:] == users[:-1]
    ordered = np.zeros(users.max() + 1, dtype=bool)
    for power in range(3, 15):
        bucket = hashes % 2**power
        descends = (bucket[1:] < bucket[:-1]) & same_user
        number = np.bincount(users[1:][descends], minlength=len(ordered))
        ordered |= number == 0
    assert ordered[1:].all()


def test_script(tmp_path, capsys, data):
    assert run_command(audit.main, ["--dataset", "synthetic"]) == 0
    assert "training later than the target" in capsys.readouterr().out
    assert (
        run_command(audit.main, ["--model_path", str(tmp_path / "nowhere")])
        == 2
    )
