"""A model as ONNX under onnxruntime, beside itself."""

import pytest

from engine import RecommendationEngine
from serving import export
from support.errors import run_command
from tests.conftest import REAL, ROOT, VARIANTS, fresh_model, other_data


def test_what_cannot_be_exported_leaves_nothing(
    service_files, tmp_path, capsys
):
    """A folder that is missing, and a model that ranks by a mask."""
    place = tmp_path / "out" / "model.onnx"
    command = ["--data_dir", str(service_files / "data"), "--onnx", str(place)]
    command += ["--model_path", str(service_files / "vanilla" / "best")]
    assert run_command(export.main, command) == 2
    assert "no such folder" in capsys.readouterr().err
    place.parent.mkdir()
    assert run_command(export.main, command) == 2
    assert "ranks by an appended mask" in capsys.readouterr().err
    assert not list(place.parent.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_published_model_exports(real_data, tmp_path, capsys):
    """The same ten films for two hundred people of ML-1M."""
    assert (
        run_command(
            export.main,
            [
                "--model_path",
                str(ROOT / "models" / "enhanced"),
                "--data_dir",
                str(REAL),
                "--onnx",
                str(tmp_path / "model.onnx"),
            ],
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert "the same 10 items for 200 users" in out and not err


def test_a_file_that_is_off_is_not_kept(
    service_files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        export, "difference", lambda engine, path: (200, 0.99, 0.5)
    )
    monkeypatch.setattr(
        export, "export", lambda engine, path: path.write_bytes(b"x")
    )
    assert (
        run_command(
            export.main,
            [
                "--model_path",
                str(service_files / "main" / "best"),
                "--onnx",
                str(tmp_path / "model.onnx"),
            ],
        )
        == 2
    )
    assert "99.0% of 200 users" in capsys.readouterr().err and not list(
        tmp_path.iterdir()
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    [
        ("films", "enhanced-known-time"),
        ("shop", "enhanced-graph"),
    ],
)
def test_other_models_and_schemas_export(service_files, data, tmp_path, case):
    """Request times, graphs, texts, vectors and gaps: scores of drawn histories agree. The
    published model has transitions."""
    shape, name = case
    own = data if shape == "films" else other_data(shape)
    engine = RecommendationEngine(
        service_files / "main" / "best", data_dir=str(service_files / "data")
    )
    engine.data, engine.catalogue = own, own.catalogue
    engine.seq_length = VARIANTS[name].seq_length
    engine.scorer = fresh_model(own, VARIANTS[name]).frozen()
    export.export(engine, tmp_path / "model.onnx")
    users, same, largest = export.difference(engine, tmp_path / "model.onnx")
    # Random weights tie scores to the last digits.
    assert users >= 40 and largest < 1e-3 and same > 0.98
