"""Dashboards: what W&B is told, read back from an offline run; none of them ever stops a
training.
"""

import json
import os
import struct
import subprocess
import sys
import time
import types

import pytest

from command_line import parse_command_line
from run_folder import new_run, newest_run
from settings import Settings
from support import tracking
from support.tracking import Tracker
from tests.conftest import ROOT

SMALL = [
    "--dataset",
    "synthetic",
    "--hidden_size",
    "8",
    "--num_layers",
    "1",
    "--seq_length",
    "20",
    "--max_steps",
    "3",
    "--device",
    "cpu",
]


HEADER, BLOCK = (
    7,
    32 * 1024,
)  # of the file, which then is a LevelDB log: blocks of (checksum, length, type, data)


def offline_records(folder):
    """Every record of the only offline run below a folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    raw, place, records, pending = path.read_bytes(), HEADER, [], b""
    while place + HEADER <= len(raw):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
        _, length, kind = struct.unpack("<IHB", raw[place : place + HEADER])
        pending += raw[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(pending))
            pending = b""
    return records


@pytest.mark.slow
def test_an_offline_run_holds_group_config_metrics_tables_and_the_model(
    tmp_path, monkeypatch
):
    """Of a study: no account, no question; written beside the JSONL record, once, and read back."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    study = tmp_path / "a study.yaml"
    study.write_text("question: x\nbase: quick\nvariants:\n  a variant: {}\n")
    for _ in range(2):  # the second finds it finished, and on the dashboard
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ablations.run",
                str(study),
                "--seeds",
                "1",
                "--work",
                str(tmp_path / "work"),
                "--results",
                str(tmp_path / "results"),
                *SMALL,
                "--use_wandb",
                "--wandb_mode",
                "offline",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("work/*/log")
    assert (
        len(list(log.glob("*.jsonl")))
        == len(list(tmp_path.glob("work/**/*.wandb")))
        == 1
    )
    records = offline_records(log)
    (run,) = [record.run for record in records if record.HasField("run")][:1]
    assert (run.run_group, run.display_name, run.job_type) == (
        "a study",
        "a variant, seed 42",
        "train",
    )
    assert run.run_id == newest_run(log.parent).name
    axes = [
        record.metric.glob_name
        for record in records
        if record.HasField("metric") and record.metric.step_metric
    ]
    assert axes == ["epoch/*"]
    config = {
        entry.key: json.loads(entry.value_json) for entry in run.config.update
    }
    assert (
        config["hidden_size"] == 8
        and config["dataset"] == "synthetic"
        and len(config["split_hash"]) == 16
    )
    history = {
        "/".join(item.nested_key) or item.key: item.value_json
        for record in records
        if record.HasField("history")
        for item in record.history.item
    }
    told = " ".join(history)
    for name in (
        "epoch/NDCG@10",
        "epoch/best",
        "epoch/loss_next_item",
        "epoch/loss_value",
        "epoch/learning_rate",
        "test/ranking/enhanced/NDCG@10/mean",
        "recommendations",
    ):
        assert name in told, name
    tables = {
        path.name.rpartition("_")[0].rpartition("_")[0]: json.loads(
            path.read_text()
        )
        for path in log.glob(
            "wandb/offline-run-*/files/media/table/*.table.json"
        )
    }
    assert tables["recommendations"]["columns"] == [
        "user_id",
        "place",
        "item",
        "score",
    ]
    assert len(tables["recommendations"]["data"]) == 50
    logged = [
        record.request.log_artifact.artifact
        if record.HasField("request")
        else record.artifact
        for record in records
        if record.HasField("artifact")
        or (
            record.HasField("request")
            and record.request.HasField("log_artifact")
        )
    ]
    # a table is one too
    (model,) = [artifact for artifact in logged if artifact.type == "model"]
    assert {entry.path for entry in model.manifest.contents} == {
        "model.safetensors",
        "checkpoint.json",
        "items.parquet",
        "users.parquet",
    }
    assert "test/peak_memory_mb" in told and any(
        record.HasField("stats") for record in records
    )


@pytest.mark.slow
def test_with_the_network_down_a_run_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(tracking, "PATIENCE", 3)
    began = time.monotonic()
    tracker = Tracker(tmp_path / "run.jsonl", {"seed": 1}, "wandb")
    tracker.log("epoch", loss=0.5)
    tracker.close()
    assert time.monotonic() - began < 60
    assert "warning: wandb failed" in capsys.readouterr().err
    assert [
        json.loads(line)["event"]
        for line in (tmp_path / "run.jsonl").read_text().splitlines()
    ] == [
        "settings",
        "epoch",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "warnings"), [("online", 1), ("disabled", 0)]
)
def test_a_whole_training_without_a_dashboard(tmp_path, mode, warnings):
    """From the flags to the results, with W&B out of reach or switched off."""
    pytest.importorskip("wandb")
    script = (
        "import sys, trainer; from support import tracking; from support.errors import "
        "run_command; "
        "tracking.PATIENCE = 3; sys.exit(run_command(trainer.main, sys.argv[1:]))"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB")
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "--checkpoint_dir",
            str(tmp_path),
            "--runs_dir",
            str(tmp_path / "runs"),
            *SMALL,
            "--use_wandb",
            "--wandb_mode",
            mode,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
        env={
            **environment,
            "WANDB_BASE_URL": "http://127.0.0.1:9",
            "WANDB_API_KEY": "x" * 40,
            "WANDB_SILENT": "true",
        },
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("warning: wandb failed") == warnings
        and (tmp_path / "best" / "results.json").exists()
    )
    (record,) = (tmp_path / "runs").glob("*.jsonl")
    assert [
        json.loads(line)["event"] for line in record.read_text().splitlines()
    ][-1] == "test"


@pytest.mark.slow
def test_nobody_at_the_terminal_to_log_in(tmp_path):
    """W&B asks for a key there; after a while the run goes on without it."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("wandb")
    script = f"""
from pathlib import Path
from support import tracking
tracking.PATIENCE = 1
tracker = tracking.Tracker(Path({str(tmp_path / "run.jsonl")!r}), {{"seed": 1}}, "wandb")
tracker.log("epoch", loss=0.5)
tracker.close()
"""
    ours, theirs = pty.openpty()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB")
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=120,
            env={**environment, "HOME": str(tmp_path)},
        )
        said = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0 and "Enter your choice" in said
    assert "warning: wandb failed (nobody is logged in)" in said
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_goes_on_under_its_name(tmp_path, monkeypatch):
    """And a failed one says so; WANDB_MODE overrules the flag's default."""
    calls = []
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        types.SimpleNamespace(
            __name__="wandb",
            Settings=lambda **_: None,
            init=lambda **options: calls.append(options),
            log=lambda _: None,
            define_metric=lambda *_, **__: None,
            finish=lambda exit_code: calls.append(exit_code),
        ),
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    first_run = new_run(tmp_path, Settings()).name
    second_run = new_run(tmp_path, Settings()).name
    for identity, failed in (
        (first_run, True),
        (first_run, False),
        (second_run, False),
    ):
        Tracker(tmp_path / "run.jsonl", {}, "wandb", identity=identity).close(
            failed=failed
        )
    first, code, second, resumed_code, third, _ = calls
    assert first["id"] == second["id"] != third["id"] and (
        code,
        resumed_code,
    ) == (1, 0)
    assert all(
        run["resume"] == "allow" and run["mode"] == "offline"
        for run in (first, second, third)
    )


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_whatever_fails_is_said_once_and_left_alone(
    tmp_path, monkeypatch, capsys, failing
):
    """Of any dashboard: calls that raise, at any time."""
    calls = []

    def call(name):
        def act(*_args, **_kwargs):
            calls.append(name)
            if name == failing:
                raise RuntimeError("no\nanswer")

        return act

    functions = {name: call(name) for name in ("init", "log", "finish")}
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        types.SimpleNamespace(
            __name__="wandb",
            Settings=lambda **values: values,
            define_metric=lambda *_args, **_kwargs: None,
            Table=lambda columns, data: data,
            **functions,
        ),
    )
    tracker = Tracker(tmp_path / "run.jsonl", {"seed": 1}, "offline")
    tracker.log("epoch", loss=0.5)
    tracker.table("results", ["model"], [["a"]])
    tracker.close()
    assert (
        capsys.readouterr().err.count("warning: wandb failed (no answer)") == 1
    )
    assert (
        calls
        == {
            "init": ["init"],
            "log": ["init", "log"],
            "finish": ["init", "log", "log", "finish"],
        }[failing]
    )
    assert tracker.shown is False


def test_the_sweep_speaks_the_trainers_language():
    """Every parameter is a flag, each of its values is taken, and what it maximises is what an
    offline run logs.
    """
    from ruamel.yaml import YAML

    sweep = YAML(typ="safe", pure=True).load(ROOT / "ablations" / "sweep.yaml")
    assert (
        sweep["program"] == "trainer.py"
        and sweep["metric"]["name"] == "epoch/best"
    )
    after = sweep["command"].index("${program}")
    fixed = [
        part for part in sweep["command"][after:] if not part.startswith("${")
    ]
    shell = [*sweep["command"][1 : after - 1], "echo", *fixed, "--dropout=0.1"]
    said = subprocess.run(
        shell,
        env={**os.environ, "WANDB_RUN_ID": "a1"},
        capture_output=True,
        text=True,
        check=True,
    )
    trial, _ = parse_command_line(said.stdout.split(), "")
    assert (
        trial.train.checkpoint_dir == "runs/sweep/a1"
        and trial.model.dropout == 0.1
    )  # each trial has its own
    for name, values in sweep["parameters"].items():
        for value in values.get(
            "values", [values.get("min"), values.get("max")]
        ):
            settings, _ = parse_command_line([*fixed, f"--{name}={value}"], "")
            assert str(settings.to_dict()[name]) == str(value)
            assert (
                settings.train.use_wandb and settings.train.max_steps == 1500
            )
