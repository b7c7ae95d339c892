"""The audit finds planted leaks and clears what is clean."""

import numpy as np
import pytest

import batches
import training_batches
from ablations import audit
from ablations.audit import suspicious, swap_test, swapped, training_test
from data_processor import process
from evaluation import protocols
from settings import DataSettings
from support.errors import run_command
from tests.conftest import VARIANTS, fresh_model, tiny_settings


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
        lambda self: (
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


def test_script(tmp_path, capsys, data):
    assert run_command(audit.main, ["--dataset", "synthetic"]) == 0
    assert "training later than the target" in capsys.readouterr().out
    assert (
        run_command(audit.main, ["--model_path", str(tmp_path / "nowhere")])
        == 2
    )
