"""Precision choice and the run's record."""

import importlib
import itertools
import json
import shutil
import sys

import pytest
import torch

import trainer
from support import devices
from support.devices import choose_device, uses_bf16
from support.errors import UserError, run_command
from support.files import replacing
from support.tracking import Tracker, _numbers, git_commit, run_path


def test_auto_precision_follows_the_processor(monkeypatch):
    """bf16 where there are instructions for it, and they are faster."""
    cpu = torch.device("cpu")
    gains = devices._product_gains.__wrapped__

    for has_it, faster in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(
            devices.torch.cpu,
            "_is_avx512_bf16_supported",
            lambda answer=has_it: answer,
        )
        monkeypatch.setattr(
            devices, "_product_gains", lambda answer=faster: answer
        )
        assert uses_bf16("auto", cpu) is (has_it and faster)
    for factor, expected in ((1, False), (2, False), (0.5, True)):
        # Products in fp32 and in bf16 take turns; each reads the clock twice.
        lengths = itertools.cycle([0, 1, 0, factor])
        now = itertools.accumulate(lengths)
        monkeypatch.setattr(devices.time, "perf_counter", now.__next__)
        assert gains() is expected
    assert uses_bf16("bf16", cpu) and not uses_bf16("fp32", cpu)
    assert choose_device("cpu") == cpu


def test_a_record_is_one_json_object_a_line(tmp_path):
    path = run_path(str(tmp_path / "runs"), "x")
    tracker = Tracker(path, {"seed": 1})
    tracker.log("epoch", loss=0.5)
    tracker.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == ["settings", "epoch"] and rows[1][
        "loss"
    ] == 0.5
    assert run_path(str(tmp_path / "runs"), "x") != path or not path.exists()


def test_nested_results_reach_wandb_by_name():
    results = {
        "ranking": {"enhanced": {"HR@10": {"mean": 0.3}}},
        "protocol": "full",
        "seed": 1,
    }
    assert _numbers("test", results) == {
        "test/ranking/enhanced/HR@10/mean": 0.3,
        "test/seed": 1,
    }


def test_no_record_without_a_path():
    Tracker(None, {}).log("epoch", loss=0.5)


def test_commit_is_known_in_a_repository():
    assert (
        git_commit() == "unknown"
        or len(git_commit().removesuffix("+changes")) == 12
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)],
)
def test_what_the_user_can_mend_is_one_line(capsys, error, code):
    def main(_argv):
        raise error

    assert run_command(main, []) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    def main(_argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main, [])


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("torch", "source .venv/bin/activate"), ("fastapi", "requirements-serving.txt")],
)
def test_a_missing_package_is_a_line(package, remedy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert run_command(lambda _: importlib.import_module(package), []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the package {package} is not installed" in line and remedy in line
    with pytest.raises(ModuleNotFoundError):  # a fault of the program
        run_command(lambda _: importlib.import_module("storage.nothing"), [])


def test_the_version_is_the_commit(capsys):
    with pytest.raises(SystemExit):
        run_command(trainer.main, ["--version"])
    assert git_commit() in capsys.readouterr().out


def test_an_error_of_reading_is_no_error_of_writing(tmp_path):
    """What a caller reads while it writes keeps its own error; nothing is left behind."""
    target = tmp_path / "folder" / "copy"
    with pytest.raises(FileNotFoundError), replacing(target) as part:
        shutil.copyfile(tmp_path / "absent" / "source", part)
    with pytest.raises(UserError, match="cannot be written"), replacing(target):
        raise OSError(28, "No space left on device")
    assert not list(target.parent.iterdir())
