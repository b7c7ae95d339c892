"""The benchmarks, run small: they measure what they say and end in one JSON line."""

import json
import sys

import numpy as np
import pytest

from benchmarks import compare, reading
from benchmarks.ours import training_part
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
    record = last_line(capsys)
    assert record == json.loads(output.read_text(encoding="utf-8"))
    assert set(record["results"]) == {"ours causal"}
    for result in record["results"].values():
        assert result["steps"] == 8 and result["seconds"] > 0
        assert (
            result["users_per_second"] > 0
            and result["p50_ms"] <= result["p99_ms"]
        )
    with pytest.raises(UserError, match="make bench"):
        compare.main(["--peers", "/nowhere/python"])


@pytest.mark.slow
def test_compare_ends_when_a_worker_dies(tmp_path, small):
    """Here the peers' worker, in an environment without RecTools: its reason is told and nothing
    is written.
    """
    output = tmp_path / "compare.json"
    with pytest.raises(
        UserError, match=r"(?s)RecTools BERT4RecModel died.*pytorch_lightning"
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


def test_the_peers_get_our_training_part(data, tmp_path):
    arrays = np.load(training_part(data, tmp_path))
    counts = np.bincount(arrays["user"], minlength=data.num_users)
    assert (counts[1:] == np.diff(data.offsets)[1:] - 2).all()
    first = slice(0, int(counts[1]))
    assert (arrays["item"][first] == data.items[first]).all()


def test_reading_a_file_of_so_many_rows(capsys):
    reading.main(["--rows", "2000"])
    said = capsys.readouterr().out
    assert said.startswith("2,000 rows") and "interactions of" in said
