"""The scripts end to end on tiny data: what they print, write and refuse."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import bert_multi
import inference
import trainer
import training_loop
from bulk import recommend_all
from data_processor import load
from engine import RecommendationEngine
from explanations.tables import below_mean_line
from model_io import load_model
from queries import Query
from run_folder import newest_run, read_results
from support.errors import UserError, run_command
from support.processes import STOPPING, lock_or_refuse, stop_signals
from tests.conftest import ROOT, films, write_ml_1m

SMALL = [
    "--hidden_size",
    "16",
    "--seq_length",
    "20",
    "--max_epochs",
    "3",
    "--eval_every",
    "1",
    "--batch_size",
    "16",
    "--learning_rate",
    "0.01",
    "--precision",
    "fp32",
    "--device",
    "cpu",
]


def train(folder, data_dir, *flags):
    return run_command(
        trainer.main,
        [
            "--preset",
            "quick",
            "--data_dir",
            str(data_dir),
            "--checkpoint_dir",
            str(folder),
            "--runs_dir",
            str(folder / "runs"),
            *SMALL,
            *flags,
        ],
    )


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """The tiny world as ML-1M files."""
    return write_ml_1m(tmp_path_factory.mktemp("files") / "ml-1m", films())


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    """A trained enhanced model that does not know request times."""
    folder = tmp_path_factory.mktemp("model")
    assert train(folder, files) == 0
    return folder / "best"


@pytest.fixture(scope="module")
def timed_model(files, tmp_path_factory):
    """One that does."""
    folder = tmp_path_factory.mktemp("timed")
    assert train(folder, files, "--query_time", "known") == 0
    return folder / "best"


@pytest.fixture(scope="module")
def starting_model(files):
    """A model that also serves people without a history."""
    assert (
        train(files / "starting", files, "--start_token", "--max_steps", "3")
        == 0
    )
    return files / "starting" / "best"


@pytest.fixture(scope="module")
def engine(model):
    return RecommendationEngine(model)


def infer(capsys, *flags):
    """(exit code, stdout, stderr)."""
    code = run_command(inference.main, list(map(str, flags)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# Training


def test_trainer_leaves_what_it_promises(model):
    assert sorted(path.name for path in model.iterdir()) == [
        "checkpoint.json",
        "items.parquet",
        "model.safetensors",
        "results.json",
        "test_users.parquet",
        "users.parquet",
    ]
    info = json.loads((model / "checkpoint.json").read_text())
    assert {
        "settings",
        "split_hash",
        "git_commit",
        "versions",
        "num_items",
        "files",
        "schema",
    } <= set(info)
    results = json.loads((model / "results.json").read_text())
    assert (
        set(results["ranking"])
        == {"popularity", "popularity of 30 days", "PCTM", "enhanced"}
        and results["split_hash"] == info["split_hash"]
    )
    assert set(results["values"]["rating"]) >= {
        "user mean",
        "item mean",
        "head",
    }
    assert set(results["preferences"]["genres"]) >= {
        "head",
        "constant",
        "own history",
    }
    users = pd.read_parquet(model / "test_users.parquet")
    assert len(users) == 60 and users["HR@10"].mean() == pytest.approx(
        results["ranking"]["enhanced"]["HR@10"]["mean"]
    )
    (record,) = (model.parent / "runs").glob("*.jsonl")
    events = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["event"] for row in events] == [
        "settings",
        "epoch",
        "epoch",
        "epoch",
        "transitions",
        "test",
    ]
    assert {"loss_next_item", "loss_value", "loss_preference"} <= set(
        events[3]
    )
    assert {"seconds", "step", "tokens"} <= set(events[5]["best"])


def test_trainer_never_falls_back_on_synthetic_data(tmp_path, capsys):
    assert train(tmp_path, tmp_path / "nothing") == 2
    captured = capsys.readouterr()
    assert (
        "has no ratings.dat" in captured.err
        and captured.err.count("\n") == 1
        and not list(tmp_path.glob("best*"))
    )


@pytest.mark.parametrize("number", STOPPING)
def test_each_signal_that_stops_is_heard(number):
    with stop_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()


def test_the_end_of_the_terminal_saves_and_resume_goes_on(files, tmp_path):
    """As Ctrl-C does."""
    command = [
        sys.executable,
        "trainer.py",
        "--data_dir",
        str(files),
        "--checkpoint_dir",
        str(tmp_path / "c"),
        "--runs_dir",
        str(tmp_path / "runs"),
        *SMALL,
        "--max_epochs",
        "400",
        "--patience",
        "1000",
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 300
    while not (tmp_path / "c" / "best").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=300)
    assert (
        process.returncode == 130
        and f"stopped and saved in {newest_run(tmp_path / 'c') / 'last'}"
        in err
        and "trainer.py and bert_multi.py with --resume" in err
        and "Traceback" not in err
    )
    run = newest_run(tmp_path / "c")
    stopped = json.loads((run / "last" / "checkpoint.json").read_text())
    done_steps = stopped["progress"]["step"]
    # Shorten what is left, then go on through the command line.
    last_epoch = stopped["progress"]["epoch"] + 2
    edit(
        run / "run.json",
        lambda content: content["settings"].update(max_epochs=last_epoch),
    )
    assert (
        run_command(
            trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path / "c")]
        )
        == 0
    )
    after = json.loads((run / "last" / "checkpoint.json").read_text())[
        "progress"
    ]
    assert (
        after["step"] > done_steps
        and after["epoch"] == stopped["progress"]["epoch"] + 2
    )


@pytest.mark.parametrize("flag", ["--runs_dir", "--checkpoint_dir"])
def test_a_file_where_a_folder_should_be(files, tmp_path, capsys, flag):
    (tmp_path / "file").write_text("precious")
    assert train(tmp_path / "c", files, flag, str(tmp_path / "file")) == 2
    err = capsys.readouterr().err
    assert (
        "choose another place" in err
        and err.count("\n") == 1
        and (tmp_path / "file").read_text() == "precious"
    )


def test_resume_without_a_stopped_run(tmp_path, capsys):
    assert (
        run_command(
            trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path)]
        )
        == 2
    )
    assert "no stopped run" in capsys.readouterr().err


def test_resume_of_an_older_versions_state(model, tmp_path, capsys):
    """Its description lacks what an exact continuation needs."""
    run = shutil.copytree(newest_run(model.parent), tmp_path / "run")
    edit(
        run / "last" / "checkpoint.json",
        lambda content: content.pop("optimizer_parts"),
    )
    flags = ["--resume", "--checkpoint_dir", str(tmp_path)]
    assert run_command(trainer.main, flags) == 2
    assert "written by an older version" in capsys.readouterr().err


# Inference


def test_ten_titled_recommendations_with_reasons(model, files, capsys):
    code, out, _ = infer(
        capsys, "--model_path", model, "--user_id", 12, "--k", 10
    )
    assert (
        code == 0 and out.count("Synthetic Film") >= 10 and "User 12: " in out
    )
    assert len(re.findall("Because |No single film", out)) == 10
    assert [f"{rank:3d}. " in out for rank in range(1, 11)] == [True] * 10
    # The genres, a comma between them, and the year.
    assert len(re.findall(r"\[[\w' -]+(, [\w' -]+)*; \d{4}\]", out)) == 10
    assert len(re.findall(r"\[[\w' -]+, [\w' -]+; \d{4}\]", out)) > 0


def test_precision_of_batch_recommendation(engine):
    """bf16 changes scores a little for whole histories, and nothing before a held-out
    interaction.
    """
    exact, quick = (
        recommend_all(engine, k=10, precision=precision)
        for precision in ("fp32", "bf16")
    )
    both = exact.merge(quick, on=["user_id", "item_id"])
    assert (
        len(both) > 0.9 * len(exact)
        and (both["score_x"] != both["score_y"]).any()
    )
    assert (both["score_x"] - both["score_y"]).abs().max() < 0.02 * exact[
        "score"
    ].abs().max()
    exact, quick = (
        recommend_all(engine, k=10, until="test", precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert exact.equals(quick)


def test_lists_of_all_users_in_a_folder(service_files, tmp_path, capsys):
    flags = ["--model_path", str(service_files / "main/best")]
    flags += ["--data_dir", str(service_files / "data"), "--users", "all"]
    inference.main([*flags, "--output", f"{tmp_path}/lists/", "--k", "2"])
    assert "1 of 1 files" in capsys.readouterr().out
    (path,) = (tmp_path / "lists").glob("*.parquet")
    assert len(pd.read_parquet(path)) == 120
    inference.main([*flags, "--vectors", f"{tmp_path}/vectors"])
    assert "vectors of 60 of 60 users" in capsys.readouterr().err
    assert len(pd.read_parquet(tmp_path / "vectors/users-00000.parquet")) == 60


WRONG = {
    "unknown user": (["--user_id", "99999"], "user 99999 is not in"),
    "unknown film": (["--history", "3,99999"], "film 99999"),
    "huge film id": (
        ["--history", "99999999999999999999"],
        "film 99999999999999999999",
    ),
    "huge user id": (
        ["--user_id", "99999999999999999999"],
        "user 99999999999999999999 is not in",
    ),
    "unknown films only": (["--history", "88888,99999"], "film 88888"),
    "unknown title": (
        ["--history", "Synthetic Film 004 (1066)"],
        "did you mean",
    ),
    "ambiguous title": (["--history", "Synthetic Film"], "fits 80 films"),
    "nobody": ([], "--user_id"),
    "unknown value": (
        ["--history", "3", "--set", "gender=X"],
        "gender 'X': choose one of F, M",
    ),
    "no such age": (
        ["--history", "3", "--set", "age=200"],
        "age '200': choose one of 1, 18",
    ),
    "unknown column": (["--history", "3", "--set", "shoes=41"], "shoes"),
    "unknown tag": (["--user_id", "12", "--where", "genres=Dramma"], "Dramma"),
    "nothing left": (
        ["--user_id", "12", "--where", "year>=2990"],
        "no film is left to recommend",
    ),
    "bad users": (
        ["--users", "a,b", "--output", "x.parquet"],
        "'a' is not an id",
    ),
    "k of 0": (
        ["--user_id", "12", "--k", "0"],
        "--k: '0' is not a whole number from 1",
    ),
    "an id beyond 2^63": (["--user_id", "9" * 20], "9" * 20),
    "k no number": (["--user_id", "12", "--k", "ten"], "--k"),
    "time unknown to it": (
        ["--user_id", "12", "--at", "2001-01-01"],
        "request time unknown",
    ),
    "bad time": (["--user_id", "12", "--at", "yesterday"], "--at 'yesterday'"),
    "unknown flag": (["--user", "12"], "did you mean --user_id or --users?"),
    "users without output": (["--users", "all"], "--output"),
    "unknown user in list": (
        ["--users", "1,99999", "--output", "x.parquet"],
        "user 99999",
    ),
    "output without users": (
        ["--user_id", "12", "--output", "x.parquet"],
        "--users",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(model, capsys, monkeypatch, tmp_path, case):
    flags, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    code, out, err = infer(capsys, "--model_path", model, *flags)
    assert (
        code == 2
        and message in err
        and err.count("\n") == 1
        and err.startswith("error: ")
        and out == ""
    )
    assert not list(tmp_path.iterdir())


def damaged(model, tmp_path, change):
    copy = shutil.copytree(model, tmp_path / "damaged")
    change(copy)
    return copy


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    "missing": (lambda folder: shutil.rmtree(folder), "does not exist"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "incomplete",
    ),
    "cut weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 500),
        "copy both again",
    ),
    "cut description": (
        lambda folder: os.truncate(folder / "checkpoint.json", 100),
        "corrupted",
    ),
    "foreign": (
        lambda folder: (folder / "checkpoint.json").write_text(
            '{"format": "somebody else/3"}'
        ),
        "format",
    ),
    "no object": (
        lambda folder: (folder / "checkpoint.json").write_text("[1]"),
        "not a file of this program",
    ),
    "no settings": (
        lambda folder: edit(
            folder / "checkpoint.json", lambda content: content.pop("settings")
        ),
        "description is damaged",
    ),
    "settings of a wrong kind": (
        lambda folder: edit(
            folder / "checkpoint.json",
            lambda content: content["settings"].update(hidden_size="wide"),
        ),
        "--hidden_size 'wide': Input should be a valid integer",
    ),
    "settings of another version": (
        lambda folder: edit(
            folder / "checkpoint.json",
            lambda content: content["settings"].update(cross_attention=True),
        ),
        "written by another version of this program (commit",
    ),
    "schema of another version": (
        lambda folder: edit(
            folder / "checkpoint.json",
            lambda content: content["schema"].update(reader="synthetic"),
        ),
        "written by another version of this program (commit",
    ),
    "a column that the data lack": (
        lambda folder: edit(
            folder / "checkpoint.json",
            lambda content: content["fields"]["items"].update(
                colour=content["fields"]["items"]["year"]
            ),
        ),
        "the data lack colour",
    ),
    "no schema": (
        lambda folder: edit(
            folder / "checkpoint.json", lambda content: content.pop("schema")
        ),
        "description is damaged",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_checkpoints(model, tmp_path, capsys, case):
    change, message = DAMAGE[case]
    code, _, err = infer(
        capsys,
        "--model_path",
        damaged(model, tmp_path, change),
        "--history",
        "3,5",
    )
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("table", "column"),
    [("users", "occupation"), ("items", "year"), ("interactions", "rating")],
)
def test_a_column_that_the_schema_no_longer_has(
    model, tmp_path, capsys, table, column
):
    schema = yaml.safe_load((ROOT / "datasets" / "ml-1m.yaml").read_text())
    del schema[table]["columns"][column]
    path = tmp_path / "ml-1m.yaml"
    path.write_text(yaml.safe_dump(schema))

    def change(folder):
        edit(
            folder / "checkpoint.json",
            lambda content: content["settings"].update(dataset=str(path)),
        )

    folder = damaged(model, tmp_path, change)
    user = ["--user_id", "1"]
    code, _, err = infer(capsys, "--model_path", folder, *user)
    assert code == 2 and f"lack {column}" in err and err.count("\n") == 1


def test_weights_of_another_shape(model, tmp_path, capsys):
    def widen(folder):
        info = json.loads((folder / "checkpoint.json").read_text())
        info["settings"]["hidden_size"] = 32
        (folder / "checkpoint.json").write_text(json.dumps(info))

    code, _, err = infer(
        capsys,
        "--model_path",
        damaged(model, tmp_path, widen),
        "--history",
        "3,5",
    )
    assert code == 2 and "of a larger model than its weights" in err


def test_a_full_disk_keeps_what_was_there(
    model, engine, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "recs.parquet"
    output.write_bytes(b"precious")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    code, _, err = infer(
        capsys, "--model_path", model, "--users", "all", "--output", output
    )
    assert (
        code == 2
        and "No space left" in err
        and output.read_bytes() == b"precious"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]


def test_an_output_that_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    for name in ("folder.csv", f"{'x' * 300}.parquet"):
        output = tmp_path / name
        code, _, err = infer(
            capsys, "--model_path", model, "--users", "all", "--output", output
        )
        assert code == 2 and f"error: {output} cannot be written" in err


def test_what_a_killed_process_left_of_a_checkpoint_goes(tmp_path):
    """Not what another process may still be writing, or of another folder."""

    from support.checkpoint import STALE, write_checkpoint

    for name, age in (
        (".best.writing-old", STALE + 60),
        (".best.writing-new", 5),
        (".last.writing-old", STALE + 60),
    ):
        (tmp_path / name / "new").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_checkpoint(tmp_path / "best", {"x": torch.zeros(3)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".best.writing-new",
        ".last.writing-old",
        "best",
    ]


def test_a_checkpoint_killed_between_its_two_moves_is_put_in_its_place(
    tmp_path,
):
    """The old one had made way and the new one was not there yet; one that was still being
    written stays away.
    """

    from support.checkpoint import (
        read_checkpoint,
        recover_checkpoint,
        write_checkpoint,
    )

    folder, scratch = tmp_path / "last", tmp_path / ".last.writing-killed"
    assert not recover_checkpoint(folder)
    write_checkpoint(folder, {"x": torch.zeros(3)}, {"step": 2})
    write_checkpoint(scratch / "new", {"x": torch.ones(3)}, {"step": 3})
    # nothing had been moved
    assert (
        recover_checkpoint(folder) and read_checkpoint(folder)[1]["step"] == 2
    )
    os.replace(folder, tmp_path / "elsewhere")
    assert not recover_checkpoint(folder)
    os.replace(tmp_path / "elsewhere", scratch / "old")
    assert (
        recover_checkpoint(folder) and read_checkpoint(folder)[1]["step"] == 3
    )
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_scripts_run_as_scripts(model):
    """`python SCRIPT --help` and one real call, outside this process."""
    for script in ("trainer.py", "inference.py", "data_processor.py"):
        done = subprocess.run(
            [sys.executable, script, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--" in done.stdout
    done = subprocess.run(
        [
            sys.executable,
            "inference.py",
            "--model_path",
            str(model),
            "--history",
            "3,99999",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
    )


# Five next films at once


def test_bert_multi(tmp_path, capsys):
    small = [
        "--dataset",
        "synthetic",
        "--hidden_size",
        "8",
        "--num_layers",
        "1",
        "--seq_length",
        "12",
        "--max_epochs",
        "1",
        "--device",
        "cpu",
        "--runs_dir",
        str(tmp_path / "runs"),
    ]
    place = ["--checkpoint_dir", str(tmp_path / "multi")]
    assert run_command(bert_multi.main, ["--size", "M", *small, *place]) == 0
    printed = capsys.readouterr().out
    results = json.loads(
        (tmp_path / "multi" / "best" / "candidates.json").read_text()
    )
    assert (
        set(results) == {"full", "popular_100", "uniform_100"}
        and "claims Recall@10 0.5978" in printed
    )
    recall = {
        name: result["ranking"]["popularity"]["Recall@10"]["mean"]
        for name, result in results.items()
    }
    # the more is ranked, the harder it is
    assert recall["full"] < recall["popular_100"] < recall["uniform_100"]
    assert "the last 5 interactions" in results["full"]["protocol"]
    assert (
        run_command(bert_multi.main, ["--size", "M", "--resume", *place]) == 0
    )
    assert run_command(bert_multi.main, ["--size", "XXL"]) == 2


def without(_name, keep):
    """The tiny world with some interactions only."""
    world = films()
    frame = world["interactions"].frame
    return {
        **world,
        "interactions": dataclasses.replace(
            world["interactions"], frame=frame[keep(frame)]
        ),
    }


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "vanilla"],
        [
            "--model",
            "vanilla",
            "--segment_embeddings",
            "--attention_type",
            "causal",
        ],
        [
            "--next_item_weight",
            "0",
            "--masked_item_weight",
            "1",
            "--value_weight",
            "0",
            "--preference_weight",
            "0",
        ],
        ["--graph", "--text_encoder", "ngrams", "--contrastive_weight", "0.1"],
        ["--candidates", "popular_100", "--protocol", "global_time"],
    ],
    ids=lambda flags: flags[1],
)
def test_trainer_with_other_flags(files, tmp_path, capsys, flags):
    assert train(tmp_path, files, *flags, "--max_epochs", "1") == 0
    assert "Ranking on the test items" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--no_transitions"],
        ["--no_transitions", "--graph"],
        ["--model", "vanilla"],
    ],
    ids=["plain", "graph", "vanilla"],
)
def test_going_on_from_a_model_with_new_items_and_users(
    tmp_path, capsys, flags
):
    """At a learning rate of nothing it is the older model for old items and users."""
    early = without(
        "few",
        lambda frame: (
            (frame.groupby("user_id").cumcount() < 8)
            & (frame["user_id"] <= 30)
        ),
    )
    few = write_ml_1m(tmp_path / "few", early)
    many = write_ml_1m(tmp_path / "many", films())
    assert train(tmp_path / "old", few, *flags) == 0
    start = ["--start_from", str(tmp_path / "old" / "best")]
    assert (
        train(
            tmp_path / "same",
            many,
            *flags,
            *start,
            "--learning_rate",
            "1e-12",
            "--max_steps",
            "1",
        )
        == 0
    )
    older = RecommendationEngine(tmp_path / "old" / "best", data_dir=str(few))
    same = RecommendationEngine(tmp_path / "same" / "best", data_dir=str(many))
    assert len(older.catalogue.items.ids) < len(same.catalogue.items.ids) == 80
    assert len(same.data.catalogue.users.ids) == 60
    history = older.catalogue.items.ids[:3].tolist()
    before, after = (
        {
            item.id: item.score
            for item in engine.get_recommendations(None, history, count)
        }
        for engine, count in ((older, 40), (same, 77))
    )
    # A graph and transitions are counted anew.
    assert "--graph" in flags or before == pytest.approx(
        {item: after[item] for item in before}, abs=2e-3
    )
    assert train(tmp_path / "new", many, *flags, *start) == 0
    capsys.readouterr()
    for other, message in (
        (["--hidden_size", "32"], "--hidden_size is 16 there and 32 here"),
        (["--num_heads", "1"], "--num_heads is"),
        (["--protocol", "global_time"], "--protocol"),
    ):
        assert train(tmp_path / "wide", many, *flags, *start, *other) == 2
        assert message in capsys.readouterr().err


def test_going_on_with_counts_or_without(files, model, tmp_path):
    """Counts do not train, so a model may be given them or lose them."""
    start = ["--max_steps", "1", "--start_from"]
    counted, plain = tmp_path / "counted", tmp_path / "plain"
    assert train(counted, files, *start, str(model), "--transitions") == 0
    held = load_model(counted / "best", data_dir=str(files)).model.transitions
    assert len(held.items) > 1
    begin = str(counted / "best")
    assert train(plain, files, *start, begin, "--no_transitions") == 0
    after = load_model(plain / "best", data_dir=str(files)).model
    assert after.transitions is None


def test_going_on_may_not_have_seen_what_is_held_out(tmp_path, capsys):
    """Older files, in which what the model learned from is held out now; and other users under
    multi5.
    """
    newest = films()["interactions"].frame.groupby("user_id").tail(1).index
    before = write_ml_1m(
        tmp_path / "before",
        without(
            "newest",
            lambda frame: ~frame.index.isin(newest) & (frame["user_id"] < 60),
        ),
    )
    now = write_ml_1m(tmp_path / "now", films())
    start = [
        "--start_from",
        str(tmp_path / "model" / "best"),
        "--max_steps",
        "1",
    ]
    for protocol, grows in (("leave_one_out", True), ("multi5", False)):
        flags = ["--protocol", protocol]
        for first, later in ((before, (before, now)), (now, (before,))):
            once = [*flags, "--max_steps", "1"]
            assert train(tmp_path / "model", first, *once) == 0
            capsys.readouterr()
            for second in later:
                allowed = first == second or (second == now and grows)
                code = train(tmp_path / "later", second, *flags, *start)
                assert code == (0 if allowed else 2)


def test_trainer_with_teachers(files, model, tmp_path, capsys):
    assert train(tmp_path, files, "--teacher", str(model)) == 0
    assert train(tmp_path / "plain", files) == 0
    folders = (tmp_path / "best", tmp_path / "plain" / "best")
    taught, plain = (
        load_model(folder, data_dir=str(files)).model.state_dict()
        for folder in folders
    )
    assert any(
        not torch.equal(value, plain[name]) for name, value in taught.items()
    )
    capsys.readouterr()
    assert (
        train(
            tmp_path / "no",
            files,
            "--teacher",
            str(model),
            "--masked_item_weight",
            "1",
        )
        == 2
    )
    assert capsys.readouterr().err.count("\n") == 1


def test_an_earlier_best_is_set_aside_not_lost(files, tmp_path):
    assert train(tmp_path, files, "--max_epochs", "1") == 0
    first = (tmp_path / "best" / "model.safetensors").read_bytes()
    assert train(tmp_path, files, "--max_epochs", "1", "--seed", "9") == 0
    assert any(
        path.read_bytes() == first
        for path in tmp_path.glob("*/best/model.safetensors")
    )


def test_a_published_model_reads_its_names_from_the_data(
    model, files, tmp_path, capsys
):
    """MovieLens may not be published: no names in the folder, and without the data a clear
    refusal.
    """
    assert list(pd.read_parquet(model / "items.parquet")) == ["id"]
    code, out, _ = infer(
        capsys, "--model_path", model, "--history", "3,9", "--data_dir", files
    )
    assert code == 0 and "Synthetic Film" in out
    RecommendationEngine(model, files)  # a path may be a Path
    code, _, err = infer(
        capsys,
        "--model_path",
        model,
        "--history",
        "3,9",
        "--data_dir",
        tmp_path,
    )
    assert code == 2 and "has no ratings.dat" in err


def test_a_model_of_ones_own_data_needs_no_data(tmp_path, capsys):
    frame = films()["interactions"].frame
    table = tmp_path / "shop.csv"
    frame[["user_id", "movie_id", "timestamp"]].to_csv(table, index=False)
    assert train(tmp_path, tmp_path, "--dataset", str(table)) == 0
    table.unlink()
    capsys.readouterr()
    code, out, _ = infer(
        capsys, "--model_path", tmp_path / "best", "--history", "3,9", "--json"
    )
    assert (
        code == 0
        and out.isascii()
        and len(json.loads(out)["recommendations"]) == 10
    )


def test_recommendations_are_unseen_and_ordered(engine):
    best = engine.get_recommendations(12, k=20)
    seen = set(
        engine.catalogue.items.id_array(engine.history(12).items).tolist()
    )
    assert len({item.id for item in best}) == 20 and not seen & {
        item.id for item in best
    }
    assert [item.score for item in best] == sorted(
        (item.score for item in best), reverse=True
    )
    chosen = engine.answer(
        [Query(engine.history(12), 3, None, ["genres=Drama", "year>=1960"])]
    )[0]
    assert all(
        "Drama" in item.columns["genres"] and item.columns["year"] >= 1960
        for item in chosen
    )


def test_histories_may_be_arrays(engine):
    wanted = engine.get_recommendations(None, [3, 9, 27])
    texts = np.array(["3", "9", "27"])
    for history in (np.array([3, 9, 27]), pd.Series([3, 9, 27]), texts):
        assert engine.get_recommendations(None, history) == wanted
    with pytest.raises(UserError, match="is not an id"):
        engine.get_recommendations(None, np.array([3.0, 9.0]))


@pytest.mark.parametrize("which", ["model", "timed_model"])
def test_batch_output_gives_the_trainers_metrics(
    which, request, files, tmp_path, capsys
):
    folder = request.getfixturevalue(which)
    output = tmp_path / "recs.parquet"
    code, _, _ = infer(
        capsys,
        "--model_path",
        folder,
        "--data_dir",
        files,
        "--users",
        "all",
        "--history_until",
        "test",
        "--output",
        output,
    )
    assert code == 0
    table = pd.read_parquet(output)
    data = load(load_model(folder, data_dir=str(files)).settings.data)
    requests = data.split.requests["test"]
    users = data.catalogue.users.id_array(requests.users).tolist()
    targets = dict(
        zip(
            users,
            data.catalogue.items.id_array(data.items[requests.ends]).tolist(),
            strict=True,
        )
    )
    hits = [
        targets[user] == item
        for user, item in zip(table["user_id"], table["item_id"], strict=True)
    ]
    results = json.loads((folder / "results.json").read_text())
    assert sum(hits) / len(targets) == pytest.approx(
        results["ranking"]["enhanced"]["HR@10"]["mean"]
    )


def test_lists_scored_by_a_script_outside_give_the_trainers_figures(
    model, files, tmp_path, capsys
):
    """`benchmarks/score_lists.py` reads lists and the raw file and nothing of this project."""
    output = tmp_path / "lists.csv"
    command = ["--model_path", model, "--data_dir", files, "--users", "all"]
    command += ["--history_until", "test", "--output", output]
    assert infer(capsys, *command)[0] == 0
    script = ROOT / "benchmarks" / "score_lists.py"
    source = script.read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE))
    assert imported and imported <= sys.stdlib_module_names
    told = subprocess.run(
        [sys.executable, script, output, files / "ratings.dat"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ranking = json.loads((model / "results.json").read_text())["ranking"]
    figures = {
        name: f"{ranking['enhanced'][name]['mean']:.4f}"
        for name in ("HR@10", "NDCG@10")
    }
    assert f"HR@10 {figures['HR@10']}, NDCG@10 {figures['NDCG@10']}" in told
    empty = tmp_path / "empty.csv"
    empty.write_text("user_id,item_id,rank\n")
    ratings = files / "ratings.dat"
    for wrong in ((output, output), (ratings, ratings), (empty, ratings)):
        failed = subprocess.run(
            [sys.executable, script, *wrong], capture_output=True, text=True
        )
        assert failed.returncode == 2 and "Traceback" not in failed.stderr


def test_an_item_that_training_never_saw(starting_model, files):
    engine = RecommendationEngine(starting_model, data_dir=str(files))
    new = engine.add_item(
        None, "A New Film (2001)", {"genres": ["Drama"], "year": 2001}
    )
    best = {item.id: item for item in engine.get_recommendations(12, k=40)}
    everything = engine.get_recommendations(None, [3], 80)
    assert new in {item.id for item in everything} or new in best
    assert next(item for item in everything if item.id == new).note


def test_a_run_resumed_before_its_first_best_keeps_the_older_model(
    files, tmp_path
):
    """Run A finishes, run B stops before it evaluates and resumes: each has a folder of its own."""
    assert train(tmp_path, files, "--max_epochs", "1", "--seed", "1") == 0
    step = training_loop.Run.train_step

    def stopped(run, batch):
        step(run, batch)
        os.kill(os.getpid(), signal.SIGINT)

    training_loop.Run.train_step = stopped
    try:
        assert (
            train(tmp_path, files, "--max_epochs", "2", "--seed", "2") == 130
        )
    finally:
        training_loop.Run.train_step = step
    assert (
        run_command(
            trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path)]
        )
        == 0
    )
    seeds = []
    for run in sorted(tmp_path.glob("*/run.json")):
        for part in ("checkpoint.json", "results.json"):
            found = json.loads((run.parent / "best" / part).read_text())
            seeds.append(found.get("seed") or found["settings"]["seed"])
    assert seeds == [1, 1, 2, 2]


def test_a_full_disk_while_saving_a_checkpoint(model, tmp_path, monkeypatch):
    import safetensors.torch
    import torch

    from support.checkpoint import read_checkpoint, write_checkpoint

    folder = shutil.copytree(model, tmp_path / "best")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_args):
        raise safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match="no space left"):
        write_checkpoint(folder, {"x": torch.zeros(3)}, {})
    assert {
        path.name: path.read_bytes() for path in folder.iterdir()
    } == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    monkeypatch.undo()
    replace = os.replace
    monkeypatch.setattr(
        os,
        "replace",
        lambda old, new: (
            full() if str(old).endswith("new") else replace(old, new)
        ),
    )
    with pytest.raises(
        UserError, match="no space left"
    ):  # at the very last step
        write_checkpoint(folder, {"x": torch.zeros(3)}, {})
    assert {
        path.name: path.read_bytes() for path in folder.iterdir()
    } == before
    assert read_checkpoint(folder)[1]["settings"]["seed"] == 42


# Runs and their folders


def test_a_trial_does_not_take_the_better_models_place(
    files, tmp_path, capsys
):
    """A worse model of the same split stays in its own folder; a better one takes the place."""
    assert train(tmp_path, files, "--max_epochs", "3") == 0
    long = (tmp_path / "best").resolve()
    # On data so small a trial may be better by chance.
    edit(
        long / "checkpoint.json",
        lambda content: content["validation"].update({"NDCG@10": 0.99}),
    )
    assert train(tmp_path, files, "--max_steps", "1", "--seed", "7") == 0
    assert "stays the better model" in capsys.readouterr().out
    assert (tmp_path / "best").resolve() == long
    trial = newest_run(tmp_path)
    assert trial != long.parent and read_results(trial / "best")["seed"] == 7
    # Of other data: it is what is worked with now.
    synthetic = ["--dataset", "synthetic", "--max_steps", "1"]
    synthetic += ["--no_transitions"]
    places = ["--checkpoint_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    assert run_command(trainer.main, [*SMALL, *synthetic, *places]) == 0
    assert (tmp_path / "best").resolve().parent == newest_run(tmp_path)
    assert read_results(long)["seed"] == 42


def test_results_of_other_weights_are_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "best")
    assert read_results(folder)["seed"] == 42
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="measured of other weights"):
        read_results(folder)


def test_a_resumed_run_has_the_threads_it_began_with(files, tmp_path):
    """Sums of another number of threads round otherwise."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert train(tmp_path, files, "--max_epochs", "1") == 0
        torch.set_num_threads(3)
        resume = ["--resume", "--checkpoint_dir", str(tmp_path)]
        assert run_command(trainer.main, resume) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_process_a_run(model, tmp_path):
    with (
        lock_or_refuse(tmp_path / "lock", "taken"),
        pytest.raises(UserError, match="taken"),
        lock_or_refuse(tmp_path / "lock", "taken"),
    ):
        pass
    with lock_or_refuse(tmp_path / "lock", "taken"):
        pass


def test_a_spoilt_model_of_a_finished_run_comes_back(files, tmp_path):
    """`--resume` writes it again from the run's state, with results of its own."""
    assert train(tmp_path, files, "--max_epochs", "2") == 0
    best = newest_run(tmp_path) / "best"
    wanted = {path.name: path.read_bytes() for path in best.iterdir()}
    shutil.rmtree(best)
    (best).mkdir()
    (best / "model.safetensors").write_bytes(b"cut")
    resume = ["--resume", "--checkpoint_dir", str(tmp_path)]
    assert run_command(trainer.main, resume) == 0
    assert (best / "model.safetensors").read_bytes() == wanted[
        "model.safetensors"
    ]
    assert read_results(best)["seed"] == 42


def test_a_model_of_an_older_version_is_kept(model, files, tmp_path):
    """Where `best` is no link, but the folder that older versions wrote."""
    older = shutil.copytree(model, tmp_path / "best")
    content = (older / "model.safetensors").read_bytes()
    assert train(tmp_path, files, "--max_steps", "1") == 0
    assert (tmp_path / "best").is_symlink()
    assert content in [
        path.read_bytes() for path in tmp_path.glob("*/best/model.safetensors")
    ]


EVENTS = ("rename", "replace", "mkdir", "symlink", "unlink", "rmdir")


KILLED = """
import os, shutil, signal, sys
import auto_preset, trainer, training_run  # what takes seconds, once
from support.errors import run_command

names, folder, used, flags, step = eval(sys.argv[1])

def watch(name, place, left):
    real = getattr(os, name)
    def act(*arguments, **options):
        if place in str(arguments[0]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, act)

def train(place, count):
    left = [count]
    for name in names:
        watch(name, place, left)
    places = ["--checkpoint_dir", place, "--runs_dir", place]
    os._exit(run_command(trainer.main, [*flags, *places]))

for count in range(0, 200, step):
    place = f"{folder}/{count}"
    if used:
        shutil.copytree(used, place, symlinks=True)
    child = os.fork()
    if child == 0:
        train(place, count)
    _, status = os.waitpid(child, 0)
    if status == 0:
        sys.exit()
sys.exit(1)
"""


def runs_of(place):
    return {path.parent.name for path in place.glob("*/run.json")}


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True])
def test_killed_before_each_change_of_the_file_system(
    model, files, tmp_path, used
):
    """Before every fifth change, in a used folder every seventh: `--resume` ends in the undisturbed
    result, or nothing was begun."""
    flags = ["--data_dir", str(files), *SMALL, "--no_transitions"]
    flags += ["--max_epochs", "2", "--seed", "5", "--batch_tokens", "4000"]
    template, step = (str(model.parent), 7) if used else ("", 5)
    told = repr((EVENTS, str(tmp_path), template, flags, step))
    # One process that imports, and a fork of it for each number of changes.
    subprocess.run(
        [sys.executable, "-c", KILLED, told],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    before = runs_of(model.parent) if used else set()
    places = sorted(tmp_path.iterdir(), key=lambda place: int(place.name))
    begun = [place for place in places if runs_of(place) - before]
    assert len(begun) > 5
    # The last one was not killed.
    undisturbed = place_of_weights(begun[-1], before).read_bytes()
    for place in begun:
        resume = ["--resume", "--checkpoint_dir", str(place)]
        assert run_command(trainer.main, resume) == 0
        weights = place_of_weights(place, before)
        info = json.loads((weights.parent / "checkpoint.json").read_text())
        results = read_results(weights.parent)
        assert info["settings"]["seed"] == results["seed"] == 5
        assert weights.read_bytes() == undisturbed, place.name


def place_of_weights(place, before):
    """The weights of the one run in a folder that was not there before."""
    (run,) = runs_of(place) - before
    return place / run / "best" / "model.safetensors"


@pytest.mark.parametrize("script", ["trainer", "inference"])
def test_flags_are_read_before_what_is_slow_is_imported(script):
    code = f"import sys, {script}; print({{'torch', 'pandas'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


def test_the_list_comes_before_its_reasons(model, capsys):
    """Ten items, then their reasons in the same order, then what the numbers mean."""
    code, out, _ = infer(capsys, "--model_path", model, "--user_id", 12)
    assert code == 0
    listed, _, reasons = out.partition("\nWhy:\n")
    numbers = [str(number) for number in range(1, 11)]
    assert re.findall(r"^ *(\d+)\. ", listed, re.MULTILINE) == numbers
    assert re.findall(r"^ *(\d+)\. ", reasons, re.MULTILINE) == numbers
    assert "A number in parentheses" in reasons
    plain = ("--model_path", model, "--user_id", 12, "--no_explain")
    code, short, _ = infer(capsys, *plain)
    assert code == 0 and short == listed
    code, out, _ = infer(capsys, *plain, "--json")
    rows = json.loads(out)["recommendations"]
    assert len(rows) == 10 and "explanation" not in rows[0]


def test_a_list_for_what_came_next(model, engine, capsys):
    flags = ("--model_path", model, "--user_id", 12, "--no_explain")
    code, out, _ = infer(capsys, *flags, "--history_until", "test")
    chosen = engine.held_out(12, "test")
    name = engine.item(engine.catalogue.items.index([chosen])[0]).name
    assert code == 0 and f"Chosen next: {name}, place " in out


def test_a_list_below_the_users_mean_says_so(model, engine):
    """And which flags list what the user should like."""
    history = engine.history(12)
    profile = engine.profile_of(history, 12)
    (items,) = engine.answer([Query(history, k=10)])
    high = dataclasses.replace(profile, means={"rating": 5.0})
    line = below_mean_line(engine.schema, high, items)
    assert line.startswith("10 of these films may come next")
    assert "--rank_by liked --prefer_expected mean" in line
    low = dataclasses.replace(profile, means={"rating": 1.0})
    assert below_mean_line(engine.schema, low, items) == ""


def test_a_list_of_what_the_user_should_like(model, engine, capsys):
    flags = ("--model_path", model, "--user_id", 12, "--json", "--no_explain")
    code, out, _ = infer(
        capsys, *flags, "--rank_by", "liked", "--prefer_expected", "mean"
    )
    found = [item["id"] for item in json.loads(out)["recommendations"]]
    expected = engine.get_recommendations(
        12, rank_by="liked", prefer_expected="mean"
    )
    assert code == 0 and found == [item.id for item in expected]
    wrong = ("--prefer_expected", "high")
    code, _, err = infer(capsys, "--user_id", 12, *wrong)
    assert code == 2 and "give a number" in err


def test_similar_items_and_limited_lists(model, engine, capsys, tmp_path):
    some = engine.get_recommendations(12, k=4)
    names, ids = [item.name for item in some], [item.id for item in some]
    (tmp_path / "only").write_text("\n".join(names))
    flags = ("--model_path", model, "--json", "--no_explain")
    limited = ("--only", f"@{tmp_path}/only", "--without", ids[1])
    code, out, _ = infer(capsys, *flags, "--user_id", 12, *limited)
    found = [item["id"] for item in json.loads(out)["recommendations"]]
    assert code == 0 and found == [ids[0], *ids[2:]]
    code, out, _ = infer(capsys, *flags, "--similar_to", names[0], "--k", 3)
    found = [item["id"] for item in json.loads(out)["recommendations"]]
    alike = engine.similar_items(ids[0], 3)
    assert code == 0 and found == [item.id for item in alike]
    code, _, err = infer(capsys, *flags, "--similar_to", "1,2")
    assert code == 2 and "give one item" in err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--similar_to 7 --only 8", "--only goes without --similar_to"),
        ("--similar_to 7 --rank_by liked", "--rank_by"),
        ("--similar_to 7 --user_id 3", "--user_id goes without --similar_to"),
        ("--users all --output lists", "lists: give a file FILE.csv"),
        ("--users all --output lists.txt", "lists.txt: give a file FILE.csv"),
        ("--user_id 12 --at 20010131", "2001-01-31T20:00"),
    ],
)
def test_flags_without_effect_and_places_are_refused_at_once(
    timed_model, capsys, flags, named
):
    flags = ("--model_path", timed_model, *flags.split())
    code, out, err = infer(capsys, *flags)
    assert code == 2 and named in err and not out


def test_vectors_do_not_take_the_place_of_a_model(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    items = (folder / "items.parquet").read_bytes()
    flags = ("--model_path", model, "--users", "all", "--vectors")
    code, _, err = infer(capsys, *flags, folder)
    assert code == 2 and "other files" in err
    assert (folder / "items.parquet").read_bytes() == items
    older = tmp_path / "vectors" / "users-00007.parquet"
    older.parent.mkdir()
    older.touch()
    (older.parent / "vectors.json").write_text("{}")
    code, out, err = infer(capsys, *flags, tmp_path / "vectors")
    assert code == 0 and not out and "vectors of" in err
    assert not older.exists()
