"""Searching settings: spaces are checked first, workers share a journal, the best settings can be trained."""

from __future__ import annotations

import pytest

from ablations import search
from ablations.search import FOLDER, load_space
from command_line import parse_command_line
from support.errors import UserError

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
    ("{low: 0.001, high: 0.01, log: true}", "{low: 0.001, top: 0.01}", 5, "give "),
    ("trials: 3", "trials: few", 3, "whole number"),
    ("space:", "room:", 4, "unknown key 'room'"),
    ("base: quick", "base: quik", 1, "unknown preset"),
])
def test_a_wrong_space_is_refused_with_its_line(space_file, old, new, line, said):
    space_file.write_text(TINY.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        load_space(str(space_file), [])
    assert str(error.value).startswith(f"{space_file}:{line}:")


def test_workers_share_a_journal_and_the_best_can_be_trained(space_file, tmp_path, capfd):
    command = [str(space_file), "--jobs", "2", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    search.main(command)
    assert "Search" in capfd.readouterr().out
    trials = (tmp_path / "search-tiny" / "trials.md").read_text()
    assert "validation of leave-one-out" in trials and "complete" in trials and str(tmp_path) not in trials
    settings, _ = parse_command_line(["--config", str(tmp_path / "search-tiny" / "best.yaml")], "")
    assert settings.model.hidden_size == 8 and 0.001 <= settings.train.learning_rate <= 0.01
    # Again: nothing is left to do.
    search.main([*command[:-1], str(tmp_path / "again")])
    assert "of 3 trials" not in capfd.readouterr().out
    assert (tmp_path / "again" / "search-tiny" / "trials.md").read_text() == trials


@pytest.mark.parametrize("damage", [lambda raw: raw + b"\x00\xff\n", lambda raw: raw[:-9], lambda raw: raw + b"7\n"])
def test_a_damaged_journal_is_named_with_its_line(tmp_path, damage):
    journal = tmp_path / "s.journal"
    study = search.open_study(journal, "s", 0)
    study.tell(study.ask(), 0.5)
    sound = journal.read_bytes()
    journal.write_bytes(damage(sound))
    with pytest.raises(UserError, match="move the file away") as error:
        search.open_study(journal, "s", 0)
    assert str(error.value).startswith(f"{journal}:{len(damage(sound).splitlines())}:")
    journal.write_bytes(sound)
    assert len(search.open_study(journal, "s", 0).trials) == 1


def test_a_trial_below_the_others_is_pruned(tmp_path):
    import optuna

    study = search.open_study(tmp_path / "j", "s", 0)
    for _ in range(search.STARTUP_TRIALS):
        trial = study.ask()
        reporter = search._Reporter(trial)
        for epoch in (1, 2, 3, 4):
            reporter.log("epoch", **{"epoch": epoch, "NDCG@10": 0.1 * epoch})
        study.tell(trial, 0.4)
    reporter = search._Reporter(study.ask())
    with pytest.raises(optuna.TrialPruned):
        for epoch in (1, 2, 3, 4):
            reporter.log("epoch", **{"epoch": epoch, "NDCG@10": 0.01})
