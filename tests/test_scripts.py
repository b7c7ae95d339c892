"""The scripts end to end on tiny data: what they print, write and refuse."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import bert_multi
import inference
import trainer
import training_loop
from ablations import rows
from batches import history_batch
from data_processor import load
from dataset import ITEM_ROWS
from engine import Query, RecommendationEngine
from evaluation.protocols import draw_candidates
from model_io import load_model
from settings import EvalSettings
from support.checkpoint import read_json, write_json
from support.errors import UserError, run_command
from tests.conftest import ROOT, films, write_ml_1m

SMALL = ["--hidden_size", "16", "--seq_length", "20", "--max_epochs", "3", "--eval_every", "1", "--batch_size", "16",
         "--learning_rate", "0.01", "--precision", "fp32", "--device", "cpu"]


def train(folder, data_dir, *flags):
    return run_command(trainer.main, ["--preset", "quick", "--data_dir", str(data_dir), "--checkpoint_dir", str(folder),
                                      "--runs_dir", str(folder / "runs"), *SMALL, *flags])


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
    assert train(files / "starting", files, "--start_token", "--max_steps", "3") == 0
    return files / "starting" / "best"


@pytest.fixture(scope="module")
def engine(model):
    return RecommendationEngine(model)


def infer(capsys, *flags):
    """(exit code, stdout, stderr)."""
    code = run_command(inference.main, list(map(str, flags)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# Training -------------------------------------------------------------------------------------------------------------

def test_trainer_leaves_what_it_promises(model):
    assert sorted(path.name for path in model.iterdir()) == \
        ["checkpoint.json", "model.safetensors", "results.json", "test_users.parquet"]
    info = json.loads((model / "checkpoint.json").read_text())
    assert {"settings", "split_hash", "seed", "git_commit", "versions", "item_ids", "user_ids"} <= set(info)
    results = json.loads((model / "results.json").read_text())
    assert set(results["ranking"]) == {"popularity", "enhanced"} and results["split_hash"] == info["split_hash"]
    assert set(results["values"]["rating"]) >= {"user mean", "item mean", "head"}
    assert set(results["preferences"]["genres"]) == {"head", "constant", "own history"}
    users = pd.read_parquet(model / "test_users.parquet")
    assert len(users) == 60 and users["HR@10"].mean() == pytest.approx(results["ranking"]["enhanced"]["HR@10"]["mean"])
    (record,) = (model.parent / "runs").glob("*.jsonl")
    events = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["event"] for row in events] == ["settings", "epoch", "epoch", "epoch", "fit", "test"]
    assert {"loss_next_item", "loss_value", "loss_preference"} <= set(events[3])
    assert {"seconds", "step", "tokens"} <= set(events[4]["best"])


@pytest.mark.parametrize("flags", [["--model", "vanilla"], ["--model", "vanilla", "--segment_embeddings"],
                                   ["--masked_item_head", "--no-next_item_head", "--no-rating_head",
                                    "--no-preference_head"],
                                   ["--gradient_checkpointing", "--pin_memory", "--tie_break", "random"]])
def test_trainer_with_other_flags(files, tmp_path, capsys, flags):
    assert train(tmp_path, files, *flags, "--max_epochs", "1") == 0
    assert "full ranking of" in capsys.readouterr().out
    code, out, _ = infer(capsys, "--model_path", tmp_path / "best", "--history", "3,5", "--k", 3)
    assert code == 0 and len(re.findall("Because |No single film", out)) == 3


def test_sampled_candidates_are_kept_beside_the_ranks(files, tmp_path):
    assert train(tmp_path, files, "--max_epochs", "1", "--model", "vanilla", "--candidates", "uniform_100") == 0
    users = pd.read_parquet(tmp_path / "best" / "test_users.parquet")
    kept = users[[name for name in users if name.startswith("candidate")]].to_numpy()
    data = load(load_model(tmp_path / "best")[1].data)
    drawn = draw_candidates(data, "test", EvalSettings(candidates="uniform_100"))
    assert (kept == data.catalogue.item_ids[drawn - ITEM_ROWS]).all() and kept.shape == (60, 100)


def test_trainer_with_teachers(files, model, tmp_path, capsys):
    assert train(tmp_path, files, "--max_epochs", "1", "--hidden_size", "8", "--teacher", f"{model},{model}") == 0
    for flags, said in ((["--model", "vanilla"], "same kind"), (["--seq_length", "30"], "at least 30"),
                        (["--min_item_count", "20"], "other films"), (["--protocol", "global_time"], "held out here"),
                        (["--query_time", "known"], "query_time that"),
                        (["--popularity_correction", "0.3"], "--popularity_correction keeps")):
        assert train(tmp_path / "other", files, "--max_epochs", "1", "--teacher", str(model), *flags) == 2
        assert re.search(said, capsys.readouterr().err)
    multi = ("--max_epochs", "1", "--hidden_size", "8", "--protocol", "multi5", "--holdout_share")
    assert train(tmp_path / "multi", files, *multi, "0.15") == 0  # the next share's split has the same hash
    assert train(tmp_path / "other", files, *multi, "0.148", "--teacher", str(tmp_path / "multi" / "best")) == 2
    assert "another choice of data: --holdout_share is 0.15 there and 0.148 here" in capsys.readouterr().err
    everything = shutil.copytree(model, tmp_path / "everything")
    info = read_json(everything / "checkpoint.json")
    write_json(everything / "checkpoint.json", {**info, "validation": {"seconds": 1.0}})  # as where nothing is held out
    for flag in ("--teacher", "--start_from"):
        assert train(tmp_path / "other", files, "--max_epochs", "1", flag, str(everything)) == 2
        assert re.search(f"{flag} .* not selected on validation", capsys.readouterr().err)
    assert not (tmp_path / "other").exists()
    assert train(model.parent, files, "--teacher", str(model)) == 2  # it would be overwritten, and then followed
    assert "is where this run keeps its own" in capsys.readouterr().err


def test_a_teacher_must_have_trained_the_heads_that_follow_it(files, tmp_path, capsys):
    """A head that was built and never trained says nothing worth following."""
    both = ("--max_epochs", "1", "--hidden_size", "8", "--masked_item_head")
    assert train(tmp_path / "causal", files, *both, "--masked_item_weight", "0") == 0
    assert train(tmp_path / "taught", files, *both, "--masked_item_weight", "0", "--teacher",
                 str(tmp_path / "causal" / "best")) == 0
    assert train(tmp_path / "other", files, *both, "--teacher", str(tmp_path / "causal" / "best")) == 2
    assert "did not train an item head" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--graph_encoder", "rgcn"], ["--graph_encoder", "lightgcn_frozen"],
                                   ["--model", "vanilla"]], ids=["plain", "graph", "graph beforehand", "vanilla"])
def test_going_on_from_a_model_with_new_films_and_people(tiny, tmp_path, capsys, flags):
    """At a learning rate of nothing it is the older model for old films and people, but for a graph's new edges; at a
    real one it learns."""
    ratings = tiny.ratings[(tiny.ratings["movie_id"] <= 70) & (tiny.ratings["user_id"] <= 50)]
    few = write_ml_1m(tmp_path / "few", ratings, tiny.movies, tiny.users)
    many = write_ml_1m(tmp_path / "many", tiny.ratings, tiny.movies, tiny.users)
    assert train(tmp_path / "old", few, *flags) == 0
    start = ["--start_from", str(tmp_path / "old" / "best")]
    assert train(tmp_path / "same", many, *flags, *start, "--learning_rate", "1e-12", "--max_steps", "1") == 0
    older, same = (RecommendationEngine(tmp_path / name / "best", data_dir=str(few)) for name in ("old", "same"))
    assert len(same.catalogue.item_ids) == 80 and len(same.catalogue.user_ids) == 60
    before, after = ({row["movie_id"]: row["score"] for row in engine.get_recommendations(None, [3, 9, 27], count)}
                     for engine, count in ((older, 60), (same, 77)))
    if "vanilla" not in flags:  # counted in the data that it goes on with
        data = load(load_model(tmp_path / "same" / "best")[1].data)
        counts = np.bincount(data.items[data.training_rows()], minlength=data.catalogue.num_rows)
        assert same.model.counts.tolist() == counts.tolist()
    assert "rgcn" in flags or before == pytest.approx({film: after[film] for film in before}, abs=2e-3)
    assert train(tmp_path / "new", many, *flags, *start) == 0
    newer = RecommendationEngine(tmp_path / "new" / "best", data_dir=str(many))
    assert newer.get_recommendations(None, [3, 9, 27]) != same.get_recommendations(None, [3, 9, 27])
    capsys.readouterr()
    for other, said in ((["--hidden_size", "32"], "--hidden_size is 16 there and 32 here"),
                        (["--num_heads", "1"], "--num_heads is 2 there"),  # its weights would fit
                        (["--min_rating", "2"], "another choice of data: --min_rating is 1 there"),
                        (["--tie_break", "random"], "another choice of data: --tie_break is file there"),
                        (["--protocol", "global_time"], "--protocol is leave_one_out there")):
        assert train(tmp_path / "wide", many, *flags, *start, *other) == 2
        assert said in capsys.readouterr().err
    unused = ["--dropout", "0.3", "--temperature", "0.2", "--holdout_share", "0.2"]
    assert train(tmp_path / "dropout", many, *flags, *start, *unused, "--max_steps", "1") == 0
    fewer = write_ml_1m(tmp_path / "fewer", tiny.ratings[tiny.ratings["user_id"] > 55], tiny.movies, tiny.users)
    assert train(tmp_path / "less", fewer, *flags, "--start_from", str(tmp_path / "new" / "best")) == 2
    assert "lacks films" in capsys.readouterr().err


def test_going_on_may_not_have_seen_what_is_held_out(tiny, tmp_path, capsys):
    """Older files, in which what the model learned from is held out; and other people under multi5."""
    files = write_ml_1m(tmp_path / "now", tiny.ratings, tiny.movies, tiny.users)
    newest = tiny.ratings.sort_values("timestamp", kind="stable").groupby("user_id").tail(1)
    older = tiny.ratings.drop(newest[newest["movie_id"].map(tiny.ratings["movie_id"].value_counts()) > 5].index)
    before = write_ml_1m(tmp_path / "before", older[older["user_id"] < 60], tiny.movies, tiny.users)
    start = ["--start_from", str(tmp_path / "model" / "best"), "--max_steps", "1"]
    for kind in ("vanilla", "enhanced"):
        for flags, grows in (([], True), (["--protocol", "multi5"], False), (["--tie_break", "random"], False)):
            flags = [*flags, "--model", kind]
            for first, second in ((before, before), (before, files), (files, before)):
                assert train(tmp_path / "model", first, *flags, "--max_steps", "1") == 0
                capsys.readouterr()
                done = train(tmp_path / "later", second, *flags, *start)
                assert done == (0 if first == second or (second == files and grows) else 2)
                assert ("held out here" in capsys.readouterr().err) == (done == 2)


def test_trainer_never_falls_back_on_synthetic_data(tmp_path, capsys):
    assert train(tmp_path, tmp_path / "nothing") == 2
    captured = capsys.readouterr()
    assert "has no ratings.dat" in captured.err and captured.err.count("\n") == 1 and not list(tmp_path.glob("best*"))


def test_an_earlier_best_is_set_aside_not_lost(files, tmp_path):
    for seed in (1, 2):
        assert train(tmp_path, files, "--max_epochs", "1", "--seed", str(seed)) == 0
    seeds = [json.loads((tmp_path / name / "checkpoint.json").read_text())["seed"]
             for name in ("best.previous", "best")]
    assert seeds == [1, 2]


def test_ctrl_c_saves_says_how_to_go_on_and_resume_goes_on(files, tmp_path):
    command = [sys.executable, "trainer.py", "--data_dir", str(files), "--checkpoint_dir", str(tmp_path / "c"),
               "--runs_dir", str(tmp_path / "runs"), *SMALL, "--max_epochs", "400", "--patience", "1000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 300
    while not (tmp_path / "c" / "best").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "--resume --checkpoint_dir" in err and "Traceback" not in err
    stopped = json.loads((tmp_path / "c" / "last" / "checkpoint.json").read_text())
    done_steps = stopped["progress"]["step"]
    # Shorten what is left, then go on through the command line.
    stopped["settings"]["max_epochs"] = stopped["progress"]["epoch"] + 2
    (tmp_path / "c" / "last" / "checkpoint.json").write_text(json.dumps(stopped))
    assert run_command(trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path / "c")]) == 0
    after = json.loads((tmp_path / "c" / "last" / "checkpoint.json").read_text())["progress"]
    assert after["step"] > done_steps and after["epoch"] == stopped["progress"]["epoch"] + 2


@pytest.mark.parametrize("flag", ["--runs_dir", "--checkpoint_dir"])
def test_a_file_where_a_folder_should_be(files, tmp_path, capsys, flag):
    (tmp_path / "file").write_text("precious")
    assert train(tmp_path / "c", files, flag, str(tmp_path / "file")) == 2
    err = capsys.readouterr().err
    assert "choose another place" in err and err.count("\n") == 1 and (tmp_path / "file").read_text() == "precious"


def test_a_run_resumed_before_its_first_best_keeps_the_older_model(files, tmp_path):
    """Run A finishes, run B stops before it evaluates and resumes: A's model is set aside, not overwritten."""
    assert train(tmp_path, files, "--max_epochs", "1", "--seed", "1") == 0
    step = training_loop.Run.train_step

    def stopped(run, batch):
        step(run, batch)
        os.kill(os.getpid(), signal.SIGINT)

    training_loop.Run.train_step = stopped
    try:
        assert train(tmp_path, files, "--max_epochs", "2", "--seed", "2") == 130
    finally:
        training_loop.Run.train_step = step
    assert run_command(trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path)]) == 0
    seeds = [json.loads((tmp_path / name / "checkpoint.json").read_text())["seed"]
             for name in ("best.previous", "best")]
    assert seeds == [1, 2]


@pytest.mark.parametrize("command", [
    [bert_multi.main, "--size", "S", "--min_rating", "1"],
    [rows.main, "vanilla", "--board", "loo-3706", "--seeds", "1"]])
def test_ctrl_c_of_the_scripts_that_train_is_one_line(tmp_path, capsys, monkeypatch, command):
    step = training_loop.Run.train_step

    def stopped(run, batch):
        step(run, batch)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training_loop.Run, "train_step", stopped)
    places = ["--work", str(tmp_path), "--results", str(tmp_path)] if command[0] is rows.main else \
        ["--checkpoint_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    assert run_command(command[0], [*command[1:], *SMALL, "--dataset", "synthetic", *places]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("stopped and saved; the same command goes on")


def test_resume_without_a_stopped_run(tmp_path, capsys):
    assert run_command(trainer.main, ["--resume", "--checkpoint_dir", str(tmp_path)]) == 2
    assert "no stopped run" in capsys.readouterr().err


# Inference ------------------------------------------------------------------------------------------------------------

def test_ten_titled_recommendations_with_reasons(model, files, capsys):
    code, out, _ = infer(capsys, "--model_path", model, "--user_id", 12, "--k", 10)
    assert code == 0 and out.count("Synthetic Film") >= 10 and "User 12: " in out
    assert len(re.findall("Because |No single film", out)) == 10
    assert [f"{rank:3d}. " in out for rank in range(1, 11)] == [True] * 10


def test_recommendations_are_unseen_and_ordered(engine):
    rows = engine.get_recommendations(12, None, 10, True)
    seen = set(engine.catalogue.movie_id(engine.history(12, None).items))
    assert not {row["movie_id"] for row in rows} & seen
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert all(1 <= row["predicted_rating"] <= 5 for row in rows)
    everything = engine.get_recommendations(12, None, 80, False)
    assert len({row["movie_id"] for row in everything}) == 80


def test_history_of_a_stranger_needs_no_data(model, tmp_path, capsys):
    """Ids and titles, case and year optional; the data folder is not even there."""
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    title = next(iter(json.loads((moved / "metadata.json").read_text())["movies"].values()))["title"]
    answers = [infer(capsys, "--model_path", moved, "--history", text, "--k", 5, "--json", "--data_dir", tmp_path)
               for text in ("1,5", f"{title}; 5", f"{title.lower()[:-7]}; synthetic film 005")]
    ids = [[film["movie_id"] for film in json.loads(out)["recommendations"]] for _, out, _ in answers]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 5


@pytest.mark.parametrize(("typed", "found"), [
    ("The Matrix", [1]), ("matrix", [1]), ("Matrix, The (1999)", [1]), ("les miserables", [2]), ("bugs life", [3]),
    ("Leon", [4]), ("et the extra-terrestrial", [5]), ("The Matrix; alien", [1, 6]), ("Alien, Brazil", [6, 8]),
    ("alien", [6]), ("Age d'or", [9]), ("fants", [10]), ("7; brazil", [7, 8])])
def test_titles_as_people_type_them(typed, found):
    """Articles, accents and punctuation matter no more than case; whole words come before parts of words."""
    titles = ("Matrix, The (1999)", "Misérables, Les (1995)", "Bug's Life, A (1998)",
              "Professional, The (a.k.a. Leon: The Professional) (1994)", "E.T. the Extra-Terrestrial (1982)",
              "Alien (1979)", "Napoleon and Samantha (1972)", "Brazil (1985)", "Age d'or, L' (1930)",
              "City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    assert find_films(SimpleNamespace(titles=titles, item_ids=np.arange(1, 11)), typed) == found


def test_a_published_model_takes_its_titles_from_the_data(model, files, tmp_path, capsys):
    """Published models come without metadata.json: from --data_dir, or where the data lay in training."""
    bare, elsewhere = shutil.copytree(model, tmp_path / "bare"), shutil.copytree(files, tmp_path / "data")
    (bare / "metadata.json").unlink()
    edit(bare / "checkpoint.json", lambda info: info["settings"].update(data_dir=str(tmp_path / "gone")))
    code, _, err = infer(capsys, "--model_path", bare, "--history", "1,5", "--json")
    assert code == 2 and "gone" in err and "--data_dir" in err
    answers = [infer(capsys, "--model_path", place, "--history", "1,5", "--json", "--data_dir", elsewhere)[1]
               for place in (model, bare)]
    assert json.loads(answers[0])["recommendations"] == json.loads(answers[1])["recommendations"]


def test_filters(engine):
    for row in engine.get_recommendations(12, None, 5, genres=["drama", "Comedy"], year_from=1980):
        assert set(row["genres"]) & {"Drama", "Comedy"} and row["year"] >= 1980


def test_explanation_is_the_models_own_change(engine):
    """Against scoring by hand: leave one film out, score again."""
    import torch

    from batches import History, history_batch

    sequence = [3, 9, 27, 50]
    why = engine.explain_recommendation(None, sequence, 60)
    assert [film["effect"] for film in why["history"]] == sorted((film["effect"] for film in why["history"]),
                                                                 reverse=True)

    def log_probability(films):
        past = History(engine.catalogue.item_index(films), whole=False)
        scores = engine.model.score(history_batch([past], 20))[0].detach()
        scores[torch.from_numpy(engine.catalogue.item_index(sequence))] = -torch.inf
        return float(scores.log_softmax(0)[engine.catalogue.item_index([60])[0]])

    history = engine.history(None, sequence)
    (alone,) = engine.explain(Query(history), [60], "leave_one_out")
    effects = {film["movie_id"]: film["effect"] for film in alone["history"]}
    for film in sequence:
        expected = log_probability(sequence) - log_probability([other for other in sequence if other != film])
        assert effects[film] == pytest.approx(expected, abs=2e-4)
    assert set(why["features"]) == {"ratings", "times", "demographics", "user_id", "genres", "year"}
    # A bare history has neither ratings nor times nor a known person: leaving them out changes nothing.
    assert [why["features"][name] for name in ("ratings", "times", "demographics", "user_id")] == [0.0] * 4


def test_explained_in_full(model, engine, capsys):
    """As a table and as JSON; what it says would take a film off the list does so."""
    code, out, _ = infer(capsys, "--model_path", model, "--user_id", 12, "--k", 2, "--explain")
    assert code == 0 and "because of" in out and "as another" in out and "Shares of the history add up" in out
    _, out, _ = infer(capsys, "--model_path", model, "--user_id", 12, "--k", 2, "--explain", "--json")
    for film in json.loads(out)["recommendations"]:
        why = film["explanation"]
        assert {"effect", "places"} <= set(why["history"][0]) and len(why["history"]) == len(
            engine.history(12, None).items[-20:])
        gone = [entry["movie_id"] for entry in why["what_if"]["without"] or []]
        kept = [movie for movie in engine.catalogue.movie_id(engine.history(12, None).items[-20:]).tolist()
                if movie not in gone]
        if gone and kept:
            question = engine._question(Query(engine.history(12)), [film["movie_id"]])
            places = np.isin(engine.catalogue.movie_id(question.read.items), gone)
            assert question.outcomes(~places[None])[1][0, 0] > 2 >= question.outcomes(
                np.ones((1, question.length), dtype=bool))[1][0, 0]
        assert {entry["fact"] for entry in why["what_if"]["as_another"]} == {"gender", "age"}
        assert len(why["what_if"]["as_another"]) == 1 + 6


def test_explained_among_the_films_that_were_asked_for(engine):
    """Ranks are places in the list; what takes a film off it does so among the films that the filters leave."""
    history = engine.history(12)
    for query in (Query(history, 3, genres=["Comedy", "Drama", "Action"]), Query(history, 3, filter_seen=False),
                  Query(history, 3, year_from=1970)):
        (films,) = engine.answer([query])
        reasons = engine.explain(query, [film["movie_id"] for film in films], in_full=True)
        assert [why["rank"] for why in reasons] == [1, 2, 3]
        for why in reasons:
            gone = why["what_if"]["without"]
            question = engine._question(query, [why["movie_id"]])
            left = ~np.isin(question.read.items, engine.catalogue.item_index([film["movie_id"] for film in gone or []]))
            assert gone != [] and (gone is None or question.outcomes(left[None])[1][0, 0] > 3)
    (last,) = engine.explain(Query(history, 1), [engine.answer([Query(history, 9)])[0][-1]["movie_id"]], in_full=True)
    assert last["rank"] == 9 and last["what_if"]["without"] == []


@pytest.mark.parametrize(("name", "begins"), [("why.png", b"\x89PNG"), ("why.svg", b"<?xml"), ("why.pdf", b"%PDF"),
                                              ("why.html", b"<!doctype html>")])
def test_reasons_as_a_figure(model, tmp_path, capsys, name, begins):
    path = tmp_path / "new" / name
    assert infer(capsys, "--model_path", model, "--user_id", 12, "--k", 2, "--plot", path)[0] == 0
    content = path.read_bytes()
    assert content.startswith(begins)
    if name.endswith(".html"):
        assert content.count(b"layer 2, head") == 2 and b"Because" in content and b"http-equiv" not in content
    code, _, err = infer(capsys, "--model_path", model, "--user_id", 12, "--plot", tmp_path / "why.gif")
    assert code == 2 and ".png" in err and not (tmp_path / "why.gif").exists()


def test_somebody_new(starting_model, capsys):
    """Nobody known at all, demographics alone, demographics with a history; they matter, an age counts as its group."""
    def films(*flags):
        code, out, err = infer(capsys, "--model_path", starting_model, "--k", 5, "--json", *flags)
        assert code == 0, err
        return [(film["movie_id"], film["score"]) for film in json.loads(out)["recommendations"]]

    anybody, woman = films("--history", ""), films("--history", "", "--gender", "F", "--age", 27, "--occupation", 4)
    assert len(anybody) == len(woman) == 5 and anybody != woman
    assert woman == films("--gender", "F", "--age", 25, "--occupation", 4)
    assert films("--history", "3,9", "--gender", "F") != films("--history", "3,9", "--gender", "M") != \
        films("--history", "3,9")
    code, out, _ = infer(capsys, "--model_path", starting_model, "--history", "", "--age", 30, "--k", 3, "--explain")
    assert code == 0 and "History: none" in out
    engine = RecommendationEngine(starting_model)
    gender, age, occupation = engine.history(12).demographics
    assert age and engine.history(12, demographics={"age": 56}).demographics == (gender, 7, occupation)
    assert engine.history(12, demographics={"age": None, "gender": "F"}).demographics == (1, 0, occupation)
    assert engine.get_user_profile(demographics={"gender": "F"})["interactions"] == 0


def test_a_film_that_training_never_saw(model, starting_model, files):
    """It can be recommended and be part of a history; all else stays as it was, to the score."""
    for path in (model, starting_model):
        engine = RecommendationEngine(path)
        assert engine.model.places_new_films
        before = engine.get_recommendations(12, None, 40)
        with pytest.raises(UserError, match="movie_id 3 is taken"):
            engine.add_item("Again", movie_id=3)
        with pytest.raises(UserError, match="'Dramma' is none of"):
            engine.add_item("Again", genres=["Dramma"])
        first = engine.add_item("A New Film (2001)", 2001, ["Drama", "Comedy"])
        second = engine.add_item("No More Known", movie_id=5000)
        assert (first, second) == (81, 5000)
        new = {row["movie_id"]: row for row in engine.get_recommendations(12, None, 42)}
        assert set(new) == {row["movie_id"] for row in before} | {81, 5000}
        assert all(new[row["movie_id"]]["score"] == pytest.approx(row["score"], abs=1e-3) for row in before)
        assert new[81]["title"] == "A New Film (2001)" and "ranked by its genres and year" in new[81]["note"]
        assert new[81]["score"] != new[5000]["score"] and "note" not in new[before[0]["movie_id"]]
        assert engine.get_recommendations(None, [3, 81], 2) != engine.get_recommendations(None, [3], 2)
        assert engine.explain_recommendation(12, None, 81)["title"] == "A New Film (2001)"
    assert train(files / "ids", files, "--no-genre_encoder", "--no-year_encoder", "--max_steps", "3") == 0
    engine = RecommendationEngine(files / "ids" / "best")
    engine.add_item("By Its Genres", genres=["Drama"])
    assert {row["note"] for row in engine.get_recommendations(12, None, 41) if "note" in row} == {
        "new: placed among the films with the nearest genres, as this model knows films by experience alone"}
    assert train(files / "graph", files, "--no-genre_encoder", "--no-year_encoder", "--graph_encoder", "rgcn",
                 "--max_steps", "3") == 0
    engine = RecommendationEngine(files / "graph" / "best")
    engine.add_item("By Its Edges", genres=["Drama"])
    assert {row["note"] for row in engine.get_recommendations(12, None, 41) if "note" in row} == {
        "new: ranked by its genres and by the films most like it in these"}


def test_a_film_may_take_an_id_between_others(tiny, tmp_path):
    """The rows of the films after it move, in the data as well."""
    ratings = tiny.ratings[tiny.ratings["movie_id"] != 40]
    folder = write_ml_1m(tmp_path / "data", ratings, tiny.movies, tiny.users)
    assert train(tmp_path / "run", folder, "--max_steps", "3") == 0
    engine = RecommendationEngine(tmp_path / "run" / "best")
    history, before = engine.history(12), engine.get_recommendations(12, None, 5)
    seen = engine.catalogue.movie_id(history.items).tolist()
    assert max(seen) > 40 and engine.add_item("Between", movie_id=40) == 40
    assert engine.catalogue.movie_id(engine.history(12).items).tolist() == seen
    after = [row for row in engine.get_recommendations(12, None, 6) if row["movie_id"] != 40][:5]
    assert [row["movie_id"] for row in after] == [row["movie_id"] for row in before]


def test_profile(engine, tiny):
    """Against pandas."""
    person = tiny.users.set_index("user_id").loc[12]
    profile = engine.get_user_profile(12)
    assert profile["gender"] == person["gender"] and profile["occupation_code"] == person["occupation"]
    assert profile["age_group"] in ("Under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")
    rows = tiny.ratings[tiny.ratings["user_id"] == 12].merge(tiny.movies, on="movie_id")
    assert profile["interactions"] == len(rows) and profile["mean_rating"] == round(rows["rating"].mean(), 2)
    assert sum(profile["ratings"].values()) == len(rows) and profile["favourite_years"]["median"] == round(
        np.median(rows["year"]))
    assert [entry["share"] for entry in profile["genres"]] == sorted(
        (entry["share"] for entry in profile["genres"]), reverse=True)
    for entry in profile["genres"]:
        has = rows["genres"].str.split("|").map(lambda names, genre=entry["genre"]: genre in names)
        z, n, share = 1.959964, len(rows), has.mean()
        middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert entry["share"] == pytest.approx(share, abs=6e-4)
        assert (entry["low"], entry["high"]) == pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (
            1 + z**2 / n)), abs=1e-3)
        assert entry["mean_rating"] == pytest.approx(rows["rating"][has].mean(), abs=6e-4)
        stars = rows["rating"][has]
        if len(stars) > 1:
            bounds = np.clip(stats.t.interval(0.95, len(stars) - 1, stars.mean(), stats.sem(stars)), 1, 5) \
                if stars.std() else [stars.mean()] * 2
            assert (entry["mean_rating_low"], entry["mean_rating_high"]) == pytest.approx(tuple(bounds), abs=1e-3)
        catalogue = tiny.movies[tiny.movies["movie_id"].isin(engine.catalogue.item_ids)]
        among_all = catalogue["genres"].str.split("|").map(lambda names, genre=entry["genre"]: genre in names).mean()
        assert entry["lift"] == pytest.approx(share / among_all, abs=1e-3)
    assert sum(profile["predicted_preferences"].values()) == pytest.approx(1, abs=0.01)
    assert profile["activity"]["visits"] >= 1 and profile["last_interaction"].endswith("UTC")
    assert engine.get_user_profile(None, [3, 9])["interactions"] == 2


@pytest.mark.parametrize("which", ["model", "timed_model"])
def test_batch_output_gives_the_trainers_metrics(which, request, files, tmp_path, capsys):
    """Scored from the raw file by other means, recs.parquet gives what the trainer printed."""
    folder = request.getfixturevalue(which)
    output = tmp_path / "recs.parquet"
    code, out, _ = infer(capsys, "--model_path", folder, "--users", "all", "--history_until", "test",
                         "--output", output)
    assert code == 0 and "60 people" in out
    recs = pd.read_parquet(output)
    assert list(recs.columns) == ["user_id", "item_id", "rank", "score"] and len(recs) == 600
    raw = pd.read_csv(files / "ratings.dat", sep="::", engine="python", names=["user", "item", "rating", "time"])
    last = raw.sort_values(["user", "time"], kind="stable").groupby("user")["item"].last()
    hits = recs[recs["item_id"] == recs["user_id"].map(last)]
    expected = json.loads((folder / "results.json").read_text())["ranking"]["enhanced"]
    assert len(hits) / 60 == pytest.approx(expected["HR@10"]["mean"])
    assert sum(1 / math.log2(1 + rank) for rank in hits["rank"]) / 60 == pytest.approx(expected["NDCG@10"]["mean"])


def test_some_users_and_whole_histories(engine):
    table = engine.recommend_all([4, 9], k=3)
    assert table["user_id"].tolist() == [4] * 3 + [9] * 3 and table["rank"].tolist() == [1, 2, 3] * 2
    assert table["item_id"][:3].tolist() == [row["movie_id"] for row in engine.get_recommendations(4, None, 3)]


def test_precision_of_batch_recommendation(engine):
    """bf16 changes scores a little for whole histories, and nothing before a held-out interaction."""
    exact, quick = (engine.recommend_all(k=10, precision=precision) for precision in ("fp32", "bf16"))
    both = exact.merge(quick, on=["user_id", "item_id"])
    assert len(both) > 0.9 * len(exact) and (both["score_x"] != both["score_y"]).any()
    assert (both["score_x"] - both["score_y"]).abs().max() < 0.02 * exact["score"].abs().max()
    exact, quick = (engine.recommend_all(k=10, until="test", precision=precision) for precision in ("fp32", "bf16"))
    assert exact.equals(quick)


def test_ranking_encodes_each_history_once(engine, monkeypatch):
    """Scores and predicted ratings come from the same state."""
    calls = []
    whole = engine.model.request_states
    monkeypatch.setattr(engine.model, "request_states", lambda *arguments: calls.append(1) or whole(*arguments))
    first = engine.get_recommendations(12, None, 5)
    assert len(calls) == 1
    history = engine.history(12, None)
    batch = history_batch([history] * 5, engine.seq_length)
    stars = engine.model.rate(batch, torch.from_numpy(engine.catalogue.item_index([row["movie_id"] for row in first])))
    assert [row["predicted_rating"] for row in first] == pytest.approx(stars.tolist(), abs=0.006)


def test_the_fixed_item_table_goes_when_training_begins(engine):
    model = copy.deepcopy(engine.model)
    assert model.item_table() is model.fixed_table
    model.train()
    assert model.fixed_table is None and model.item_table().requires_grad


def test_request_time(timed_model, files, capsys):
    engine = RecommendationEngine(timed_model)
    assert engine.knows_request_time
    early, late = (engine.get_recommendations(12, None, 10, at=10**9 + shift) for shift in (0, 10**8))
    assert [row["score"] for row in early] != [row["score"] for row in late]
    early, late = (engine.get_user_profile(12, at=10**9 + shift)["predicted_preferences"] for shift in (0, 10**8))
    assert early != late
    code, out, _ = infer(capsys, "--model_path", timed_model, "--user_id", 12)
    assert code == 0 and "request time assumed" in out and "median gap" in out
    code, _, err = infer(capsys, "--model_path", timed_model, "--user_id", 12, "--at", "978300760000")
    assert code == 2 and "--at '978300760000'" in err  # milliseconds
    code, out, _ = infer(capsys, "--model_path", timed_model, "--user_id", 12, "--at", "2003-05-01")
    assert code == 0 and "request time: 2003-05-01" in out
    assert len(engine.recommend_all(k=2)) == 120


def test_times():
    assert parse_time("978300760") == 978300760
    assert parse_time("2001-01-01") == parse_time("2001-01-01T00:00:00+00:00") == 978307200
    import numpy as np

    assert typical_next_time(np.array([100, 110, 140])) == 160
    assert typical_next_time(np.array([100])) == 100


WRONG = {
    "unknown user": (["--user_id", "99999"], "user 99999 is not in"),
    "unknown film": (["--history", "3,99999"], "film 99999"),
    "huge film id": (["--history", "99999999999999999999"], "film 99999999999999999999"),
    "huge user id": (["--user_id", "99999999999999999999"], "user 99999999999999999999 is not in"),
    "unknown films only": (["--history", "88888,99999"], "film 88888"),
    "unknown title": (["--history", "Synthetic Film 004 (1066)"], "did you mean"),
    "ambiguous title": (["--history", "Synthetic Film"], "fits 80 films"),
    "unknown gender": (["--history", "3", "--gender", "X"], "--gender X: choose one of F, M"),
    "age no number": (["--history", "3", "--age", "old"], "--age"),
    "no such age": (["--history", "3", "--age", "200"], "--age 200: choose one of 1, 18"),
    "unknown occupation": (["--user_id", "12", "--occupation", "99"], "--occupation 99"),
    "nobody": ([], "--user_id"),
    "k of 0": (["--user_id", "12", "--k", "0"], "--k 0"),
    "k too large": (["--user_id", "12", "--k", "5000"], "--k 5000: between 1 and"),
    "k no number": (["--user_id", "12", "--k", "ten"], "--k"),
    "unknown genre": (["--user_id", "12", "--genres", "Dramma"], "did you mean 'Drama'"),
    "nothing left": (["--user_id", "12", "--year_from", "2990"], "between 1 and 0"),
    "time unknown to it": (["--user_id", "12", "--at", "2001-01-01"], "request time unknown"),
    "bad time": (["--user_id", "12", "--at", "yesterday"], "--at 'yesterday'"),
    "unknown flag": (["--user", "12"], "did you mean --user"),
    "users without output": (["--users", "all"], "--output"),
    "bad users": (["--users", "a,b", "--output", "x.parquet"], "--users 'a,b'"),
    "unknown user in list": (["--users", "1,99999", "--output", "x.parquet"], "user 99999"),
    "output without users": (["--user_id", "12", "--output", "x.parquet"], "--users"),
    "k too large for many": (["--users", "all", "--output", "x.parquet", "--k", "79"], "--k 79"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(model, capsys, monkeypatch, tmp_path, case):
    flags, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    code, out, err = infer(capsys, "--model_path", model, *flags)
    assert code == 2 and message in err and err.count("\n") == 1 and err.startswith("error: ") and out == ""
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
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "incomplete"),
    "cut weights": (lambda folder: os.truncate(folder / "model.safetensors", 500), "corrupted"),
    "cut description": (lambda folder: os.truncate(folder / "checkpoint.json", 100), "corrupted"),
    "foreign": (lambda folder: (folder / "checkpoint.json").write_text('{"format": "somebody else/3"}'), "format"),
    "no object": (lambda folder: (folder / "checkpoint.json").write_text("[1]"), "not a file of this program"),
    "a folder for a file": (lambda folder: ((folder / "metadata.json").unlink(), (folder / "metadata.json").mkdir()),
                            "cannot be read"),
    "no genres": (lambda folder: edit(folder / "metadata.json", lambda content: [
        film.pop("genres") for film in content["movies"].values()]), "metadata.json is damaged"),
    "no settings": (lambda folder: edit(folder / "checkpoint.json", lambda content: content.pop("settings")),
                    "settings are damaged"),
    "settings of a wrong kind": (lambda folder: edit(folder / "checkpoint.json", lambda content: content[
        "settings"].update(hidden_size="16")), "settings are damaged"),
    "settings of another version": (lambda folder: edit(folder / "checkpoint.json", lambda content: content[
        "settings"].update(cross_attention=True)), "written by another version of this program (commit"),
    "other titles": (lambda folder: (folder / "metadata.json").write_text('{"movies": {}}'), "does not list the 80"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_checkpoints(model, tmp_path, capsys, case):
    change, message = DAMAGE[case]
    code, _, err = infer(capsys, "--model_path", damaged(model, tmp_path, change), "--history", "3,5")
    assert code == 2 and message in err and err.count("\n") == 1


def test_weights_of_another_shape(model, tmp_path, capsys):
    def widen(folder):
        info = json.loads((folder / "checkpoint.json").read_text())
        info["settings"]["hidden_size"] = 32
        (folder / "checkpoint.json").write_text(json.dumps(info))

    code, _, err = infer(capsys, "--model_path", damaged(model, tmp_path, widen), "--history", "3,5")
    assert code == 2 and "does not fit this model" in err


def test_other_files_than_in_training(model, files, tmp_path, capsys):
    """Other times, as between copies of MovieLens: good for whole histories, not for what was held out. Other films or
    people: for nothing."""
    other = shutil.copytree(files, tmp_path / "other")
    lines = (other / "ratings.dat").read_text().splitlines()
    user, film, rating, time = lines[-1].split("::")
    (other / "ratings.dat").write_text("\n".join([*lines[:-1], f"{user}::{film}::{rating}::{int(time) + 1}"]) + "\n")
    asked = ("--model_path", model, "--data_dir", other)
    assert infer(capsys, *asked, "--user_id", 12)[0] == 0
    out = ("--output", tmp_path / "out.csv")
    assert infer(capsys, *asked, "--users", "1,2", *out)[0] == 0
    code, _, err = infer(capsys, *asked, "--users", "1,2", "--history_until", "test", *out)
    assert code == 2 and "other interactions or times" in err and err.count("\n") == 1
    (other / "ratings.dat").write_text("".join(f"{line}\n" for line in lines if line.split("::")[1] != film))
    code, _, err = infer(capsys, *asked, "--user_id", 12)
    assert code == 2 and "another catalogue" in err


def test_a_full_disk_keeps_what_was_there(model, engine, tmp_path, capsys, monkeypatch):
    output = tmp_path / "recs.parquet"
    output.write_bytes(b"precious")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    code, _, err = infer(capsys, "--model_path", model, "--users", "all", "--output", output)
    assert code == 2 and "No space left" in err and output.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]


def test_a_full_disk_while_saving_a_checkpoint(model, tmp_path, monkeypatch):
    import safetensors.torch
    import torch

    from support.checkpoint import read_checkpoint, write_checkpoint

    folder = shutil.copytree(model, tmp_path / "best")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_args):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for keep_previous in (False, True):
        with pytest.raises(UserError, match="no space left"):
            write_checkpoint(folder, {"x": torch.zeros(3)}, {}, keep_previous=keep_previous)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
    monkeypatch.undo()
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: full() if str(old).endswith("new") else replace(old, new))
    with pytest.raises(UserError, match="no space left"):  # at the very last step
        write_checkpoint(folder, {"x": torch.zeros(3)}, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert read_checkpoint(folder)[1]["seed"] == 42


def test_what_a_killed_process_left_of_a_checkpoint_goes(tmp_path):
    """Not what another process may still be writing, or of another folder."""
    import torch

    from support.checkpoint import STALE, write_checkpoint

    for name, age in ((".best-old", STALE + 60), (".best-new", 5), (".last-old", STALE + 60)):
        (tmp_path / name / "new").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_checkpoint(tmp_path / "best", {"x": torch.zeros(3)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".best-new", ".last-old", "best"]


def test_a_checkpoint_killed_between_its_two_moves_is_put_in_its_place(tmp_path):
    """The old one had made way and the new one was not there yet; one that was still being written stays away."""
    import torch

    from support.checkpoint import read_checkpoint, settled, write_checkpoint

    folder, scratch = tmp_path / "last", tmp_path / ".last-killed"
    assert not settled(folder)
    write_checkpoint(folder, {"x": torch.zeros(3)}, {"step": 2})
    write_checkpoint(scratch / "new", {"x": torch.ones(3)}, {"step": 3})
    assert settled(folder) and read_checkpoint(folder)[1]["step"] == 2  # nothing had been moved
    os.replace(folder, tmp_path / "elsewhere")
    assert not settled(folder)
    os.replace(tmp_path / "elsewhere", scratch / "old")
    assert settled(folder) and read_checkpoint(folder)[1]["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_scripts_run_as_scripts(model):
    """`python SCRIPT --help` and one real call, outside this process."""
    for script in ("trainer.py", "inference.py", "data_processor.py"):
        done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "--" in done.stdout
    done = subprocess.run([sys.executable, "inference.py", "--model_path", str(model), "--history", "3,99999"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# Five next films at once ----------------------------------------------------------------------------------------------

def test_bert_multi(tmp_path, capsys):
    small = ["--dataset", "synthetic", "--hidden_size", "8", "--num_layers", "1", "--seq_length", "12", "--max_epochs",
             "1", "--device", "cpu", "--runs_dir", str(tmp_path / "runs")]
    place = ["--checkpoint_dir", str(tmp_path / "multi")]
    assert run_command(bert_multi.main, ["--size", "M", *small, *place]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "multi" / "best" / "candidates.json").read_text())
    assert set(results) == {"full", "popular_100", "uniform_100"} and "claims Recall@10 0.5978" in printed
    recall = {name: result["ranking"]["popularity"]["Recall@10"]["mean"] for name, result in results.items()}
    assert recall["full"] < recall["popular_100"] < recall["uniform_100"]  # the more is ranked, the harder it is
    assert "the last 5 interactions" in results["full"]["protocol"]
    assert run_command(bert_multi.main, ["--size", "M", "--resume", *place]) == 0
    assert run_command(bert_multi.main, ["--size", "XXL"]) == 2
