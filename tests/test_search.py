"""Searching settings: spaces are checked first, workers share a journal, the best settings can be trained."""

from __future__ import annotations

import importlib
import multiprocessing
import threading
from pathlib import Path

import pytest

import training_loop
from ablations import search
from ablations.search import FOLDER, load_space
from command_line import parse_command_line
from support.errors import UserError, run_command

TINY = """base: quick
settings: {dataset: synthetic, hidden_size: 8, seq_length: 20, max_steps: 4, device: cpu}
trials: 3
space:
  learning_rate: {low: 0.001, high: 0.01, log: true}
  num_layers: [1, 2]
  masked_batch_share: {low: 0.0, high: 0.5, step: 0.25}
"""


@pytest.fixture()
def space_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_are_sound(path):
    _, space, trials = load_space(path.stem, [])
    assert space and trials > 1


@pytest.mark.parametrize(("old", "new", "line", "said"), [
    ("learning_rate", "lerning_rate", 5, "did you mean 'learning_rate'"),
    ("high: 0.5", "high: 1.5", 7, "masked_batch_share"),
    ("[1, 2]", "[1, deep]", 6, "num_layers"),
    ("[1, 2]", "[]", 6, "give "),
    ("[1, 2]", "[1, 2, 1]", 6, "twice"),
    ("[1, 2]", "[1, null]", 6, "expected one value"),
    ("trials: 3", "trials: true", 3, "whole number"),
    ("settings: {", "settings: [", 2, "expected lines"),
    ("{low: 0.001, high: 0.01, log: true}", "{low: 0.001, top: 0.01}", 5, "give "),
    ("trials: 3", "trials: few", 3, "whole number"),
    ("learning_rate: {", "min_item_count: {", 5, "not to be searched"),
    ("learning_rate: {", "seed: {", 5, "not to be searched"),
    ("{low: 0.001, high: 0.01, log: true}", "{low: 0.01, high: 0.001}", 5, "learning_rate"),
    ("{low: 0.001, high: 0.01, log: true}", "{low: 0.001, high: 0.01, step: 0}", 5, "learning_rate"),
    ("space:", "room:", 4, "unknown key 'room'"),
    ("base: quick", "base: quik", 1, "unknown preset"),
])
def test_a_wrong_space_is_refused_with_its_line(space_file, old, new, line, said):
    text = TINY.replace(old, new)
    space_file.write_text(text.replace("device: cpu}", "device: cpu]") if "settings: [" in text else text)
    with pytest.raises(UserError, match=said) as error:
        load_space(str(space_file), [])
    assert str(error.value).startswith(f"{space_file}:{line}:")


@pytest.mark.slow
def test_workers_share_a_journal_and_the_best_can_be_trained(space_file, tmp_path, capfd):
    command = [str(space_file), "--jobs", "2", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    search.main(command)
    assert "Search" in capfd.readouterr().out
    trials = (tmp_path / "search-tiny" / "trials.md").read_text()
    assert "validation of leave-one-out" in trials and "complete" in trials and str(tmp_path) not in trials
    journal = (tmp_path / "work" / "tiny.journal").read_text()
    assert journal.count('"op_code":4,') == 3, "exactly as many trials as asked for have begun"
    settings, _ = parse_command_line(["--config", str(tmp_path / "search-tiny" / "best.yaml")], "")
    assert settings.model.hidden_size == 8 and 0.001 <= settings.train.learning_rate <= 0.01
    # Again: nothing is left to do.
    search.main([*command[:-1], str(tmp_path / "again")])
    assert "of 3 trials" not in capfd.readouterr().out
    assert (tmp_path / "again" / "search-tiny" / "trials.md").read_text() == trials


def test_numbers_are_of_their_settings_kind(space_file):
    """Whatever YAML makes of them: 1e-3 is text to it, and 1 no number of a weight between 0 and 2."""
    space_file.write_text(TINY.replace("{low: 0.001, high: 0.01, log: true}", "{low: 1e-3, high: 1e-2, log: true}")
                          + "  rating_weight: {low: 0, high: 2}\n")
    _, space, _ = load_space(str(space_file), [])
    assert (space["learning_rate"].low, space["learning_rate"].high) == (0.001, 0.01)
    assert type(space["rating_weight"]).__name__ == "FloatDistribution"
    for name in ("teacher", "start_from"):
        with pytest.raises(UserError, match=f"drop {name}"):
            load_space(str(space_file), [f"--{name}", "x"])


def test_a_worker_prunes_and_goes_on(tmp_path, monkeypatch):
    """In the middle of its training, by validation; the worker goes on with the next one."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("max_steps: 4", "max_epochs: 3, eval_every: 1, max_minutes: 0"))
    settings, space, _ = load_space(str(path), [])
    scores = iter([.5, .6, .7, .1, .2, .8, .9])  # by evaluation: a whole trial, one cut off

    def validation(_run):
        return {"NDCG@10": next(scores), "HR@10": 0.0}

    monkeypatch.setattr(training_loop.Run, "validation_metrics", validation)
    monkeypatch.setattr(search, "STARTUP_TRIALS", 1)
    monkeypatch.setattr(search, "STARTUP_EVALUATIONS", 1)
    monkeypatch.setattr(search, "die_with", lambda _: None)
    journal, left = tmp_path / "tiny.journal", multiprocessing.get_context("spawn").Semaphore(2)
    search.work(journal, "s", settings, space, 2, left, 0, 0)
    trials = search.finished(search.open_study(journal, "s", 0))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"]
    assert trials[0].value == 0.7 and trials[1].intermediate_values == {0: 0.1, 1: 0.2}


def test_what_is_searched_lifts_limits_as_a_flag_does(tmp_path):
    """Else every batch size would be the preset's number of tokens, and the clock would end what has more epochs."""
    path = tmp_path / "limits.yaml"
    path.write_text("base: quick\nspace: {batch_size: [64, 128], max_epochs: [45, 200], layer_dropout: ['']}\n")
    settings, _, _ = load_space(str(path), [])
    assert (settings.train.batch_tokens, settings.train.max_minutes, settings.train.max_epochs) == (0, 0.0, 45)
    path.write_text("base: quick\nsettings: {batch_tokens: 99}\nspace: {batch_size: [64, 128]}\n")
    settings, _, _ = load_space(str(path), ["--max_minutes", "2"])
    assert (settings.train.batch_tokens, settings.train.max_minutes) == (99, 2.0)


@pytest.mark.parametrize(("damage", "line"), [
    (lambda raw: raw + b"\x00\xff\n", 4), (lambda raw: raw[:-9] + b"\n", 3), (lambda raw: raw + b"7\n", 4),
    (lambda raw: raw.replace(b"study_name", b"study_nome"), None),
    (lambda raw: raw.replace(b"code\":4", b"code\":99"), None)])
def test_a_damaged_journal_is_named(space_file, tmp_path, capfd, damage, line):
    """In one line, before anything is trained; sound again, it is read."""
    journal = tmp_path / "tiny.journal"
    study = search.open_study(journal, "s", 0)
    study.tell(study.ask(), 0.5)
    sound = journal.read_bytes()
    assert sound.count(b"\n") == 3
    journal.write_bytes(damage(sound))
    assert run_command(search.main, [str(space_file), "--work", str(tmp_path), "--results", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "move the file away" in said and str(journal) in said
    assert line is None or f"{journal}:{line}:" in said
    journal.write_bytes(sound)
    search.check_journal(journal, "s")
    assert len(search.open_study(journal, "s", 0).trials) == 1


def test_a_lock_of_a_killed_worker_is_taken_over(tmp_path, monkeypatch):
    """From a relative path as well, where Optuna alone would wait for ever."""
    monkeypatch.chdir(tmp_path)
    locks = importlib.import_module("optuna.storages.journal._file")
    monkeypatch.setattr(locks.JournalFileSymlinkLock.__init__, "__defaults__", (3,))  # seconds of grace
    search.open_study(Path("tiny.journal"), "s", 0)._storage._backend._lock.acquire()  # and then it was killed
    assert Path("tiny.journal.lock").exists()
    waiting = threading.Thread(target=search.check_journal, args=(Path("tiny.journal"), "s"), daemon=True)
    waiting.start()
    waiting.join(30)
    assert not waiting.is_alive()


def test_half_a_line_of_a_killed_worker_is_cut_off(tmp_path):
    """Its trial was not told, and another is taken in its place."""
    journal = tmp_path / "tiny.journal"
    study = search.open_study(journal, "s", 0)
    study.tell(study.ask(), 0.5)
    journal.write_bytes(journal.read_bytes()[:-9])
    search.check_journal(journal, "s")
    study = search.open_study(journal, "s", 0)
    assert len(study.trials) == 1 and not search.finished(study)
    study.tell(study.ask(), 0.25)
    assert [trial.value for trial in search.finished(search.open_study(journal, "s", 0))] == [0.25]


def test_going_on_draws_other_points_and_a_stopped_trial_is_not_counted(tmp_path):
    import optuna

    room = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    points = []
    for _ in range(2):
        study = search.open_study(tmp_path / "j", "s", 7)
        for _ in range(2):
            trial = study.ask(room)
            points.append(trial.params["x"])
            study.tell(trial, 0.1)
    assert len(set(points)) == 4
    for error in ({}, {search.ERROR: "no memory"}):
        trial = study.ask(room)
        for name, value in error.items():
            trial.set_user_attr(name, value)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len(search.finished(study)) == 5


@pytest.mark.slow
def test_a_point_that_cannot_be_trained_is_counted_and_named(space_file, tmp_path, capfd):
    """Here: more directions than the films have."""
    space_file.write_text(TINY.replace("[1, 2]", "[1]").replace("hidden_size: 8", "id_start: svd")
                          + "  hidden_size: [8, 1200]\n")
    command = [str(space_file), "--trials", "4", "--work", str(tmp_path), "--results", str(tmp_path)]
    assert run_command(search.main, command) == 0
    out = capfd.readouterr().out
    assert "failed: {" in out and "'hidden_size': 1200" in out


def test_a_trial_below_the_others_is_pruned(tmp_path):
    import optuna

    study = search.open_study(tmp_path / "j", "s", 0)
    for _ in range(search.STARTUP_TRIALS):
        trial = study.ask()
        reporter = search._Reporter(trial)
        for epoch in (4, 8, 12, 16):
            reporter.log("epoch", **{"epoch": epoch, "NDCG@10": 0.1 * epoch})
        study.tell(trial, 0.4)
    reporter = search._Reporter(study.ask())
    for epoch in (4, 8)[:search.STARTUP_EVALUATIONS]:
        reporter.log("epoch", **{"epoch": epoch, "NDCG@10": 0.01})
    with pytest.raises(optuna.TrialPruned):
        reporter.log("epoch", **{"epoch": 12, "NDCG@10": 0.01})
