"""The benchmarks, run small: they measure what they say and end in one JSON line."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from baselines.followers import pctm
from benchmarks import compare, data_sets, guard, reading
from benchmarks.ours import training_part
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from measuring import pctm_setting
from model_io import load_with_data
from run_folder import read_results
from support.errors import UserError
from tests.test_auto_preset import log_of


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


def recounted_pctm(work, name):
    """Metrics on test of PCTM with the setting of validation, its counts from a training part
    that ends before the last interaction."""
    (folder,) = work.glob(f"{name}-42-*")
    _, settings, data = load_with_data(folder / "best")
    ends = data.offsets[1:] - 1
    ends = np.maximum(ends, data.offsets[:-1])
    split = dataclasses.replace(data.split, train_ends=ends)
    ranker = pctm(data.replace(split=split), **pctm_setting(data, settings))
    rank = target_ranks(ranker, data, "test", 999, settings.eval)
    found = per_user(rank, data.split.requests["test"].users)
    return {metric: values.mean() for metric, values in found.items()}


@pytest.mark.slow
def test_data_sets_beside_what_counts(tmp_path, capsys, small):
    """Figures are those of the runs; a run that is there is not trained again."""
    paths = []
    for name, items in (("dense", 20), ("sparse", 300)):
        paths.append(tmp_path / f"{name}.csv")
        log_of(60, items, 8).to_csv(paths[-1], index=False)
    output, work = tmp_path / "rows.json", tmp_path / "work"
    command = [*map(str, paths), "--seeds", "2", "--max_steps", "3"]
    command += ["--hidden_size", "16", "--work", str(work)]
    data_sets.main([*command, "--output", str(output)])
    rows = json.loads(output.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert set(rows) == {"dense", "sparse"}
    for name, row in rows.items():
        assert row["users"] == 60 and row["protocol"] in printed
        results = [
            read_results(folder / "best")["ranking"]
            for folder in sorted(work.glob(f"{name}-4*"))
        ]
        for metric in ("HR@10", "NDCG@10"):
            for other in ("popularity", "PCTM"):
                mean = results[0][other][metric]["mean"]
                assert row[metric][other] == pytest.approx(mean)
            means = [each["enhanced"][metric]["mean"] for each in results]
            assert row[metric]["model"] == pytest.approx(means)
            best = row[metric][row["best that counts"]]
            difference = row[metric]["difference"]["difference"]
            assert difference == pytest.approx(np.mean(means) - best)
            again = row[metric]["recounted"]
            assert len(again["PCTM"]) == 1 and len(again["model"]) == 2
            assert again["PCTM"] == pytest.approx([recounted_pctm(work, name)[metric]])
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="one name"):
        data_sets.main([str(tmp_path / "other" / "dense.csv"), *command])
    dates = [path.stat().st_mtime_ns for path in work.glob("*/*/best/*")]
    data_sets.main(command)
    assert dates == [
        path.stat().st_mtime_ns for path in work.glob("*/*/best/*")
    ]


def figures_of(training, batch=1.0, single=1.0):
    return {
        "training_cpu": training,
        "batch_cpu": batch,
        "single_cpu": single,
    }


def test_guard_compares_the_best_rounds():
    before = [figures_of(8.0), figures_of(9.0, batch=0.5)]
    now = [figures_of(20.0), figures_of(10.0, single=2.0)]
    assert guard.speeds(before, now) == {
        "training_cpu": 0.8,
        "batch_cpu": 0.5,
        "single_cpu": 1.0,
    }


@pytest.mark.parametrize(("seconds", "passes"), [(12.4, True), (12.6, False)])
def test_guard_fails_at_a_loss_of_a_fifth(
    monkeypatch, capsys, seconds, passes
):
    def measured(tree, kind):
        ours = tree == guard.ROOT
        return figures_of(seconds if ours else 10.0)

    monkeypatch.setattr(guard, "measure", measured)
    monkeypatch.setattr(guard, "unpack", lambda commit, folder: True)
    if passes:
        guard.main([])
        assert "0.81" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="a fifth or more: training"):
            guard.main([])


def test_guard_needs_the_commit(tmp_path, capsys):
    guard.main(["--baseline", "0000000"])
    assert "not measured" in capsys.readouterr().out
    if guard.unpack(guard.BASELINE, tmp_path):
        assert (tmp_path / "benchmarks" / "ours.py").is_file()
        assert (tmp_path / "configs" / "enhanced.yaml").is_file()
