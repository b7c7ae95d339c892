"""Studies: read and refused with their line, run once, compared in pairs, said on a page."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from ablations import run as runner
from ablations import study as studies
from ablations.study import FOLDER, load_study, run_key
from settings import Settings
from support.errors import UserError, run_command
from tests.conftest import ROOT

TINY = """question: Which positions?
base: quick
settings:
  dataset: synthetic
  hidden_size: 8
  seq_length: 20
  max_steps: 3
  device: cpu
  transitions: false
variants:
  plain: {}
  fixed: {positions: sinusoidal}
  fixed alone: {positions: sinusoidal, user_ids: false, against: fixed}
"""


@pytest.fixture()
def study_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def start(study_file, tmp_path, *flags):
    """A study of tiny runs; the exit code."""
    arguments = [
        str(study_file),
        "--seeds",
        "2",
        "--jobs",
        "2",
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "results"),
        *flags,
    ]
    return run_command(runner.main, arguments)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_studies_are_sound(path):
    study = load_study(path.stem)
    assert study.question and len(study.variants) > 1
    assert study.variants[0].against == "" and all(
        variant.against for variant in study.variants[1:]
    )


def test_a_study_is_read(study_file):
    study = load_study(str(study_file), ["--num_layers", "1"])
    assert study.variants[1].settings.model.positions == "sinusoidal"
    assert all(
        variant.settings.model.num_layers == 1 for variant in study.variants
    )
    assert [variant.against for variant in study.variants] == [
        "",
        "plain",
        "fixed",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "positions: sinusoidal}",
            "pozitions: sinusoidal}",
            12,
            "did you mean 'positions'",
        ),
        ("positions: sinusoidal}", "positions: sinusoidel}", 12, "sinusoidel"),
        ("hidden_size: 8", "hidden_size: wide", 5, "hidden_size"),
        ("hidden_size: 8", "hiden_size: 8", 5, "hidden_size"),
        (
            "{positions: sinusoidal}",
            "{}",
            12,
            "variants.fixed: the same settings as 'plain'",
        ),
        (
            "{positions: sinusoidal}",
            "{negatives: 3, loss: softmax}",
            12,
            "negatives: does nothing without --loss",
        ),
        ("  fixed: {", "  plain: {", 12, "duplicate key"),
        ("{positions: sinusoidal}", "yes", 12, "dictionary"),
        ("base: quick", "base: quik", 2, "base: Input should be"),
        ("question:", "aim:", 1, "aim: unknown key; a study has"),
        (
            "against: fixed",
            "against: nobody",
            13,
            "there is no variant 'nobody' above it",
        ),
        (
            "{positions: sinusoidal}",
            "{teacher: elsewhere}",
            12,
            "give it as a flag",
        ),
        ("{positions: sinusoidal}", "{seed: 7}", 12, "give it as a flag"),
        (
            "{positions: sinusoidal}",
            "{positions: [sinusoidal]}",
            12,
            "positions: expected one value",
        ),
    ],
)
def test_a_wrong_study_is_refused_with_its_line(
    study_file, old, new, line, message
):
    assert old in TINY
    study_file.write_text(TINY.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_study(str(study_file))
    assert f"tiny.yaml:{line}:" in str(caught.value) and message in str(
        caught.value
    )


def test_epochs_make_no_variant_where_steps_are_limited():
    assert len(load_study("vanilla_vs_enhanced").variants) > 1
    with pytest.raises(UserError, match="the same settings as"):
        load_study("vanilla_vs_enhanced", ["--max_steps", "1500"])


def test_a_study_without_variants_or_of_no_name_is_refused(study_file):
    study_file.write_text(TINY[: TINY.index("  plain")])
    with pytest.raises(UserError, match=r"tiny\.yaml:10: variants: "):
        load_study(str(study_file))
    with pytest.raises(UserError, match="no study 'nothing'"):
        load_study("nothing")


def test_the_key_of_a_run_is_what_it_depends_on():
    settings = Settings()
    keys = [
        run_key(settings, "data", "code"),
        run_key(settings.replace(dropout=0.1), "data", "code"),
        run_key(settings, "others", "code"),
        run_key(settings, "data", "newer"),
    ]
    assert len(set(keys)) == 4
    assert (
        run_key(settings.replace(checkpoint_dir="elsewhere"), "data", "code")
        == keys[0]
    )


def test_the_key_of_a_run_follows_the_schema(data):
    keys = [studies.data_hash(data)]
    schema = data.catalogue.schema
    for changes in ({"repeats": True}, {"noun": "book"}):
        changed = dataclasses.replace(schema, **changes)
        catalogue = dataclasses.replace(data.catalogue, schema=changed)
        keys.append(studies.data_hash(data.replace(catalogue=catalogue)))
    assert len(set(keys)) == 3


def test_the_version_of_the_code_follows_the_code(tmp_path, monkeypatch):
    (tmp_path / "trainer.py").write_text("a = 1")
    monkeypatch.setattr(studies, "ROOT", tmp_path)
    studies.code_version.cache_clear()
    before = studies.code_version()
    (tmp_path / "trainer.py").write_text("a = 2")
    studies.code_version.cache_clear()
    assert studies.code_version() != before
    studies.code_version.cache_clear()


@pytest.mark.slow
def test_runs_are_done_once_compared_and_a_failing_one_stops_no_other(
    study_file, tmp_path, capsys, monkeypatch
):
    assert start(study_file, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "fixed alone" in printed and "Which positions?" in printed
    page = tmp_path / "results" / "tiny"
    runs = json.loads((page / "runs.json").read_text())
    assert "sinusoidal" in json.dumps(runs)
    models = [
        pd.read_parquet(path)["NDCG@10"].mean()
        for path in (tmp_path / "work").glob("*/best/test_users.parquet")
    ]
    told = [run["test"]["NDCG@10"] for run in runs["runs"]]
    assert sorted(told) == pytest.approx(sorted(models)), "of the models"
    text = (page / "report.md").read_text()
    assert str(tmp_path) not in text and "What it cannot say" in text
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "work").glob("*/best/results.json")
    }
    assert len(finished) == 6
    assert start(study_file, tmp_path) == 0
    assert finished == {path: path.stat().st_mtime_ns for path in finished}, (
        "nothing is trained twice"
    )
    study_file.write_text(
        TINY + "  broken: {learning_rate: 10, weight_decay: 1.0e+6}\n"
    )
    assert start(study_file, tmp_path) == 1
    captured = capsys.readouterr()
    assert "failed: broken" in captured.out
    assert finished == {path: path.stat().st_mtime_ns for path in finished}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "0"], "--jobs"),
        (["--seed", "3"], "--seeds"),
        (["--positions", "sideways"], "--positions"),
    ],
)
def test_wrong_flags(study_file, tmp_path, capsys, flags, message):
    assert start(study_file, tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and "tiny.yaml" not in error


# Stopped in the middle

LONGER = TINY.replace("max_steps: 3", "max_steps: 30\n  eval_every: 1")


def figures(folder):
    """What each run of a study found, without what it cost."""
    record = json.loads((folder / "tiny" / "runs.json").read_text())
    return {
        (run["variant"], run["seed"]): (
            run["validation"],
            run["test"],
            run["steps"],
        )
        for run in record["runs"]
    }


def steps_seen(work):
    """(run, step) of every evaluation that the records tell of."""
    return [
        (path.parents[1].name, json.loads(line)["step"])
        for path in sorted(work.glob("*/log/*.jsonl"))
        for line in path.read_text().splitlines()
        if line.startswith('{"event": "epoch"') and line.endswith("}")
    ]


def wait_for(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A command, and what it finds when nobody disturbs it; a thread a run, as Ray's workers
    have."""
    folder = tmp_path_factory.mktemp("calm")
    study = folder / "tiny.yaml"
    study.write_text(LONGER)
    command = [
        sys.executable,
        "-m",
        "ablations.run",
        str(study),
        "--seeds",
        "1",
        "--jobs",
        "2",
    ]
    places = ["--work", str(folder / "work"), "--results", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        subprocess.run(
            [*command, *places],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield command, figures(folder)


@pytest.mark.slow
def test_killed_again_and_again_a_study_finds_the_same(undisturbed, tmp_path):
    """kill -9 once of the command alone, twice of it and its workers; the next start goes on."""
    command, expected = undisturbed
    work = tmp_path / "work"
    command = [
        *command,
        "--work",
        str(work),
        "--results",
        str(tmp_path / "results"),
    ]
    for whole, more in ((False, 1), (True, 2), (True, 3)):
        least = len(steps_seen(work)) + more
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            wait_for(lambda least=least: len(steps_seen(work)) >= least)
            assert process.poll() is None  # it was in the middle
            if whole:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers save and end
    saved = {
        path.parents[2].name: json.loads(path.read_text())["progress"]["step"]
        for path in work.glob("*/2*/last/checkpoint.json")
    }
    before = Counter(steps_seen(work))
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert figures(tmp_path / "results") == expected
    # What was saved was gone on with: the last start took no step up to it again. An earlier
    # one may have: an evaluation is logged before its state is saved.
    taken = Counter(steps_seen(work)) - before
    assert saved and taken
    for run, step in taken:
        assert step > saved.get(run, 0)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc").exists(), reason="looks for processes in /proc"
)
def test_a_ray_worker_may_die(undisturbed, tmp_path):
    """One of two, killed in the middle of a run: another goes on from where it stood."""
    pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    command, expected = undisturbed
    work = tmp_path / "work"
    places = ["--work", str(work), "--results", str(tmp_path / "results")]
    command = [*command, "--ray", "local", *places]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(work.glob("*/2*/last/checkpoint.json")))
    os.kill(ray_workers()[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert figures(tmp_path / "results") == expected
    for run in (path for path in work.iterdir() if path.is_dir()):
        records = [path.read_text() for path in (run / "log").glob("*.jsonl")]
        assert sum('"event": "test"' in record for record in records) == 1


@pytest.mark.slow
def test_the_head_of_a_cluster_may_die(undisturbed, tmp_path, monkeypatch):
    """The study ends, and the same command goes on with another head."""
    pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    command, expected = undisturbed
    command = command[: command.index("--jobs")]
    work = tmp_path / "work"
    command += ["--work", str(work), "--results", str(tmp_path / "results")]
    saved = "*/2*/last/checkpoint.json"
    for dies in (True, False):
        head, address = start_head()
        with subprocess.Popen(
            [*command, "--ray", address], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as study:
            if dies:
                wait_for(lambda: list(work.glob(saved)))
                kill_family(head)
            assert (study.wait(timeout=600) == 0) != dies
        if not dies:
            kill_family(head)
    assert figures(tmp_path / "results") == expected


def start_head():
    """(process, address) of the head of a cluster with two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    flags = ["--head", "--block", f"--port={port}", "--num-cpus=2"]
    flags += ["--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(
        [ray, "start", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers():
        with contextlib.suppress(OSError), socket.socket() as asked:
            asked.connect(("127.0.0.1", port))
            return True

    wait_for(answers)
    return head, f"127.0.0.1:{port}"


def kill_family(process):
    """kill -9 of a process and of all that it started."""
    found = [process.pid]
    for one in found:
        tasks = Path(f"/proc/{one}/task/{one}/children")
        with contextlib.suppress(OSError):
            found += map(int, tasks.read_text().split())
    for one in found:
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def ray_workers():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ray::_on_ray" in path.read_bytes():
                found.append(int(path.parent.name))
    return found
