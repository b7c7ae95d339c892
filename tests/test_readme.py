"""The commands and the code of README.md and docs/commands.md run, on a tiny data set that has the
ids they name."""

import importlib
import re
import shlex
import shutil

import pytest

import bert_multi
import inference
import trainer
from ablations import study
from data_processor import main as data_card
from support.errors import run_command
from tests.conftest import ROOT, write_ml_1m
from tests.synthetic import generate
from tests.test_auto_preset import log_of

SMALL = [
    "--hidden_size",
    "16",
    "--num_heads",
    "2",
    "--num_layers",
    "1",
    "--seq_length",
    "20",
    "--max_epochs",
    "1",
    "--device",
    "cpu",
]
TITLES = {
    260: "Star Wars: Episode IV - A New Hope (1977)",
    1210: "Star Wars: Episode VI (1983)",
    1196: "Star Wars: Episode V (1980)",
    1214: "Alien (1979)",
}
DATES = [
    "2000-09-01",
    "2001-01-01",
    "2001-03-01",
]  # the tiny world is of 2000 to 2001
PAGES = "\n".join(
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/commands.md")
)


def commands(text):
    """Each command of the unmarked code blocks once, in order."""
    found = []
    for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            if re.match(r"(python|torchrun|make) ", line):
                found.append(line.split("#")[0].strip())
    return list(dict.fromkeys(found))


COMMANDS = commands(PAGES)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tiny ML-1M files in which user 123 and the README's films exist, and a model
    trained on them.
    """
    folder = tmp_path_factory.mktemp("readme")
    world = generate(seed=3, people=60, films=200)
    new_id = dict(zip(range(1, 5), TITLES, strict=True)) | {
        film: film + 2000 for film in range(5, 201)
    }
    for name in ("interactions", "items"):
        frame = world[name].frame
        frame["movie_id"] = frame["movie_id"].map(new_id)
    for name in ("interactions", "users"):
        world[name].frame["user_id"] += 100
    items = world["items"].frame
    named = zip(items["movie_id"], items["title"], strict=True)
    items["title"] = [TITLES.get(film, title) for film, title in named]
    write_ml_1m(folder / "ml-1m", world)
    log_of(40, 30, 6).to_csv(folder / "clicks.csv", index=False)
    (folder / "my_run.yaml").write_text("dropout: 0.3\n")
    shutil.copytree(ROOT / "configs", folder / "configs")
    # Three variants of it.
    lines = (study.FOLDER / "heads.yaml").read_text().splitlines()
    (folder / "studies").mkdir()
    (folder / "studies" / "heads.yaml").write_text("\n".join(lines[:7]))
    assert (
        run_command(
            trainer.main,
            [
                "--data_dir",
                str(folder / "ml-1m"),
                "--checkpoint_dir",
                str(folder / "checkpoints"),
                *SMALL,
            ],
        )
        == 0
    )
    return folder


def test_there_are_commands():
    assert (
        len(COMMANDS) > 12
        and "make run" in COMMANDS
        and "make test" in COMMANDS
    )


def slow(command: str) -> bool:
    """It starts processes of its own, or takes as long."""
    modules = ("ablations.run", "ablations.faithfulness", "benchmarks.data")
    return any(module in command for module in modules)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, marks=[pytest.mark.slow] * slow(line))
        for line in COMMANDS
        if line.startswith("python ")
    ],
)
def test_command(place, monkeypatch, tmp_path, command):
    script, *flags = shlex.split(command)[1:]
    monkeypatch.chdir(place)
    if "serving.export" in command:
        pytest.skip("runs in test_export.py")
    monkeypatch.setattr(study, "FOLDER", place / "studies")
    data = ["--data_dir", str(place / "ml-1m")]
    if script == "trainer.py":
        if "--resume" in flags:
            # a finished run: it measures again
            assert run_command(trainer.main, flags) == 0
            return
        if "--use_wandb" in flags:
            pytest.skip("runs in test_tracking.py")
        shrunk = [
            *flags,
            *data,
            *SMALL,
            "--checkpoint_dir",
            str(tmp_path),
            "--runs_dir",
            str(tmp_path),
        ]
        assert run_command(trainer.main, shrunk) == 0
    elif script == "inference.py":
        assert run_command(inference.main, flags) == 0
    elif script == "bert_multi.py":
        assert (
            run_command(
                bert_multi.main,
                [
                    *flags,
                    *data,
                    *SMALL,
                    f"--checkpoint_dir={tmp_path}",
                    "--runs_dir",
                    str(tmp_path),
                ],
            )
            == 0
        )
        assert (tmp_path / "best" / "candidates.json").exists()
    elif script == "-m":
        module, *flags = flags
        results = ["--results", str(tmp_path)]
        more = {
            "ablations.audit": data,
            "ablations.analyse": [],
            "ablations.faithfulness": ["--users", "2", *results],
            "ablations.rows": [
                *data,
                *SMALL,
                "--seeds",
                "1",
                *results,
                "--work",
                str(tmp_path),
            ],
            "ablations.run": [
                *data,
                *SMALL,
                "--max_steps",
                "3",
                "--seeds",
                "1",
                *results,
                "--work",
                str(tmp_path),
            ],
            "ablations.incremental": [
                *data,
                *SMALL,
                "--seeds",
                "1",
                "--dates",
                *DATES,
                *results,
                "--work",
                str(tmp_path),
            ],
            "ablations.cold_start": [
                *data,
                *SMALL,
                "--seeds",
                "1",
                *results,
                "--work",
                str(tmp_path),
            ],
            "benchmarks.data_sets": [
                *SMALL,
                "--seeds",
                "2",
                "--work",
                str(tmp_path),
            ],
        }[module]
        assert (
            run_command(importlib.import_module(module).main, [*flags, *more])
            == 0
        )
    else:
        assert script == "data_processor.py"
        if "--min_item_count" in flags:
            flags = ["--min_item_count", "2"]
        assert run_command(data_card, [*flags, *data]) == 0


def test_torchrun_line_names_a_real_script():
    # run in test_training.py with gloo
    (line,) = [line for line in COMMANDS if line.startswith("torchrun")]
    assert "trainer.py --preset quick" in line


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL)
)
def test_python_block(place, monkeypatch, block):
    monkeypatch.chdir(place)
    small = block
    for name, value in (
        ("vocab_size", 50),
        ("hidden_size", 16),
        ("num_layers", 1),
        ("num_heads", 2),
        ("epochs", 1),
    ):
        small = re.sub(rf"\b{name}=\d+", f"{name}={value}", small)
    exec(compile(small, "docs/commands.md", "exec"), {})


def test_every_number_of_the_data_is_true(real_data):
    """Counts that the page about protocols states."""
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert f"{real_data.num_users:,} users" in page
    assert f"{len(real_data.catalogue.items.ids):,} rated films" in page
