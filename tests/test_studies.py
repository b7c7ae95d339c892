"""Studies: data that are checked before anything runs, runs that are never done twice, a table that compares."""

from __future__ import annotations

import json

import pytest

from ablations import run as runner
from ablations import study as studies
from ablations.study import FOLDER, load_study, run_key
from settings import Settings
from support.errors import UserError

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
  gate: {fusion: gate}
  pupil: {teacher: "{sum}", against: gate}
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


def test_a_study_is_read(study_file):
    study = load_study(str(study_file), ["--num_layers", "1"])
    assert [variant.name for variant in study.variants] == ["sum", "gate", "pupil"]
    assert study["gate"].settings.model.fusion == "gate" and study["sum"].settings.model.fusion == "sum"
    assert all(variant.settings.model.num_layers == 1 for variant in study.variants)
    assert [variant.name for variant in study.only(["pupil"]).variants] == ["sum", "gate", "pupil"]
    assert [variant.name for variant in study.only(["gate"]).variants] == ["sum", "gate"]
    with pytest.raises(UserError, match="no variant 'gait'"):
        study.only(["gait"])
    assert (study["pupil"].against, study["pupil"].needs, study["gate"].against) == ("gate", "sum", "sum")


@pytest.mark.parametrize(("old", "new", "line", "said"), [
    ("fusion: gate", "fussion: gate", 11, "did you mean 'fusion'"),
    ("fusion: gate", "fusion: gait", 11, "gait"),
    ("hidden_size: 8", "hidden_size: wide", 3, "hidden_size"),
    ("hidden_size: 8", "hiden_size: 8", 5, "hidden_size"),
    ("  gate: {fusion: gate}", "  gate: {}", 11, "'sum' and 'gate' are alike"),
    ("  gate: {fusion: gate}", "  sum: {fusion: gate}", 11, "twice"),
    ("  gate: {fusion: gate}", "  gate: yes", 11, "expected"),
    ("base: quick", "base: quik", 2, "unknown preset"),
    ("question:", "aim:", 1, "unknown key 'aim'"),
    ("against: gate", "against: gait", 12, "there is not"),
    ('"{sum}"', '"{som}"', 12, "none of the variants above"),
    ("{sum}", "a: b: c", None, "is not YAML"),
])
def test_a_wrong_study_is_refused_with_its_line(study_file, old, new, line, said):
    text = TINY.replace(old, new) if line else "a: [1"
    study_file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_study(str(study_file))
    assert str(error.value).startswith(f"{study_file}:{line}:" if line else str(study_file))


def test_a_study_without_variants_or_of_no_name_is_refused(study_file):
    study_file.write_text(TINY[:TINY.index("variants")] + "variants: {}\n")
    with pytest.raises(UserError, match=r"tiny.yaml:9: a study needs variants"):
        load_study(str(study_file))
    with pytest.raises(UserError, match="options"):
        load_study("opshuns")


def test_the_key_of_a_run_is_what_it_depends_on(monkeypatch):
    plain = run_key(Settings(), "split")
    assert plain == run_key(Settings().replace(checkpoint_dir="elsewhere", runs_dir="there"), "split")
    others = {run_key(Settings().replace(seed=7), "split"), run_key(Settings().replace(fusion="gate"), "split"),
              run_key(Settings(), "another split"), run_key(Settings(), "split", "teacher")}
    monkeypatch.setattr(studies, "code_version", lambda: "changed")
    assert len({plain, *others, run_key(Settings(), "split")}) == 6


def test_runs_are_done_once_and_a_failing_one_stops_no_other(study_file, tmp_path, capfd):
    """As processes of their own; then a report without a path of this machine, then nothing left to do."""
    study_file.write_text(TINY.replace("  pupil:", "  too wide: {id_start: svd, hidden_size: 1200}\n  pupil:"))
    command = [str(study_file), "--seeds", "1", "--jobs", "2", "--work", str(tmp_path / "work"),
               "--results", str(tmp_path / "results")]
    assert runner.main(command) == 1
    report = (tmp_path / "results" / "tiny" / "report.md").read_text()
    assert "Does the gate pay?" in report and "| pupil | 1 |" in report and "too wide, seed 1: --id_start" in report
    runs = json.loads((tmp_path / "results" / "tiny" / "runs.json").read_text())["runs"]
    assert [(entry["variant"], entry["steps"]) for entry in runs] == [("sum", 3), ("gate", 3), ("pupil", 3)]
    assert str(tmp_path) not in report + json.dumps(runs)
    capfd.readouterr()
    study_file.write_text(TINY)
    assert runner.main(command) == 0
    assert "3 of 3 runs are finished already" in capfd.readouterr().out


def test_runs_alike_are_shared_between_studies(study_file, tmp_path):
    first = runner.plan(load_study(str(study_file)), [1, 2], tmp_path)
    assert len({run.key for run in first}) == 6
    study_file.write_text(TINY.replace("sum: {}", "another name: {}").replace("{sum}", "{another name}"))
    second = runner.plan(load_study(str(study_file)), [2], tmp_path)
    assert {run.key for run in second} < {run.key for run in first}
    pupil = second[-1]
    assert pupil.needs == second[0].folder and pupil.settings.train.teacher == str(second[0].folder / "best")
