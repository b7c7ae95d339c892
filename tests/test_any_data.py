"""Data sets that nobody prepared: from files to figures, recommendations and explanations."""

import json
import re

import pytest

import data_processor
import inference
import trainer
from answers import to_json
from engine import RecommendationEngine
from queries import Query
from support.errors import run_command
from tests.conftest import SHARED

TINY = [
    "--preset",
    "quick",
    "--hidden_size",
    "16",
    "--num_layers",
    "1",
    "--seq_length",
    "10",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--max_steps",
    "3",
]
SETS = {
    "groceries": "groceries/Groceries_dataset.csv",
    "latest": "ml-latest-small",
    "sports": "s3rec/Sports_and_Outdoors.txt",
}
# Of data whose items would take the test a minute.
FEWER = {
    "latest": ("--min_item_count", "10"),
    "sports": ("--min_user_count", "40"),
}


def present(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is absent")
    return path


def trained(folder, *flags):
    """Metrics of a tiny training on the test items."""
    arguments = [
        *TINY,
        "--checkpoint_dir",
        str(folder),
        "--runs_dir",
        str(folder),
        *flags,
    ]
    assert run_command(trainer.main, arguments) == 0
    return json.loads((folder / "best" / "results.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "groceries",
        pytest.param("latest", marks=pytest.mark.slow),
        pytest.param("sports", marks=pytest.mark.slow),
    ],
)
def test_a_file_is_trained_measured_and_explained(name, tmp_path, capsys):
    path = present(*SETS[name].split("/"))
    results = trained(tmp_path, "--dataset", str(path), *FEWER.get(name, ()))
    printed = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "popularity" in printed and "NDCG@10" in printed
    engine = RecommendationEngine(tmp_path / "best")
    user = engine.catalogue.users.id(5)
    best = engine.get_recommendations(user, k=3)
    assert len(best) == 3
    reasons = engine.explain(Query(engine.history(user), 1), [best[0].id])
    text = json.dumps(to_json(reasons))
    assert len(reasons) == 1 and "sentence" in text
    if name == "groceries":
        assert not re.search(
            r"\b(films?|movies?|watched|seen|rating)\b", text, flags=re.I
        ), text
        assert any("left out" in row for row in results["ranking"]), (
            "both readings are reported"
        )
    assert (
        run_command(
            inference.main,
            [
                "--model_path",
                str(tmp_path / "best"),
                "--user_id",
                str(user),
                "--k",
                "3",
                "--explain",
            ],
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert name != "groceries" or not re.search(
        r"\b(film|movie|watched)", shown, flags=re.I
    ), shown


@pytest.mark.slow
def test_ml_100k_three_ways_gives_the_same_figures(tmp_path, capsys):
    """Its own files without columns, RecBole's atomic file, and that as CSV with a schema written
    and read again."""
    atomic = present("recbole-ml-100k", "ml-100k.inter")
    lines = atomic.read_text().splitlines()
    table = tmp_path / "interactions.csv"
    rows = [line.split("\t") for line in lines[1:]]
    table.write_text(
        "user,item,rating,time\n"
        + "".join(",".join(row) + "\n" for row in rows)
    )
    written = tmp_path / "mine.yaml"
    assert (
        run_command(
            data_processor.main,
            ["--dataset", str(table), "--write_schema", str(written)],
        )
        == 0
    )
    plain = [
        "--no_transitions",
        "--item_features",
        "none",
        "--interaction_features",
        "none",
        "--user_features",
        "none",
        "--value_weight",
        "0",
        "--preference_weight",
        "0",
    ]
    ways = {
        "own": ["--dataset", "ml-100k", "--data_dir", str(present("ml-100k"))],
        "atomic": ["--dataset", str(atomic)],
        "schema": ["--dataset", str(written)],
    }
    figures = {
        name: trained(tmp_path / name, *flags, *plain)["ranking"]
        for name, flags in ways.items()
    }
    capsys.readouterr()
    assert figures["own"] == figures["atomic"] == figures["schema"]
