"""The rows of the results tables, run tiny: trained once, tuned, compared, said when they
differ."""

import json
import shutil

import pytest
import torch

from ablations import boards, once, rows
from baselines.neighbours import item_knn
from data_processor import load
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from model_io import load_model
from settings import DataSettings, EvalSettings
from support.errors import UserError
from tests.conftest import films, write_ml_1m

SMALL = [
    "--hidden_size",
    "8",
    "--num_layers",
    "1",
    "--seq_length",
    "10",
    "--max_epochs",
    "1",
    "--eval_every",
    "1",
    "--batch_tokens",
    "40000",
    "--device",
    "cpu",
]


def run(tmp_path, *arguments):
    data = tmp_path / "data"
    if not data.exists():
        write_ml_1m(data, films())
    return rows.main(
        [
            *arguments,
            "--board",
            "loo-3706",
            "--results",
            str(tmp_path / "results"),
            "--work",
            str(tmp_path / "work"),
            "--data_dir",
            str(data),
            *SMALL,
        ]
    )


def read(tmp_path, row):
    return json.loads(
        (tmp_path / "results" / "loo-3706" / f"{row}.json").read_text()
    )


def test_rows_run_once_and_are_compared(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "popularity", "vanilla", "--seeds", "2") == 0
    record, popularity = (
        read(tmp_path, "vanilla"),
        read(tmp_path, "popularity"),
    )
    assert [entry["seed"] for entry in record["runs"]] == [42, 43]
    assert record["test"]["NDCG@10"]["mean"] == pytest.approx(
        sum(entry["test"]["NDCG@10"] for entry in record["runs"]) / 2
    )
    assert record["split_hash"] == popularity["split_hash"]
    assert "all 60 users" in record["protocol"]
    assert (
        "randomisation test" in capsys.readouterr().out
        and "HR@10, pop-100" in record["test"]
    )
    # Again: nothing is trained, and all is as reported.
    monkeypatch.setattr(once, "train", None)
    assert run(tmp_path, "vanilla", "--seeds", "2") == 0
    assert "as reported" in capsys.readouterr().out
    # Of other code: trained again.
    monkeypatch.setattr(rows, "code_version", lambda: "newer")
    with pytest.raises(TypeError):
        run(tmp_path, "vanilla", "--seeds", "2")
    monkeypatch.undo()
    # Somebody reported better: said, exit code 1, and the report stays until --write.
    path = tmp_path / "results" / "loo-3706" / "vanilla.json"
    record["test"]["NDCG@10"]["mean"] += 0.2
    record["split_hash"] = "another"
    path.write_text(json.dumps(record))
    assert run(tmp_path, "vanilla", "--seeds", "2") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT AS REPORTED (the split has another hash" in said
    assert read(tmp_path, "vanilla") == record
    # Beside rows of other data nothing is written unasked.
    assert run(tmp_path, "markov_chain") == 0
    assert not (path.parent / "markov_chain.json").exists()
    assert run(tmp_path, "vanilla", "--seeds", "2", "--write") == 0
    assert read(tmp_path, "vanilla")["test"] != record["test"]


def test_a_table_has_the_rows_that_were_measured_before(tmp_path, capsys):
    """And compares with them, without their models."""
    folder = tmp_path / "results" / "loo-3706"
    assert run(tmp_path, "vanilla", "--seeds", "1") == 0
    assert run(tmp_path, "popularity", "item_knn") == 0
    drawn = (folder / "table.md").read_text()
    shutil.rmtree(tmp_path / "work")
    for path in folder.glob("*"):
        path.unlink()
    assert (
        run(tmp_path, "item_knn", "vanilla", "popularity", "--seeds", "1") == 0
    )
    again = (folder / "table.md").read_text()
    without_time = [
        row.rpartition(" | ")[0] for row in drawn.splitlines()[-3:]
    ]
    for row in without_time:
        assert row in again, row
    assert "vs vanilla" in drawn


def test_boards_have_rows_that_exist_and_what_they_are_tested_against():
    assert set(boards.ROWS) == set(boards.BOARDS)
    assert tuple(rows.BASELINES) == boards.TUNED
    for names in boards.ROWS.values():
        assert set(boards.AGAINST) < set(names) < set(boards.NAMES)


def test_a_row_is_no_other_model(tmp_path):
    for flag in ("--model", "--preset", "--config", "--protocol", "--cand"):
        with pytest.raises(UserError, match=r"a row has its own|unknown"):
            run(tmp_path, "enhanced", flag, "vanilla")


@pytest.mark.parametrize("row", ["vanilla", "enhanced"])
def test_a_row_is_published_without_titles(row, tmp_path, capsys):
    """And ranks the same films: they come from the data set."""
    models = str(tmp_path / "models")
    flags = ["--seeds", "2", "--max_steps", "6", "--publish", models]
    assert run(tmp_path, row, *flags) == 0
    folder, record = tmp_path / "models" / row, read(tmp_path, row)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "checkpoint.json",
        "items.parquet",
        "model.safetensors",
        "users.parquet",
    ]
    best = max(record["runs"], key=lambda entry: entry["validation"])
    text = (folder / "README.md").read_text()
    assert (
        f"{best['test']['NDCG@10']:.4f}" in text
        and f"{record['test']['NDCG@10']['mean']:.4f}" in text
    )
    columns = {
        "vanilla": "none",
        "enhanced": "rating, genres, year, gender, age, occupation",
    }
    assert f"columns read: {columns[row]}.\n" in text, (
        "no title without encoder"
    )
    assert f"{best['parameters']:,} parameters" in text
    assert str(tmp_path) not in (folder / "checkpoint.json").read_text() + text
    trained = tmp_path / "work" / "loo-3706" / best["folder"] / "best"
    ours = load_model(folder, data_dir=str(tmp_path / "data"))
    theirs = load_model(trained)
    assert (
        ours.catalogue.items.names.tolist()
        == theirs.catalogue.items.names.tolist()
    )
    weights = theirs.model.state_dict()
    assert all(
        torch.equal(value, weights[name])
        for name, value in ours.model.state_dict().items()
    )


def test_baselines_are_tuned_on_validation(tmp_path, monkeypatch):
    grid = {"neighbours": [5, 400], "shrinkage": [0.0], "decay": [1.0, 0.5]}
    monkeypatch.setattr(rows, "grids", lambda: {"item_knn": grid})
    assert run(tmp_path, "item_knn") == 0
    record = read(tmp_path, "item_knn")
    best = max(record["trials"], key=lambda trial: trial["validation"])
    assert len(record["trials"]) == 4 and record["settings"] == {
        name: best[name] for name in record["settings"]
    }
    data = load(DataSettings(data_dir=str(tmp_path / "data")))
    for trial in record["trials"]:
        values = {name: trial[name] for name in grid}
        ranker = item_knn(data, **values)
        rank = target_ranks(ranker, data, "validation", 999, EvalSettings())
        users = data.split.requests["validation"].users
        mean = per_user(rank, users)["NDCG@10"].mean()
        assert trial["validation"] == pytest.approx(mean)


def test_grids_have_equal_budgets():
    assert rows.grids().keys() == rows.BASELINES.keys()
    for grid in rows.grids().values():
        size = 1
        for values in grid.values():
            size *= len(values)
        assert size <= rows.TRIALS


def test_an_unknown_row_is_named(tmp_path):
    with pytest.raises(UserError, match="popularty"):
        run(tmp_path, "popularty")
