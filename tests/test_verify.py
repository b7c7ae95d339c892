"""Published figures are those of the results and of the shipped models; a wrong one is found."""

import shutil

import pytest

from ablations import verify
from ablations.boards import ROWS, reported

RECORDS = {board: reported(verify.RESULTS / board, "")[0] for board in ROWS}


def failed(checks):
    """Why checks fail."""
    checks = list(checks)
    assert checks
    return [check.why for check in checks if check.right is False]


def test_cards():
    assert not failed(verify.cards(RECORDS))


@pytest.mark.parametrize("board", ROWS)
def test_boards(board):
    assert not failed(verify.boards(verify.RESULTS / board))


def test_pages_of_studies(tmp_path):
    assert not failed(verify.studies(verify.RESULTS))
    folder = tmp_path / "results"
    shutil.copytree(verify.RESULTS / "time", folder / "time")
    shutil.copy(verify.RESULTS / "index.html", folder)
    page = folder / "time" / "report.md"
    page.write_text(page.read_text().replace("0.2101", "0.2201"))
    # Its line, and the index of fewer studies.
    assert len(failed(verify.studies(folder))) == 2


@pytest.mark.parametrize("page", verify.PAGES)
def test_pages(page):
    assert not failed(verify.pages(verify.ROOT / page, RECORDS))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("enhanced", marks=pytest.mark.slow),
        pytest.param("no_time", marks=pytest.mark.slow),
        pytest.param("timed", marks=pytest.mark.slow),
        pytest.param("sasrec", marks=pytest.mark.slow),
        pytest.param("vanilla", marks=pytest.mark.slow),
    ],
)
def test_models(model, real_data):
    (check,) = verify.models(RECORDS, [model])
    assert check.right, check.why


@pytest.mark.parametrize("page", verify.PAGES)
def test_a_wrong_figure_of_a_page_is_found(page, tmp_path):
    text = (verify.ROOT / page).read_text()
    path = tmp_path / "page.md"
    path.write_text(text.replace(".1806", ".1860"))
    (why, *_) = failed(verify.pages(path, RECORDS))
    assert ".1860, found .1806" in why


def test_a_wrong_figure_of_a_board_is_found(tmp_path):
    folder = tmp_path / "loo-3706"
    shutil.copytree(verify.RESULTS / "loo-3706", folder)
    path = folder / "table.md"
    text = path.read_text()
    path.write_text(text.replace("0.1806 0.173-0.189", "0.1860 0.173-0.189"))
    (why,) = failed(verify.boards(folder))
    assert "NDCG@10 0.1860" in why and "found 0.1806" in why
    path.write_text(text.replace("| pctm |", "| pctn |"))
    assert failed(verify.boards(folder)) == ["lacks pctm"]


def test_a_model_without_its_row_is_found(monkeypatch, tmp_path):
    records = {board: dict(rows) for board, rows in RECORDS.items()}
    del records["loo-3706"]["timed"]
    assert failed(verify.cards(records)) == ["no such row or seed"]
    shutil.copytree(verify.MODELS, tmp_path / "models")
    card = tmp_path / "models" / "vanilla" / verify.CARD
    text = card.read_text()
    card.write_text(text.replace("| this model | 0.", "| this model | 1."))
    monkeypatch.setattr(verify, "MODELS", tmp_path / "models")
    assert failed(verify.cards(RECORDS)) == ["differs from results/"]


def test_the_command(monkeypatch, capsys):
    found = [
        verify.Check("a", True),
        verify.Check("b", None, "no data"),
        verify.Check("c", False, ".1, found .2"),
    ]
    monkeypatch.setattr(verify, "checks", lambda: iter(found))
    assert verify.main([]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "PASS  a",
        "SKIPPED  b: no data",
        "FAIL  c: .1, found .2",
        "1 failed",
    ]
    del found[2]
    assert verify.main([]) == 0
