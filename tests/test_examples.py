"""Every example runs, on the tiny world."""

import importlib
import json

import pytest

import features
from support.errors import run_command
from tests.conftest import ROOT

SMALL = dict(
    hidden_size=16, num_layers=1, seq_length=20, max_epochs=1, device="cpu"
)
EXAMPLES = {
    "train_and_recommend": lambda files, place: dict(
        SMALL,
        folder=str(place / "model"),
        runs_dir=str(place / "runs"),
        data_dir=str(files / "data"),
    ),
    "custom_item_encoder": lambda files, place: dict(
        SMALL,
        folder=str(place / "model"),
        runs_dir=str(place / "runs"),
        data_dir=str(files / "data"),
    ),
}


def test_every_example_is_run_here():
    assert set(EXAMPLES) == {
        path.stem for path in (ROOT / "examples").glob("*.py")
    } - {"__init__"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(service_files, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(features, "KINDS", dict(features.KINDS))
    importlib.import_module(f"examples.{name}").main(
        **EXAMPLES[name](service_files, tmp_path)
    )
    assert "5. Synthetic Film" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_how_it_is_started(name, capsys):
    example = importlib.import_module(f"examples.{name}")
    with pytest.raises(SystemExit):
        run_command(example.command, ["--help"])
    assert f"python -m examples.{name}" in capsys.readouterr().out
    assert run_command(example.command, ["--k", "3"]) == 2


def test_the_notebook(capsys):
    """Its cells in order, as Jupyter would run them."""
    path = ROOT / "examples" / "your_own_data.ipynb"
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    assert "PCTM" in said and "Because you" in said
    assert "added: mug 9" in said
    assert len(names["items"]) == 5
