"""The benchmarks, run small: they measure what they say and end in one JSON line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import compare, growth
from benchmarks.ours import SHARED, Ours, training_part
from benchmarks.serve import Worker
from support.errors import UserError


def last_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture()
def small(monkeypatch):
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


@pytest.mark.slow
def test_compare_without_peers(tmp_path, capsys, small):
    """The whole of it on the synthetic data, but for the other libraries."""
    output = tmp_path / "compare.json"
    assert (
        compare.main(
            [
                "--dataset",
                "synthetic",
                "--rounds",
                "1",
                "--models",
                "causal",
                "--output",
                str(output),
            ]
        )
        == 0
    )
    record = last_line(capsys)
    assert record == json.loads(output.read_text(encoding="utf-8"))
    assert set(record["results"]) == {"ours causal", "ours causal fp32"}
    for result in record["results"].values():
        assert (
            result["steps"] == 8
            and 0 < result["peak_share"] < 1
            and result["seconds"] > 0
        )
        assert result["users_per_second"] > 0 and result["p50_ms"] <= result["p99_ms"]
    with pytest.raises(UserError, match="make bench"):
        compare.main(["--peers", "/nowhere/python"])


@pytest.mark.slow
def test_compare_ends_when_a_worker_dies(tmp_path, small):
    """Here the peers' worker, in an environment without RecTools: its reason is told and nothing
    is written.
    """
    output = tmp_path / "compare.json"
    with pytest.raises(
        UserError, match=r"(?s)benchmarks.peers BERT4RecModel.*died.*pytorch_lightning"
    ):
        compare.main(
            [
                "--dataset",
                "synthetic",
                "--models",
                "vanilla",
                "--peers",
                sys.executable,
                "--output",
                str(output),
            ]
        )
    assert not output.exists()


@pytest.mark.slow
def test_growth(tmp_path, capsys, small):
    assert (
        growth.main(
            [
                "--steps",
                "1",
                "--scale",
                "0.02",
                "--sweeps",
                "items",
                "--output",
                str(tmp_path / "growth.json"),
            ]
        )
        == 0
    )
    record = last_line(capsys)
    assert [row["items"] for row in record["points"]["items"]] == [80, 800, 8000] * 2
    assert all(
        row["seconds_per_step"] > 0 and row["peak_mb"] > 0
        for row in record["points"]["items"]
    )
    assert record["protocol"].endswith("every size times 0.02")
    with pytest.raises(UserError, match="--output"):
        growth.main(["--sweeps", "items"])
    assert (tmp_path / "growth.svg").exists() and (
        tmp_path / "growth.png"
    ).stat().st_size > 5000


def test_the_peers_get_our_training_part_and_the_flops_are_those_of_the_products(
    data, tmp_path
):
    arrays = np.load(training_part(data, tmp_path))
    counts = np.bincount(arrays["user"], minlength=data.num_users)
    assert (counts[1:] == np.diff(data.offsets)[1:] - 2).all()
    first = slice(0, int(counts[1]))
    assert (arrays["item"][first] == data.items[first]).all()
    # By hand, for the causal model: three times the forward products of each position.
    width, total = SHARED["hidden_size"], 0.0
    for inputs in counts[1:] - 1:
        for position in range(min(inputs, SHARED["seq_length"])):
            maps = 2 * width * (3 * width + width + width + width)
            attention = 2 * 2 * width * (position + 0.5)
            total += 3 * (
                SHARED["num_layers"] * (maps + attention)
                + 2 * width * len(data.catalogue.items.ids)
            )
    assert compare.epoch_flops("causal", data) == pytest.approx(total, rel=1e-9)


def test_a_worker_that_dies_says_why(tmp_path):
    worker = Worker(
        sys.executable,
        ["benchmarks.ours", "vanilla", "fp32", "nonsense"],
        tmp_path / "log",
    )
    with pytest.raises(RuntimeError, match="nonsense"):
        worker.ask("epoch")
    worker.close()
    assert Ours("causal", "fp32", "synthetic").model.masked_head is None
