"""No command writes over, or removes, files that are not its own."""

import json
import multiprocessing

import pandas as pd
import pytest
import torch

import data_processor
import inference
from bert4rec import BERT4Rec
from data_processor import load
from exporting import write_atomic
from run_folder import publish
from settings import DataSettings
from storage import MANIFEST
from storage.build import WORK, build
from support.checkpoint import write_checkpoint
from support.errors import UserError, run_command
from support.processes import wait_for_lock

FOREIGN = "not to be lost"


def foreign(place):
    """A file of somebody else."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(FOREIGN)
    return place


def log(folder, users=range(1, 21)):
    """A file of interactions."""
    rows = [
        (user, 100 + item, 1_600_000_000 + 60 * item, 1 + item % 5)
        for user in users
        for item in range(user % 3, 8)
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "time", "rating"])
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "log.csv", index=False)
    return str(folder / "log.csv")


def small_model():
    return BERT4Rec(10, hidden_size=8, num_layers=1, num_heads=1)


@pytest.mark.parametrize("name", ["notes.txt", "data/log.csv"])
def test_a_model_is_not_saved_over_other_files(tmp_path, name):
    model, folder = small_model(), tmp_path / "mine"
    there = foreign(folder / name)
    with pytest.raises(UserError, match=r"mine holds other files, such as"):
        model.save_pretrained(folder)
    assert there.read_text() == FOREIGN
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    foreign(tmp_path / "model" / "notes.txt")
    with pytest.raises(UserError, match="notes"):
        model.save_pretrained(tmp_path / "model")


def test_folders_with_names_like_those_of_a_model_stay(tmp_path):
    there = foreign(tmp_path / ".model-backup" / "notes.txt")
    small_model().save_pretrained(tmp_path / "model")
    assert there.read_text() == FOREIGN


def test_a_build_leaves_other_folders_alone(tmp_path):
    there = foreign(tmp_path / "work" / "chapter.txt")
    build(DataSettings(dataset=log(tmp_path)), tmp_path)
    assert there.read_text() == FOREIGN and not (tmp_path / WORK).exists()


def test_sequences_of_another_build_are_not_taken(tmp_path):
    first = log(tmp_path / "first")
    second = log(tmp_path / "second", range(21, 41))
    folder = tmp_path / "built"
    build(DataSettings(dataset=first), folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="sequences is of other data"):
        build(DataSettings(dataset=second), folder)


@pytest.mark.parametrize("name", ["items.parquet", "users-1.parquet"])
def test_vectors_are_not_written_over_tables(
    service_files, tmp_path, capsys, name
):
    command = ["--model_path", str(service_files / "main/best")]
    command += ["--data_dir", str(service_files / "data"), "--users", "all"]
    there = foreign(tmp_path / name)
    code = run_command(
        inference.main, [*command, "--vectors", str(tmp_path)]
    )
    assert code == 2 and "other files" in capsys.readouterr().err
    assert there.read_text() == FOREIGN
    for _ in range(2):
        place = ["--vectors", str(tmp_path / "own")]
        assert run_command(inference.main, [*command, *place]) == 0


def test_lists_are_not_written_beside_parts_of_something_else(
    service_files, tmp_path, capsys
):
    there = foreign(tmp_path / "part-00000.parquet")
    command = ["--model_path", str(service_files / "main/best")]
    command += ["--data_dir", str(service_files / "data"), "--users", "all"]
    code = run_command(inference.main, [*command, "--output", f"{tmp_path}/"])
    assert code == 2 and "no lists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [there]


def test_recboles_files_are_not_written_over(tmp_path, capsys):
    data = load(DataSettings(dataset=log(tmp_path)))
    folder = tmp_path / "rb"
    write_atomic(data, folder)
    write_atomic(data, folder)
    (folder / "rb.yaml").unlink()
    rows = pd.read_csv(folder / "rb.inter", sep="\t")
    rows = rows.drop(columns="order:float")
    rows.to_csv(folder / "rb.inter", sep="\t", index=False)
    before = (folder / "rb.inter").read_text()
    command = ["--dataset", str(folder), "--keep", "rating>=2"]
    code = run_command(
        data_processor.main, [*command, "--to", "recbole", str(folder)]
    )
    assert code == 2 and "rb.inter exists" in capsys.readouterr().err
    assert (folder / "rb.inter").read_text() == before


# Two at once


def published(run):
    publish(run)


def test_a_run_waits_to_be_published(tmp_path):
    """Another may look at `best` at the same time."""
    run = tmp_path / "20260101-000000-000000"
    info = {"split_hash": "a", "validation": {}}
    write_checkpoint(run / "best", {"x": torch.zeros(1)}, info)
    context = multiprocessing.get_context("fork")
    other = context.Process(target=published, args=(run,))
    with wait_for_lock(tmp_path / ".best.lock"):
        other.start()
        other.join(1)
        assert other.is_alive() and not (tmp_path / "best").exists()
    other.join(60)
    found = (tmp_path / "best" / "checkpoint.json").read_text()
    assert json.loads(found)["split_hash"] == "a"
