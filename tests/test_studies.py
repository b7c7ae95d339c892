"""Studies: data that are checked before anything runs, runs that are never done twice, a table that compares."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablations import figures as figures_of_page
from ablations import report
from ablations import run as runner
from ablations import study as studies
from ablations.study import FOLDER, load_study, run_key
from settings import Settings, TrainSettings
from support.errors import UserError
from tests.conftest import ROOT

TINY = """question: Does the gate pay?
base: quick
settings:
  dataset: synthetic
  hidden_size: 8
  seq_length: 20
  max_steps: 3
  device: cpu
variants:
  sum: {}
  gate: {positions: sinusoidal}
  pupil: {teacher: "{sum},{gate}", against: gate}
"""


@pytest.fixture()
def study_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_sound(path):
    study = load_study(path.stem)
    assert study.question and len(study.variants) > 1
    assert study.variants[0].against == "" and all(variant.against for variant in study.variants[1:])


def test_the_version_of_the_code_is_of_all_that_training_imports():
    """Or a change would go unseen and an old result be taken for a new one; not of what only carries it out."""
    carries = {"command_line.py", "presets.py", "support/checkpoint.py", "support/errors.py", "support/processes.py",
               "support/progress.py", "support/tracking.py", "support/yaml_file.py", "support/__init__.py"}
    counted = {str(path.relative_to(ROOT)) for pattern in studies.CODE for path in ROOT.glob(pattern)}
    reached, waiting = set(), ["trainer.py"]
    while waiting:
        name = waiting.pop()
        if name in reached or not (ROOT / name).exists():
            continue
        reached.add(name)
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)] \
                if isinstance(node, ast.ImportFrom) and node.module else []
            for module in modules:
                waiting += [f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"]
    written = {name for name in reached if (ROOT / name).read_text(encoding="utf-8").strip()}
    assert written - counted == carries & written and not carries & counted


def test_a_study_is_read(study_file):
    study = load_study(str(study_file), ["--num_layers", "1"])
    assert [variant.name for variant in study.variants] == ["sum", "gate", "pupil"]
    assert study["gate"].settings.model.positions == "sinusoidal" and study["sum"].settings.model.positions == "learned"
    assert all(variant.settings.model.num_layers == 1 for variant in study.variants)
    assert [variant.name for variant in study.only(["pupil"]).variants] == ["sum", "gate", "pupil"]
    assert [variant.name for variant in study.only(["gate"]).variants] == ["sum", "gate"]
    with pytest.raises(UserError, match="no variant 'gait'"):
        study.only(["sinusoidel"])
    assert (study["pupil"].against, study["pupil"].needs, study["gate"].against) == \
        ("gate", ("sum", "gate"), "sum")


@pytest.mark.parametrize(("old", "new", "line", "said"), [
    ("positions: sinusoidal", "pozitions: sinusoidal", 11, "did you mean 'positions'"),
    ("positions: sinusoidal", "positions: sinusoidel", 11, "sinusoidel"),
    ("hidden_size: 8", "hidden_size: wide", 5, "hidden_size"),
    ("hidden_size: 8", "hiden_size: 8", 5, "hidden_size"),
    ("  gate: {positions: sinusoidal}", "  gate: {}", 11, "'sum' and 'gate' are alike"),
    ("  gate: {positions: sinusoidal}", "  sum: {positions: sinusoidal}", 11, "twice"),
    ("  gate: {positions: sinusoidal}", "  gate: yes", 11, "expected"),
    ("base: quick", "base: quik", 2, "unknown preset"),
    ("question:", "aim:", 1, "unknown key 'aim'"),
    ("against: gate", "against: gait", 12, "compared with 'gait', which is none of the variants above"),
    ("  sum: {}", "  sum: {against: gate}", 10, "compared with 'gate', which is none"),
    ("{sum}", "{som}", 12, "none of the variants above"),
    ("{sum},", "runs/somewhere,", 12, "a teacher is another variant"),
    ("against: gate", "against: pupil", 12, "none of the variants above"),
    ("  gate: {positions: sinusoidal}", "  <<: {gate: {positions: sinusoidel}}", 11, "sinusoidel"),
    ("  gate: {positions: sinusoidal}", "  gate: {<<: [{positions: sinusoidel}]}", 11, "sinusoidel"),
    ("question:", "<<: {aim: 1}\nquestion:", 1, "unknown key 'aim'"),
    ("  gate: {positions: sinusoidal}", "  gate: {positions: sinusoidal}\n  warm: {negatives: 3}", 12, "'sum' and 'warm' are alike"),
    ("  gate: {positions: sinusoidal}", "  gate: {max_epochs: 7}", 11, "'sum' and 'gate' are alike"),
    ("  dataset: synthetic", "  - dataset", 5, "is not YAML"),
    ("gate: {positions: sinusoidal}", "gate: &gate {positions: *gate}", 11, "within what it stands for"),
    ("gate: {positions: sinusoidal}", "gate: &gate {<<: *gate}", 11, "within what it stands for"),
    ("{positions: sinusoidal}", "{positions: 2024-99-99}", 11, "2024-99-99"),
    ("{positions: sinusoidal}", "{start_from: null}", 11, "start_from: expected one value"),
    ("{positions: sinusoidal}", "{positions: [sinusoidal]}", 11, "positions: expected one value"),
    ("{positions: sinusoidal}", "{max_epochs: 040}", 11, "040: write a decimal number"),
    ("{positions: sinusoidal}", "{max_epochs: 1:30}", 11, "1:30: write a decimal number"),
    ("{positions: sinusoidal}", "{dropout: 1:30.5}", 11, "1:30.5: write a decimal number"),
    ("  gate: {positions", "  '': {positions", 11, "needs a name"),
    ("question: Does the gate pay?", "question: [Does the gate pay]", 1, "quote it"),
    ("variants:", "settings: false\nvariants:", 9, "twice"),
    ("{positions: sinusoidal}", "{positions: !odd gate}", 11, "is not YAML"),
    ("gate: {positions: sinusoidal}", "[gate]: {positions: sinusoidal}", 11, "plain text"),
    ("gate: {positions: sinusoidal}", "gate: {seed: 7}", 11, "not for a study"),
    ("gate: {positions: sinusoidal}", "gate: {run_name: x}", 11, "not for a study"),
    ("gate: {positions: sinusoidal}", "gate:\n    num_layers: 1\n    positions: sinusoidel", 13, "sinusoidel"),
    ("base: quick", "base: [quick]", 2, "unknown preset"),
])
def test_a_wrong_study_is_refused_with_its_line(study_file, old, new, line, said):
    study_file.write_text(TINY.replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        load_study(str(study_file))
    assert str(error.value).startswith(f"{study_file}:{line}:")


def test_a_study_that_is_not_text_is_refused_with_its_line(study_file):
    study_file.write_bytes(TINY.encode().replace(b"gate: {", b"\xff: {"))
    with pytest.raises(UserError, match=f"^{study_file}:11: is not UTF-8"):
        load_study(str(study_file))


def test_a_study_without_variants_or_of_no_name_is_refused(study_file):
    study_file.write_text(TINY[:TINY.index("variants")] + "variants: {}\n")
    with pytest.raises(UserError, match=r"tiny.yaml:9: a study needs variants"):
        load_study(str(study_file))
    for text in ("- a list", "settings: [a]\nvariants: {a: {}}", "settings: false\nvariants: {a: {}}"):
        study_file.write_text(text)
        with pytest.raises(UserError, match=r"tiny.yaml:1: "):
            load_study(str(study_file))
    with pytest.raises(UserError, match="options"):
        load_study("opshuns")


def test_names_are_what_is_written(study_file):
    study_file.write_text("variants:\n  32: {hidden_size: 32}\n  off: {hidden_size: 64, against: 32}\n"
                          "  0.10: {hidden_size: 16}\n")
    assert [variant.name for variant in load_study(str(study_file)).variants] == ["32", "off", "0.10"]


def test_wrong_flags_are_not_the_files_fault(study_file):
    bare = ["--no-genre_encoder", "--no-year_encoder", "--no-id_encoder"]
    for flags in (["--positions", "sinusoidel"], ["--seedz", "1"], ["--positions", "sinusoidal"], bare):
        with pytest.raises(UserError) as error:
            load_study(str(study_file), flags)
        assert "tiny.yaml" not in str(error.value)


def test_the_key_of_a_run_is_what_it_depends_on(data, tmp_path, monkeypatch):
    plain = run_key(Settings(), "data", "code")
    assert plain == run_key(Settings().replace(checkpoint_dir="elsewhere", runs_dir="there"), "data", "code")
    others = {run_key(Settings().replace(seed=7), "data", "code"), run_key(Settings(), "data", "changed"),
              run_key(Settings().replace(positions="sinusoidal"), "data", "code"), run_key(Settings(), "others", "code"),
              run_key(Settings(), "data", "code", ["teacher"])}
    assert len({plain, *others}) == 6
    titles = tuple(title + "!" for title in data.catalogue.titles)
    renamed = dataclasses.replace(data, catalogue=dataclasses.replace(data.catalogue, titles=titles))
    assert renamed.split_hash == data.split_hash and studies.data_hash(renamed) != studies.data_hash(data)
    (tmp_path / "losses.py").write_text("1\n")
    monkeypatch.setattr(studies, "ROOT", tmp_path)
    before, of_process = studies.code_version.__wrapped__(), studies.code_version()
    (tmp_path / "losses.py").write_text("2\n")
    assert studies.code_version.__wrapped__() != before
    assert studies.code_version() == of_process  # what runs is what was imported


@pytest.mark.slow
def test_runs_are_done_once_and_a_failing_one_stops_no_other(study_file, tmp_path, capfd, monkeypatch):
    """As processes of their own; then a report without a path of this machine, then nothing left to do."""
    study_file.write_text(TINY.replace("  pupil:", "  too wide: {id_start: svd, hidden_size: 1200}\n"
                                                   "  orphan: {teacher: '{too wide}'}\n  pupil:"))
    command = [str(study_file), "--seeds", "1", "--jobs", "2", "--work", str(tmp_path / "work"),
               "--results", str(tmp_path / "results")]
    assert runner.main(command) == 1
    page = (tmp_path / "results" / "tiny" / "report.md").read_text()
    assert "Does the gate pay?" in page and "| pupil | 1 |" in page and "too wide, seed 42: --id_start" in page
    assert "orphan, seed 42: a run that it follows has failed" in page
    runs = json.loads((tmp_path / "results" / "tiny" / "runs.json").read_text())["runs"]
    assert [(entry["variant"], entry["steps"]) for entry in runs] == [("sum", 3), ("gate", 3), ("pupil", 3)]
    assert str(tmp_path) not in page + json.dumps(runs)
    capfd.readouterr()
    study_file.write_text(TINY)
    assert runner.main(command) == 0
    assert "3 of 3 runs are finished already" in capfd.readouterr().out
    record = json.loads((tmp_path / "results" / "tiny" / "runs.json").read_text())
    page = (tmp_path / "results" / "tiny" / "report.md").read_text()
    assert record["base"] == "quick" and record["settings"]["max_steps"] == 3
    assert record["variants"]["pupil"] == {"teacher": "{sum},{gate}", "against": "gate"}
    # The code has changed: the page can still be made of what the older one found, and says so.
    monkeypatch.setattr(runner, "code_version", lambda: "newer")
    assert report.main(command) == 0 and "gate, seed 42: as other code made it" in capfd.readouterr().out
    assert json.loads((tmp_path / "results" / "tiny" / "runs.json").read_text()) == record
    shutil.rmtree(tmp_path / "work")  # nothing is left but what was packed beside the page
    assert report.main(command) == 0
    assert (tmp_path / "results" / "tiny" / "report.md").read_text() == page
    lies = {file.name: file.read_bytes() for file in (tmp_path / "results" / "tiny").iterdir()}
    monkeypatch.setattr(report, "write_json", lambda *_: 1 / 0)  # cut short: what was there stays
    study_file.write_text(TINY.replace("Does the gate pay?", "Else?"))
    with pytest.raises(ZeroDivisionError):
        report.main(command)
    study_file.write_text(TINY)
    assert {file.name: file.read_bytes() for file in (tmp_path / "results" / "tiny").iterdir()} == lies
    monkeypatch.undo()
    assert runner.main(command) == 0 and "3 of 3 runs are finished already" in capfd.readouterr().out
    monkeypatch.setattr(runner, "code_version", lambda: "newer")
    study_file.write_text(TINY.replace("{positions: sinusoidal}", "{time_features: gap}"))  # another gate: not what was found
    assert report.main(command) == 1 and "gate, seed 42: as other" not in capfd.readouterr().out
    study_file.write_text(TINY)
    monkeypatch.undo()
    # Held by another process: waited for; of other code: said, and left alone.
    run = runner.plan(load_study(str(study_file)), [2], tmp_path / "work")[0]
    run.folder.mkdir()
    run.code = "older"
    with (run.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waits = threading.Thread(target=runner._train, args=(run,))
        waits.start()
        waits.join(0.5)
        assert waits.is_alive() and "did not come to its end" in run.failure
    waits.join(30)
    assert "the code has changed" in run.failure and not run.results.exists()
    monkeypatch.chdir(tmp_path)
    assert runner.main([*command[:-2], "--variants", "gate"]) == 0
    assert (tmp_path / "runs" / "results" / "tiny" / "report.md").exists()  # not where whole studies report
    for flag in (["--seed", "3"], ["--teacher", "somewhere"]):
        with pytest.raises(UserError, match="seeds are given by"):
            runner.main([*command, *flag])


def test_flags_that_tell_nothing_of_a_result_are_not_on_its_page(tmp_path, monkeypatch):
    """A folder of this machine, say; and they do not make a study another one."""
    monkeypatch.setattr(runner, "plan", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    flags = ["--data_dir", "/home/me", "--max_steps=3", "--no-use_wandb", "--hidden-size", "8", "--run-group=x",
             "--no_use_wandb"]
    assert runner.telling(flags) == ["--max_steps=3", "--hidden-size", "8"]
    assert runner.study_and_runs(["time", "--steps", "2", "--dataset=synthetic"])[2].results == Path("runs/results")
    for flag in ("--runs_dir=x", "--no-use_wandb"):
        assert runner.study_and_runs(["time", "--steps", "2", flag])[2].results == Path("results")


def test_runs_alike_are_shared_between_studies(study_file, tmp_path):
    first = runner.plan(load_study(str(study_file)), [1, 2], tmp_path)
    assert len({run.key for run in first}) == 6
    study_file.write_text(TINY.replace("sum: {}", "another name: {}").replace("{sum}", "{another name}"))
    second = runner.plan(load_study(str(study_file)), [2], tmp_path)
    assert {run.key for run in second} < {run.key for run in first}
    pupil = second[-1]
    assert pupil.settings.train.teacher == f"{second[0].folder / 'best'},{second[1].folder / 'best'}"


def result(folder, ndcg, people=range(8), split="a", protocol="p"):
    """A finished run with a metric a person."""
    (folder / "best").mkdir(parents=True)
    pd.DataFrame({"user_id": list(people), "NDCG@10": ndcg}).to_parquet(folder / "best" / "test_users.parquet")
    return {"split_hash": split, "protocol": protocol, "best": {"NDCG@10": float(np.mean(ndcg))}, "epochs": 1,
            "steps": 2, "training_seconds": 9.0, "processor_seconds": 3.0, "parameters": 4, "peak_memory_mb": 5,
            "git_commit": "c", "ranking": {"enhanced": {"NDCG@10": {"mean": float(np.mean(ndcg))}}}}


def test_the_table_pairs_the_same_people_and_nothing_else(study_file, tmp_path):
    study_file.write_text(TINY.replace("  pupil: {teacher: \"{sum},{gate}\", against: gate}",
                                       "  other split: {min_item_count: 5}\n  sampled: {candidates: uniform_100}\n"
                                       "  lost: {time_features: gap, against: sampled}\n"
                                       "  told the time: {query_time: known}"))
    study = load_study(str(study_file))
    draw = np.random.default_rng(0)
    values = {name: draw.random(8) for name in ("sum", "gate", "other split", "sampled", "lost", "told the time")}
    values["gate"] = values["sum"] + 0.25
    time = report.HEADER.index("processor\ns an epoch")
    for seeds, mark in (((1,), ""), ((1, 2), "***")):
        folders = {(name, seed): tmp_path / f"{len(seeds)}-{seed}" / name for name in values for seed in seeds}
        results = {(name, seed): result(folder, values[name], split="b" if name == "other split" else "a",
                                        protocol="among 100" if name == "sampled" else
                                        f"full, request time {'' if name == 'told the time' else 'un'}known, split")
                   for (name, seed), folder in folders.items()}
        del results["lost", 1]["processor_seconds"]  # as in runs of older code
        lines = report.study_lines(study, folders, results)
        rows = report.table(lines)
        assert [row[time] for row in rows] == ["" if row[0] == "lost" else "3.0" for row in rows]
        by_name = {row[0]: row for row in rows}
        assert rows[0][0] == "sum" and {rows[1][0], rows[2][0]} == {"gate", "told the time"}
        assert by_name["told the time"][5] == f"{(values['told the time'] - values['sum']).mean():+.4f}"
        assert by_name["gate"][5] == "+0.2500" and by_name["gate"][6].startswith(f"+0.2500{mark}\n")
        assert all(by_name[name][5:7] == ["", ""] for name in ("sum", "other split", "sampled", "lost"))
        says, cannot = report.findings(lines)
        assert any("highest for gate" in line for line in says)
        assert any("1 are for the variant" in line for line in says) == any("2 seeds" in line for line in cannot) == \
            (len(seeds) == 2)


def test_the_page_says_what_was_run(study_file):
    """The preset, what was changed, how long each trained and what ended it."""
    study_file.write_text(TINY.replace("max_steps: 3", "max_epochs: 4"))
    study = load_study(str(study_file))
    run = {"best": {"epoch": 2, "seconds": 50.0}, "epochs": 4, "steps": 8, "training_seconds": 99.0}
    told = dict(report.what_was_run(study, ["--max_epochs", "4"], {
        ("sum", 1): run, ("sum", 2): {**run, "epochs": 2}, ("gate", 1): run}))
    assert told["text"].startswith(f"Preset {study.base}") and told["text"].endswith("command line: --max_epochs 4.")
    assert told["table"][1:] == [
        ["sum", "", "3", "2", "its epochs and validation, which rose no more"],
        ["gate", "positions sinusoidal", "4", "2", "its epochs"]]
    for train, ended in ((TrainSettings(max_steps=8, max_epochs=9), "its steps"),
                         (TrainSettings(max_epochs=9, max_minutes=1.7), "its minutes"),
                         (TrainSettings(max_epochs=9, max_minutes=9), "validation, which rose no more")):
        assert report._end(run, train) == ended


def test_slices_are_those_that_moved_otherwise_than_the_rest(study_file, tmp_path, monkeypatch):
    """Not those of a variant that is better for all, nor everybody else once more."""
    study = load_study(str(study_file))
    people, draw = np.arange(400), np.random.default_rng(0)
    noise = {name: draw.normal(0, 0.01, 400) for name in ("sum", "gate", "pupil")}
    values = {"sum": noise["sum"], "gate": noise["gate"] + 0.5, "pupil": noise["pupil"] + 0.5 + 0.1 * (people < 150)}
    folders = {(name, 1): tmp_path / name for name in values}
    results = {run: result(folder, values[run[0]], people) for run, folder in folders.items()}
    monkeypatch.setattr(report, "load", lambda _: None)
    ages = {"young": people < 150, "all": people >= 0, "not young": people >= 150}
    monkeypatch.setattr(report, "request_slices", lambda *_: {"age": ages, "g": {"few": people < 50}})
    rows = report.changed_slices(report.study_lines(study, folders, results), folders)
    assert [row[:4] for row in rows] == [["pupil (against gate)", "age", "young", "150"],
                                         ["gate", "age", "young", "150"]]
    assert abs(float(rows[0][4]) - 0.1) < 0.01 and abs(float(rows[0][6])) < 0.01


def test_what_knows_the_moment_is_not_a_setting_to_choose(study_file, tmp_path):
    study_file.write_text(TINY[:TINY.index("  gate")] + "  gate: {positions: sinusoidal}\n  known: {query_time: known}\n")
    level = {"sum": 0.3, "gate": 0.4, "known": 0.9}
    folders = {(name, seed): tmp_path / f"{name}{seed}" for name in level for seed in (1, 2)}
    results = {run: result(folder, np.full(8, level[run[0]])) for run, folder in folders.items()}
    lines = report.study_lines(load_study(str(study_file)), folders, results)
    assert [line.variant.name for line in lines] == ["sum", "known", "gate"]
    _, better, told, highest = report.findings(lines)[0]
    assert better == "Better: gate (+0.1000)." and told.startswith("Better, but told when")
    assert told.endswith(": known (+0.6000).") and "highest for gate (0.4000, +0.1000 over sum)" in highest


def test_a_last_epoch_that_the_steps_end_is_not_a_whole_one(tmp_path):
    """5 steps of 2 an epoch are 2.5 epochs; a run that kept no record is taken to have trained whole ones."""
    run = {"epochs": 3, "steps": 5}
    assert report._epochs(run, tmp_path) == 3
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.jsonl").write_text('{"event": "epoch", "epoch": 2, "step": 4}\n'
                                              '{"event": "epoch", "epoch": 3, "step": 5}\n')
    assert report._epochs(run, tmp_path) == 2.5


def test_each_variant_stands_below_what_it_is_compared_with(study_file, tmp_path):
    """A gain over a weak reference is not a high place, and is named with its reference."""
    study_file.write_text(TINY[:TINY.index("  gate")] + "  none: {positions: sinusoidal}\n  less: {time_features: gap}\n"
                          "  none but one: {num_layers: 1, against: none}\n"
                          "  none but two: {num_heads: 1, against: none}\n")
    study = load_study(str(study_file))
    level = {"sum": 0.3, "none": 0.1, "less": 0.25, "none but one": 0.15, "none but two": 0.2}
    folders = {(name, seed): tmp_path / f"{name}{seed}" for name in level for seed in (1, 2)}
    results = {run: result(folder, np.full(8, level[run[0]])) for run, folder in folders.items()}
    lines = report.study_lines(study, folders, results)
    assert [line.variant.name for line in lines] == ["sum", "less", "none", "none but two", "none but one"]
    assert [line.named for line in lines][-2:] == ["none but two (against none)", "none but one (against none)"]
    assert "highest for sum (0.3000)" in report.findings(lines)[0][-1]
    for run in results:  # asked something easier, and compared among themselves alone
        if run[0].startswith("none"):
            results[run] = {**results[run], "protocol": "another", "best": {**results[run]["best"], "NDCG@10": 0.9}}
    lines = report.study_lines(study, folders, results)
    assert {line.variant.name: line.comparison is None for line in lines} == {
        "sum": True, "less": False, "none": True, "none but two": False, "none but one": False}
    assert [line.variant.name for line in report.asked_alike(lines)] == ["sum", "less"]
    assert "highest for sum (0.3000)" in report.findings(lines)[0][-1]


def test_curves_of_a_task_that_some_evaluations_lack(study_file, tmp_path):
    """As where no batch of it came since the last one."""
    folders = {("sum", 1): tmp_path / "a"}
    lines = report.study_lines(load_study(str(study_file)), folders, {("sum", 1): result(tmp_path / "a", np.ones(8))})
    records = [{"epoch": epoch, "step": epoch, "NDCG@10": 0.1 * epoch} for epoch in (1, 2, 3)]
    records[1]["loss_masked_item"] = 5.0
    drawn = figures_of_page.draw(lines, lines, {("sum", 1): records}, "NDCG@10", tmp_path)
    assert list(drawn) == ["Learning curves"] and "masked_item" in drawn["Learning curves"][0].read_text()
    other = [{"epoch": 1, "step": 3, "NDCG@10": 0.2}, {"epoch": 2, "step": 6, "NDCG@10": 0.4}]  # a seed that stopped
    np.testing.assert_allclose(figures_of_page.mean_curve([records, other], "NDCG@10"), [[2, 4, 3], [0.15, 0.3, 0.3]])
    assert figures_of_page.mean_curve([other], "loss_masked_item").shape == (2, 0)


def test_no_cheaper_one_reaches_those_on_the_front():
    assert figures_of_page.pareto_front([3, 1, 2, 1, 5, 4], [0.3, 0.1, 0.1, 0.2, 0.25, 0.4]) == [3, 0, 5]


def test_curves_are_of_what_others_are_compared_with_the_best_and_the_worst(study_file, tmp_path):
    """Not of what happens to stand at the ends of the table."""
    names = [f"v{number}" for number in range(8)]
    study_file.write_text("question: x\nbase: quick\nvariants:\n  first: {}\n" + "".join(
        f"  {name}: {{hidden_size: {8 * (number + 10)}{', against: v3' if number > 5 else ''}}}\n"
        for number, name in enumerate(names)))
    runs = {(name, 1): tmp_path / name for name in ("first", *names)}
    worth = {name: 0.1 * number for number, name in enumerate(names)} | {"first": 0.35}
    results = {run: result(folder, np.full(8, worth[run[0]])) for run, folder in runs.items()}
    lines = report.study_lines(load_study(str(study_file)), runs, results)
    assert {line.variant.name for line in figures_of_page._telling(lines)} == {"first", "v3", "v7", "v6", "v0", "v1"}
    assert [line.variant.name for line in figures_of_page._telling(lines[:3])] == [
        line.variant.name for line in lines[:3]]


def test_jobs_share_the_cores(study_file, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is as it was afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    runs = runner.plan(load_study(str(study_file)), [2], tmp_path)
    for run in runs:
        run.results.parent.mkdir(parents=True)
        run.results.write_text("{}")
    runner.execute(runs, 2)
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_a_finished_run_is_left_alone(study_file, tmp_path, monkeypatch):
    """Also when another command finished it after this one had planned it."""
    monkeypatch.setattr(runner, "train", lambda *_, **__: pytest.fail("trained again"))
    run = runner.plan(load_study(str(study_file)), [1], tmp_path)[0]
    assert run.failure == "has not begun"
    run.results.parent.mkdir(parents=True)
    run.results.write_text("{}")
    runner._train(run)
    assert run.results.read_text() == "{}" and run.begun


def test_a_run_that_another_study_made_is_filed_under_this_one_too(study_file, tmp_path, monkeypatch):
    """Curves and results, once; again where the dashboard failed or the run was killed before all of it was there; not
    what this study itself sent there."""
    told, works = [], [False]

    def log(values):
        if not works[0]:
            raise RuntimeError("no network")
        told.append(values)

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(
        __name__="trackio", Table=lambda dataframe: dataframe, init=lambda **options: told.append(options), log=log,
        finish=lambda: told.append("end")))
    monkeypatch.setenv("TRACKIO_DIR", "")
    run = runner.plan(load_study(str(study_file), ["--tracker", "trackio"]), [2], tmp_path)[0]
    run.results.parent.mkdir(parents=True)
    (run.folder / "log").mkdir()
    (run.folder / "log" / "a.jsonl").write_text(json.dumps({"event": "epoch", "epoch": 4, "NDCG@10": 0.25}) + "\n")
    run.results.write_text(json.dumps({"ranking": {"enhanced": {"NDCG@10": {"mean": 0.5}}}, "split_hash": "s",
                                       "git_commit": "c"}))

    def made_by(group, tracker):
        (run.results.parent / "checkpoint.json").write_text(json.dumps({"settings": {
            "run_group": group, "tracker": tracker, "use_wandb": False}}))

    made_by("tiny", "trackio")
    (run.folder / "log" / "a.shown").touch()
    runner.show_again(run)
    assert not told
    made_by("another", "trackio")
    runner.show_again(run)  # the network is down
    works[0] = True
    told.clear()
    runner.show_again(run)
    begun, curve, end, table, finish = told
    assert begun["group"] == "tiny" and begun["config"]["git_commit"] == "c" and begun["name"].startswith("sum, seed 2")
    assert curve == {"epoch/epoch": 4, "epoch/NDCG@10": 0.25} and end["test/ranking/enhanced/NDCG@10/mean"] == 0.5
    assert table["results"].values.tolist() == [["enhanced", 0.5]] and finish == "end"
    runner.show_again(run)
    assert len(told) == 5 and len(live.evaluations(run.folder)) == 1
    shutil.rmtree(run.folder / "shown")
    (run.folder / "log" / "a.shown").unlink()
    made_by("tiny", "trackio")
    runner.show_again(run)  # under the name that it has there already, without the study's
    assert told[5]["name"] == f"sum, seed 2 {run.key}" and len(told) == 10
    runner.show_again(run)
    assert len(told) == 10


def test_warnings_of_a_run_are_repeated(study_file, tmp_path, capsys):
    """They stand in its log, where nobody looks."""
    run = runner.plan(load_study(str(study_file)), [2], tmp_path)[0]
    run.folder.mkdir()
    runner._report_end(run, 1, 1)
    (run.folder / "log.txt").write_text("epoch 1\n" + 2 * "warning: wandb failed (no network)\n")
    runner._report_end(run, 0, 0)
    assert capsys.readouterr().out.count("warning: wandb failed (no network)\n") == 1


def test_the_page_asks_what_the_study_was_last_run_with(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "WORK", str(tmp_path))
    assert runner.last_command(["tiny"]) == ["tiny"]
    (tmp_path / "tiny.command.json").write_text('{"flags": ["tiny", "--seeds", "3"]}')
    assert runner.last_command(["tiny"]) == ["tiny", "--seeds", "3"]
    assert runner.last_command(["tiny", "--seeds", "1"]) == ["tiny", "--seeds", "1"]
    (tmp_path / "tiny.command.json").write_text('{"flags": [], "keys": {}}')  # only parts of it
    assert runner.last_command(["tiny"]) == ["tiny"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "tiny").mkdir(parents=True)
    (tmp_path / "results" / "tiny" / "runs.json").write_text(json.dumps(
        {"runs": [{"seed": 42}, {"seed": 42}, {"seed": 43}], "flags": ["--max_steps", "9"]}))
    assert runner.last_command(["tiny"]) == ["tiny", "--seeds", "2", "--results", "results", "--max_steps", "9"]


def test_where_a_page_goes(study_file, tmp_path, monkeypatch):
    """What changes the study, or is less, does not replace its page in results/; nor does a file of one's own."""
    def place(*flags):
        return str(runner.study_and_runs([*flags, "--work", str(tmp_path)])[2].results)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "FOLDER", study_file.parent)
    assert place("tiny", "--wandb-mode", "offline", "--use_wandb") == place("tiny", "--steps", "4") == "results"
    for flags in (["--num_layers", "1"], ["--variants", "gate"]):
        assert place("tiny", *flags) == "runs/results"
    assert place(str(study_file)) == "runs/results"
    page = tmp_path / "results" / "tiny" / "runs.json"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"runs": [{"seed": 42}, {"seed": 43}], "flags": []}))
    assert place("tiny", "--seeds", "2") == place("tiny", "--seeds", "3") == "results"
    assert place("tiny", "--seeds", "3", "--use_wandb") == "results"
    study_file.write_text(TINY.replace("max_steps: 3", "max_steps: 3\n  max_minutes: 0"))
    assert place("tiny", "--steps", "3") == "results"  # as the file says itself
    study_file.write_text(TINY)
    assert place("tiny", "--seeds", "1") == place("tiny", "--seeds", "2", "--steps", "4") == "runs/results"


def test_a_budget_is_steps_or_time(study_file, tmp_path):
    command = [str(study_file), "--work", str(tmp_path)]
    _, runs, *_ = runner.study_and_runs([*command, "--budget", "1.5h"])
    assert {(run.settings.train.max_minutes, run.settings.train.max_steps) for run in runs} == {(90.0, 0)}
    assert {run.settings.train.max_epochs for run in runs} == {100_000}
    _, runs, *_ = runner.study_and_runs([*command, "--steps", "9"])
    assert {run.settings.train.max_steps for run in runs} == {9}
    for wrong in (["--budget", "20"], ["--budget", "0m"], ["--budget", "2m", "--steps", "3"]):
        with pytest.raises(UserError, match="--budget"):
            runner.study_and_runs([*command, *wrong])


LONGER = TINY.replace("max_steps: 3", "max_steps: 100\n  eval_every: 1")


def figures(folder):
    """What each run of a study found, without what it cost."""
    record = json.loads((folder / "tiny" / "runs.json").read_text())
    return {(run["variant"], run["seed"]): (run["validation"], run["test"], run["steps"]) for run in record["runs"]}


def processes(words):
    """Ids of processes whose command line holds these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(path.parent.name))
    return found


def until(condition, seconds=600):
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A command, and what it finds when nobody disturbs it; a thread a run, as Ray's workers have."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "tiny.yaml").write_text(LONGER)
    command = [sys.executable, "-m", "ablations.run", str(folder / "tiny.yaml"), "--seeds", "1", "--jobs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        subprocess.run([*command, "--work", str(folder), "--results", str(folder)],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        yield command, figures(folder)


def steps_seen(work):
    """(run, record, step) of every evaluation that the records tell of."""
    return [(path.parents[1].name, path.name, json.loads(line)["step"]) for path in sorted(work.glob("*/log/*.jsonl"))
            for line in path.read_text().splitlines() if line.startswith('{"event": "epoch"') and line.endswith("}")]


@pytest.mark.slow
def test_killed_again_and_again_a_study_finds_the_same(undisturbed, tmp_path):
    """kill -9 at random moments, once of the command alone, thrice of it and its workers; the next start goes on."""
    command, expected = undisturbed
    command = [*command, "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    for whole, more in ((False, 1), (True, 1), (True, 3), (True, 5)):  # evaluations than before, and then some time
        least = len(steps_seen(tmp_path / "work")) + more
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            until(lambda command=process, least=least: command.poll() is not None or
                  len(steps_seen(tmp_path / "work")) >= least)
            time.sleep(random.uniform(0, 0.3))
            assert process.poll() is None  # it was in the middle
            if whole:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers save and end
    states = {path.parents[1].name: json.loads(path.read_text())["progress"]["step"]
              for path in (tmp_path / "work").glob("*/last/checkpoint.json")}
    before = set(steps_seen(tmp_path / "work"))
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert figures(tmp_path / "results") == expected
    # What was saved was gone on with: no step up to it was taken again.
    again = {(run, step) for run, _, step in set(steps_seen(tmp_path / "work")) - before}
    assert again and states and all(step > states.get(run, 0) for run, step in again)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_ray_worker_may_die(undisturbed, tmp_path):
    """One of two, killed in the middle of a run: another goes on from where it stood; nothing is lost or doubled."""
    pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    command, expected = undisturbed
    command = [*command, "--ray", "local", "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: list((tmp_path / "work").glob("*/last/checkpoint.json")))
    (victim, *_) = processes("ray::_on_ray")
    os.kill(victim, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert figures(tmp_path / "results") == expected
    for run in (path for path in (tmp_path / "work").iterdir() if path.is_dir()):
        ends = sum('"event": "test"' in path.read_text() for path in (run / "log").glob("*.jsonl"))
        assert ends == 1
