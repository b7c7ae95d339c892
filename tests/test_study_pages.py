"""The pages of studies: what they say, and that they say it of any names."""

import json

import pytest

from ablations import pages
from evaluation.metrics import METRIC
from support.errors import run_command


def run_of(variant, seed, test):
    return {
        "variant": variant,
        "seed": seed,
        "protocol": "leave-one-out",
        "validation": test + 0.01,
        "test": {METRIC: test},
        "processor_seconds": 90.0,
        "parameters": 1200,
        "peak_memory_mb": 300.0,
        "git_commit": "abc",
    }


def difference(test, mark=""):
    return {
        "validation": test / 2,
        "test": test,
        "low": test - 0.01,
        "high": test + 0.01,
        "mark": mark,
    }


@pytest.fixture()
def record():
    tests = {"plain": 0.1, "wider": 0.13, "<b>deeper": 0.105, "slower": 0.07}
    against = {
        "plain": "",
        "wider": "plain",
        "<b>deeper": "wider",
        "slower": "plain",
    }
    return {
        "study": "tiny",
        "date": "2026-11-30",
        "question": "How wide? Nobody knows.",
        "base": "quick",
        "common": {"max_steps": 3},
        "flags": [],
        "variants": {
            name: {"changes": {"hidden_size": 8}, "against": against[name]}
            for name in tests
        },
        "runs": [
            run_of(name, seed, test + seed / 1000)
            for name, test in tests.items()
            for seed in (0, 2)
        ],
        "differences": {
            "wider": difference(0.03, "**"),
            "<b>deeper": difference(-0.025),
            "slower": difference(-0.03, "*"),
        },
        "failed": [],
    }


def write(record, folder):
    place = folder / record["study"]
    place.mkdir(parents=True)
    (place / "runs.json").write_text(json.dumps(record))


def test_the_finding_names_what_is_beyond_chance(record):
    assert pages.finding(pages.rows_of(record)) == (
        "Better in test NDCG@10: wider (+0.0300 against plain). Worse in test NDCG@10: slower "
        "(-0.0300 against plain). The other difference may be chance."
    )
    for found in record["differences"].values():
        found["mark"] = ""
    assert "may be chance" in pages.finding(pages.rows_of(record))
    record["differences"] = {}
    assert "Nothing was compared" in pages.finding(pages.rows_of(record))


def test_means_and_spread_over_seeds(record):
    cells = pages.table(pages.rows_of(record))
    assert [line[0] for line in cells] == list(record["variants"])
    # The seeds .130 and .132.
    assert cells[1][3] == "0.1310\n±0.0014" and cells[1][2].startswith(
        "0.1410"
    )
    assert cells[0][5:7] == ["", ""]
    assert cells[1][5:8] == ["+0.0150", "+0.0300**\n+0.0200 to +0.0400", "1.5"]


def test_a_variant_without_a_finished_run_is_left_out(record):
    record["runs"] = [
        run for run in record["runs"] if run["variant"] != "slower"
    ]
    del record["differences"]["slower"]
    record["failed"] = ["slower, seed 0: was stopped"]
    assert "slower" not in [row.name for row in pages.rows_of(record)]
    assert "- slower, seed 0: was stopped" in pages.report_text(record)
    assert "<li>slower, seed 0: was stopped" in pages.page_text(record)


def test_names_are_text_not_markup(record):
    text = pages.page_text(record)
    assert "&lt;b&gt;deeper" in text and "<b>" not in text


def test_all_studies_stand_in_the_index_newest_first(record, tmp_path, capsys):
    write(record, tmp_path)
    write({**record, "study": "newer", "date": "2026-12-01"}, tmp_path)
    write({"study": "of old"}, tmp_path)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "runs.json").write_text('{"study": "cu')
    assert run_command(pages.main, [str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "of old" in said and "cut/runs.json is damaged" in said
    index = (tmp_path / "index.html").read_text()
    assert index.index("newer/index.html") < index.index("tiny/index.html")
    assert ">How wide?<" in index and "of old" not in index
    page = (tmp_path / "tiny" / "index.html").read_text()
    assert 'href="../index.html"' in page and "Nobody knows" in page
    assert not (tmp_path / "of old" / "index.html").exists()


def test_a_folder_without_studies_is_refused(tmp_path, capsys):
    assert run_command(pages.main, [str(tmp_path)]) == 2
    assert "has no study" in capsys.readouterr().err
