"""Sequences on disk: equal to the data set in memory, whatever the parts; builds that go on."""

import dataclasses
import gzip
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import trainer
from data_processor import load, main
from dataset import Dataset
from settings import DataSettings
from splits import split_interactions
from storage import MANIFEST, is_built, merged, stage
from storage import build as building
from storage.build import build
from storage.rows import part_of
from storage.sequences import load_built, read_manifest
from storage.stage import groups_of
from storage.workers import on_ray
from support.checkpoint import read_checkpoint
from support.errors import UserError
from tests.conftest import ROOT, films, shop_frames, write_ml_1m, write_shop
from tests.test_scripts import SMALL


def events(folder, **options):
    """A log of the shop without a schema: text ids, repeats, numbers and categories with gaps."""
    path = folder / "events.csv"
    shop_frames()["interactions"].to_csv(path, index=False, **options)
    return path


def write_csv(folder):
    return f"{events(folder)}", "user=customer,item=sku,time=day"


def write_packed(folder):
    path = events(folder)
    packed = folder / "events.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return f"{packed}", "user=customer,item=sku,time=day"


def write_commas(folder):
    """Numbers such as 3,5."""
    path = events(folder, sep=";", decimal=",")
    return f"{path}", "user=customer,item=sku,time=day"


def write_nameless(folder):
    """Without a header, with two characters between fields, in several files."""
    frame = films()["interactions"].frame
    for number, rows in enumerate(np.array_split(frame.index, 3)):
        lines = frame.loc[rows].astype(str).agg("::".join, axis=1)
        (folder / f"log-{number}.dat").write_text("\n".join(lines) + "\n")
    return f"{folder}/log-*.dat", "user=1,item=2"


def write_parquet(folder):
    """A folder: parts of a table with times as such, and a table of users."""
    frames = shop_frames()
    frame = frames["interactions"].rename(
        columns={"customer": "customer_id", "sku": "item_id"}
    )
    frame["day"] = pd.to_datetime(frame["day"], unit="s")
    frame.to_parquet(folder / "interactions.parquet")
    users = frames["users"].rename(columns={"customer": "customer_id"})
    users.drop(columns="taste").to_csv(folder / "users.csv", index=False)
    return f"{folder}", ""


def write_schema(folder):
    return f"{write_shop(folder)}", ""


def write_movielens(folder):
    return f"{write_ml_1m(folder / 'ml-1m', films())}", ""


def write_quoted(folder):
    """Separators and line ends in quotes, blank ids, an id with blanks around it, a short row."""
    path = folder / "log.csv"
    rows = ["user,item,note,time"]
    named = ["Anna", "anna", '"Bo, Berg"', " Carl "]
    for user in named + [f"user {number}" for number in range(12)]:
        for item in range(6):
            note = '"two\nlines"' if item % 2 else "one"
            rows.append(f"{user},i{item % 5},{note},{1_600_000_000 + item}")
    rows += [",i1,one,1600000000", "Anna,,one,1600000000", "Anna,i9"]
    path.write_text("\n".join(rows) + "\n")
    return f"{path}", "user=user,item=item"


def write_sequences(folder):
    path = folder / "log.txt"
    lines = [f"{user} {user % 7} 8 {9 + user % 3}" for user in range(1, 30)]
    path.write_text("\n".join(lines) + "\n")
    return f"{path}", ""


WAYS = [
    write_csv,
    write_packed,
    write_commas,
    write_nameless,
    write_parquet,
    write_schema,
    write_movielens,
    write_quoted,
    write_sequences,
]


def sorted_by_user(data: Dataset) -> Dataset:
    """The same data with users in the order of their ids, as in memory."""
    users = data.catalogue.users
    order = np.append(0, 1 + np.argsort(users.ids, kind="stable"))
    runs = [np.arange(*data.offsets[[user, user + 1]]) for user in order]
    rows, lengths = np.concatenate(runs), [len(run) for run in runs]
    offsets = np.append(0, np.cumsum(lengths))
    table = dataclasses.replace(
        users,
        ids=users.ids[order[1:] - 1],
        data={name: values[order] for name, values in users.data.items()},
    )
    settings = DataSettings(protocol=data.split.protocol)
    return Dataset.of(
        dataclasses.replace(data.catalogue, users=table),
        offsets,
        data.items[rows],
        data.times[rows],
        {name: values[rows] for name, values in data.columns.items()},
        split_interactions(settings, offsets, data.times[rows]),
        data.counts,
    )


def assert_equal(found: Dataset, wanted: Dataset) -> None:
    if (found.catalogue.users.ids != wanted.catalogue.users.ids).any():
        found = sorted_by_user(found)
    assert found.split_hash == wanted.split_hash
    assert found.counts == wanted.counts
    assert found.catalogue.schema == wanted.catalogue.schema
    assert found.catalogue.fields == wanted.catalogue.fields
    for table in ("items", "users"):
        one, other = (
            getattr(data.catalogue, table) for data in (found, wanted)
        )
        assert one.ids.dtype == other.ids.dtype
        if table == "items":
            assert list(one.names) == list(other.names)
        for name, values in other.data.items():
            np.testing.assert_array_equal(one.data[name], values)
            assert one.data[name].dtype == values.dtype
    for name, values in wanted.columns.items():
        assert found.columns[name].dtype == values.dtype
    for name in ("offsets", "items", "times"):
        assert getattr(found, name).dtype == getattr(wanted, name).dtype


@pytest.mark.parametrize("rows", [10_000, 60])
@pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__)
def test_what_is_built_equals_the_data_in_memory(tmp_path, write, rows):
    (tmp_path / "files").mkdir()
    dataset, columns = write(tmp_path / "files")
    settings = DataSettings(dataset=dataset, columns=columns)
    folder = tmp_path / "built"
    manifest = build(settings, folder, rows_of_part=rows)
    assert (len(manifest["parts"]) > 1) == (rows == 60)
    assert is_built(str(folder)) and not (folder / building.WORK).exists()
    found = load(DataSettings(dataset=str(folder)))
    wanted = load(settings)
    if rows == 10_000:
        assert found.split_hash == wanted.split_hash
    assert_equal(found, wanted)
    assert manifest["interactions"] == len(wanted.items)


@pytest.mark.parametrize("rows", [10_000, 60])
def test_what_is_built_takes_the_codes_of_a_model(tmp_path, rows):
    """As the data in memory do: values that the model does not know are unknown."""
    for name in ("few", "all"):
        (tmp_path / name).mkdir()
    few, every = write_shop(tmp_path / "few"), write_shop(tmp_path / "all")
    changes = {"interactions": "web", "items": "food, fresh;", "users": "gold;"}
    for table, absent in changes.items():
        path = tmp_path / "few" / f"{table}.csv"
        path.write_text(path.read_text().replace(absent, ""))
    model = load(DataSettings(dataset=str(few))).catalogue
    settings = DataSettings(dataset=str(every))
    build(settings, tmp_path / "built", rows_of_part=rows)
    found = load(DataSettings(dataset=f"{tmp_path}/built"), model)
    assert found.catalogue.fields == model.fields
    assert_equal(found, load(settings, model))
    tags = found.catalogue.items.data["shelf"]
    assert tags.any() and len(tags[0]) == 1


@pytest.mark.parametrize(("items", "users"), [(1, 3), (4, 3), (6, 12)])
def test_rare_items_and_short_histories_are_left_out(tmp_path, items, users):
    dataset, columns = write_csv(tmp_path)
    fewest = {"min_item_count": items, "min_user_count": users}
    settings = DataSettings(dataset=dataset, columns=columns, **fewest)
    build(settings, tmp_path / "built", rows_of_part=100)
    found = load(DataSettings(dataset=str(tmp_path / "built"), **fewest))
    assert_equal(found, load(settings))
    with pytest.raises(UserError, match="was built with --min_item_count"):
        load(DataSettings(dataset=str(tmp_path / "built"), min_item_count=9))


def test_the_dates_of_a_split_in_time_are_exact(tmp_path):
    dataset, columns = write_csv(tmp_path)
    settings = DataSettings(
        dataset=dataset, columns=columns, protocol="global_time"
    )
    manifest = build(settings, tmp_path / "built", rows_of_part=60)
    data = load(settings)
    dates = np.quantile(data.times, [0.7, 0.85], method="lower")
    assert manifest["dates"] == dates.tolist()
    built = DataSettings(dataset=f"{tmp_path}/built", protocol="global_time")
    assert_equal(load(built), data)


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", ["clean", "keep", "encode", "manifest"])
def test_a_build_that_was_killed_goes_on(tmp_path, monkeypatch, step):
    """What was done is not done again, and the result is that of an undisturbed build."""
    dataset, columns = write_csv(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    undisturbed = build(settings, tmp_path / "whole", rows_of_part=60)
    method = getattr(building.Build, step)
    calls = []

    def killed(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 3 or step == "manifest":
            raise Killed
        return method(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(building.Build, step, killed)
        with pytest.raises(Killed):
            build(settings, tmp_path / "built", rows_of_part=60)
    before = set((tmp_path / "built").rglob("*-*.parquet"))
    assert before and not is_built(f"{tmp_path}/built")
    write, written = building.write_table, []

    def record(path, table):
        written.append(path)
        write(path, table)

    monkeypatch.setattr(building, "write_table", record)
    assert build(settings, tmp_path / "built", rows_of_part=60) == undisturbed
    assert not before & set(written)


def test_a_folder_knows_when_its_files_have_changed(tmp_path):
    """Also files that are read as a whole, tables of items, and the schema."""
    lines = tmp_path / "log.jsonl"
    row = '{"user": %d, "item": %d, "time": %d}\n'
    rows = [row % (n // 5, n % 7, 1_600_000_000 + n) for n in range(60)]
    lines.write_text("".join(rows))
    schema = write_shop(tmp_path)
    movies = write_ml_1m(tmp_path / "ml-1m", films())
    changes = [
        (movies, movies / "users.dat", "999::F::1::1::0\n"),
        (lines, lines, rows[0].replace("0", "9", 1)),
        (schema, tmp_path / "items.csv", "sku-99,Another,1,,food\n"),
        (schema, schema, "note: again\n"),
    ]
    for number, (dataset, changed, more) in enumerate(changes):
        folder = tmp_path / f"built-{number}"
        settings = DataSettings(dataset=str(dataset))
        first = build(settings, folder)
        assert build(settings, folder) == first
        with changed.open("a") as file:
            file.write(more)
        with pytest.raises(UserError, match="holds other data"):
            build(settings, folder)


def test_packed_lines_of_json_are_built(tmp_path):
    row = '{"user": %d, "item": %d, "time": %d}\n'
    rows = [row % (n // 5, n % 7, 1_600_000_000 + n) for n in range(60)]
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress("".join(rows).encode()))
    settings = DataSettings(dataset=str(path))
    build(settings, tmp_path / "built")
    built = load_built(DataSettings(dataset=str(tmp_path / "built")))
    assert built.split_hash == load(settings).split_hash


@pytest.mark.parametrize(
    "ids",
    [
        [9223372036854775000 + n for n in range(12)],
        [-1000000000000000000 - n for n in range(12)],
        [9223372036854775800 + n for n in range(12)],  # beyond 64 bits
        ["007", *range(11)],
        ["1.0", *range(2, 13)],
    ],
)
def test_ids_are_numbers_or_texts_as_in_memory(tmp_path, ids):
    rows = [
        f"{user},{item % 5},{1_600_000_000 + item}"
        for user in ids
        for item in range(6)
    ]
    path = tmp_path / "[log] 1*.csv"  # no pattern
    path.write_text("\n".join(["user,item,time", *rows]) + "\n")
    settings = DataSettings(dataset=str(path))
    build(settings, tmp_path / "[built]")
    built = load_built(DataSettings(dataset=str(tmp_path / "[built]")))
    read = load(settings)
    assert built.catalogue.users.ids.dtype == read.catalogue.users.ids.dtype
    assert sorted_by_user(built).split_hash == read.split_hash


def test_a_folder_holds_one_data_set(tmp_path):
    dataset, columns = write_csv(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    folder = tmp_path / "built"
    first = build(settings, folder)
    assert build(settings, folder) == first
    with pytest.raises(UserError, match="other data"):
        build(DataSettings(**{**vars(settings), "min_user_count": 5}), folder)
    with pytest.raises(UserError, match="--keep"):
        build(DataSettings(**{**vars(settings), "keep": "amount>=1"}), folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c 1,sku-1,yesterday,1,web", "events.csv:52: day 'yesterday'"),
        ("c 1,sku-1,1000000,many,web", "events.csv:52: amount 'many'"),
        ("c 1,sku-1,1000000,1,web,more", "events.csv:52: "),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = events(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:51], line, *lines[51:]]) + "\n")
    schema = tmp_path / "shop.yaml"
    schema.write_text(
        "name: shop\ninteractions:\n  file: events.csv\n  user: customer\n  item: sku\n"
        "  time: day\n  columns:\n    amount: number\n"
    )
    with pytest.raises(UserError, match=message):
        build(DataSettings(dataset=str(schema)), tmp_path / "built")
    assert not is_built(f"{tmp_path}/built")


def write_several(folder):
    """Files of one log, with different numbers of rows."""
    frame = shop_frames()["interactions"]
    for number, rows in enumerate(np.split(frame.index, [7, 200, 230])):
        frame.loc[rows].to_csv(folder / f"day-{number}.csv", index=False)
    return f"{folder}/day-*.csv", "user=customer,item=sku,time=day"


def test_files_are_read_in_groups(tmp_path, monkeypatch):
    """Which changes nothing; and a group that was read is not read again."""
    dataset, columns = write_several(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    together = build(settings, tmp_path / "together", rows_of_part=60)
    monkeypatch.setattr(stage, "GROUP", 1)
    assert len(groups_of(sorted(tmp_path.glob("day-*.csv")))) == 4
    built = tmp_path / "built"
    with monkeypatch.context() as patch:
        patch.setattr(building, "Build", None)
        with pytest.raises(TypeError):
            build(settings, built, rows_of_part=60)
    summaries = sorted(built.rglob(stage.SUMMARY))
    assert len(summaries) == 4
    summaries[2].unlink()
    before = [path.stat().st_mtime_ns for path in summaries if path.exists()]
    with monkeypatch.context() as patch:
        patch.setattr(building, "Build", None)
        with pytest.raises(TypeError):
            build(settings, built, rows_of_part=60)
    del summaries[2]
    assert before == [path.stat().st_mtime_ns for path in summaries]
    assert build(settings, built, rows_of_part=60) == together


def test_a_bad_line_of_a_later_file_is_named(tmp_path, monkeypatch):
    write_several(tmp_path)
    path = tmp_path / "day-2.csv"
    path.write_text(path.read_text() + "c 1,sku-1,1000000,many,web\n")
    schema = tmp_path / "shop.yaml"
    schema.write_text(
        "name: shop\ninteractions:\n  file: day-*.csv\n  user: customer\n  item: sku\n"
        "  time: day\n  columns:\n    amount: number\n"
    )
    for size in (1, 1 << 30):
        monkeypatch.setattr(stage, "GROUP", size)
        with pytest.raises(UserError, match=r"day-2.csv:32: amount 'many'"):
            build(
                DataSettings(dataset=str(schema)), tmp_path / f"built-{size}"
            )


@pytest.mark.slow
def test_a_cluster_builds_the_same(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="requirements-ray.txt is not installed")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    dataset, columns = write_several(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    alone = build(settings, tmp_path / "alone", rows_of_part=60)
    bad = dataclasses.replace(settings, columns="user=customer,item=nothing")
    with on_ray("local") as spread:
        folder = tmp_path / "built"
        assert build(settings, folder, rows_of_part=60, spread=spread) == alone
        with pytest.raises(UserError, match="nothing"):
            build(bad, tmp_path / "bad", spread=spread)


def test_users_are_in_the_part_of_their_id(tmp_path):
    dataset, columns = write_csv(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    build(settings, tmp_path / "built", rows_of_part=60)
    for path in (tmp_path / "built/sequences").iterdir():
        number = int(path.stem.removeprefix("part-"))
        parts = 1 + max(
            int(other.stem.removeprefix("part-"))
            for other in path.parent.iterdir()
        )
        for user in pd.read_parquet(path)["user_id"]:
            assert part_of(user, parts) == number


def test_the_command_line_builds(tmp_path, capsys):
    dataset, columns = write_csv(tmp_path)
    folder = tmp_path / "built"
    flags = ["--dataset", dataset, "--columns", columns]
    main([*flags, "--build", str(folder), "--memory", "500MB"])
    shown = capsys.readouterr().out
    assert f"train on it: --dataset {folder}" in shown
    main(["--dataset", str(folder)])
    assert "customer" in capsys.readouterr().out
    (folder / MANIFEST).write_text('{"format": 0}')
    with pytest.raises(UserError, match="another version"):
        load_built(DataSettings(dataset=str(folder)))


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize(
    "file",
    [
        MANIFEST,
        "sequences/part-00000.parquet",
        "vocabulary/items.parquet",
        "vocabulary/fields.json",
        "arrays/items.npy",
        "arrays/offsets.npy",
    ],
)
def test_a_damaged_folder_is_named(tmp_path, file, how):
    dataset, columns = write_csv(tmp_path)
    folder = tmp_path / "built"
    build(DataSettings(dataset=dataset, columns=columns), folder)
    (folder / "arrays" / ".writing-x").mkdir()  # left by a killed process
    load_built(DataSettings(dataset=f"{folder}"))
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"built is damaged \(.*build again"):
        load_built(DataSettings(dataset=f"{folder}"))


def test_arrays_that_do_not_fit_together_are_named(tmp_path):
    """Of any table: a file that is gone, or has rows of another build."""
    folder, whole = tmp_path / "built", tmp_path / "whole"
    build(DataSettings(dataset=f"{write_shop(tmp_path)}"), whole)
    files = sorted(path.name for path in (whole / "arrays").glob("*.npy"))
    assert {"offsets.npy", "times.npy", "users.club.npy"} <= set(files)
    for name, gone in itertools.product(files, (True, False)):
        shutil.copytree(whole, folder)
        path = folder / "arrays" / name
        rows = np.load(path)
        path.unlink()
        if not gone:
            np.save(path, rows[:-1])
        with pytest.raises(UserError, match=r"is damaged \(.*build again"):
            load_built(DataSettings(dataset=str(folder)))
        shutil.rmtree(folder)


def test_a_folder_of_an_older_version_is_not_gone_on_with(tmp_path):
    dataset, columns = write_csv(tmp_path)
    settings = DataSettings(dataset=dataset, columns=columns)
    folder = tmp_path / "built"
    build(settings, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(UserError, match="remove it and build again"):
        build(settings, folder)


def test_items_of_many_parts_are_merged_now_and_then(monkeypatch):
    monkeypatch.setattr(merged, "MERGED", 3)
    number = merged.Merged(building._sum)
    for part in range(20):
        number.add(pd.Series(1, index=[part % 4, 7]))
        assert len(number.parts) <= 5
    assert number.whole().to_dict() == {0: 5, 1: 5, 2: 5, 3: 5, 7: 20}


ODD = {
    "memory": ("a,b\n1,2\n", "lots", "--memory lots: give a size"),
    "header alone": ("user_id,item_id\n", "1GB", "is empty"),
    "binary": ("\0\1\2" * 100, "1GB", "it is binary"),
    "missing": (None, "1GB", "log.csv is missing"),
}


@pytest.mark.parametrize("case", ODD.values(), ids=ODD.keys())
def test_what_cannot_be_built_is_named(tmp_path, case):
    content, memory, message = case
    if content:
        (tmp_path / "log.csv").write_text(content)
    schema = tmp_path / "log.yaml"
    schema.write_text(
        "name: log\ninteractions:\n  file: log.csv\n  user: user_id\n  item: item_id\n"
    )
    with pytest.raises(UserError, match=message):
        build(DataSettings(dataset=str(schema)), tmp_path / "built", memory)


def test_text_that_is_not_utf_8_is_built(tmp_path):
    rows = [f"José {u},i{i}" for u in range(5) for i in range(4)]
    text = "\n".join(["user_id,item_id", *rows]) + "\n"
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    settings = DataSettings(dataset=f"{tmp_path}/log.csv")
    build(settings, tmp_path / "built")
    found = load(DataSettings(dataset=f"{tmp_path}/built"))
    assert_equal(found, load(settings))


def test_a_broken_manifest_is_refused(tmp_path: Path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=MANIFEST):
        read_manifest(tmp_path)


def test_training_gives_the_same_weights(tmp_path):
    """As from the files in memory, to the last digit."""
    folder = write_ml_1m(tmp_path / "ml-1m", films())
    build(DataSettings(dataset=str(folder)), tmp_path / "built")
    weights = []
    for dataset in (folder, tmp_path / "built"):
        place = tmp_path / f"of-{dataset.name}"
        flags = [*SMALL, "--max_epochs", "2", "--transitions"]
        flags += [
            "--runs_dir",
            f"{place}/runs",
            "--checkpoint_dir",
            f"{place}",
        ]
        trainer.main([*flags, "--dataset", f"{dataset}"])
        weights.append(read_checkpoint(place / "best"))
    (one, about), (other, about_other) = weights
    assert about["split_hash"] == about_other["split_hash"]
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


BUILD = """
import sys
from pathlib import Path
from settings import DataSettings
from storage.build import build
build(DataSettings(dataset=sys.argv[1]), Path(sys.argv[2]), rows_of_part=4000)
"""


@pytest.mark.slow
def test_a_build_that_is_killed_at_any_moment_goes_on(tmp_path):
    draw = np.random.default_rng(0)
    number = 100_000
    frame = pd.DataFrame(
        {
            "user_id": draw.integers(0, 4000, number),
            "item_id": draw.integers(0, 500, number),
            "timestamp": 1_600_000_000 + draw.integers(0, 10**7, number),
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    undisturbed = build(
        DataSettings(dataset=f"{tmp_path}/log.csv"),
        tmp_path / "whole",
        rows_of_part=4000,
    )
    assert len(undisturbed["parts"]) == 25
    folder = tmp_path / "built"
    command = [sys.executable, "-c", BUILD, f"{tmp_path}/log.csv", folder]
    killed = []
    while len(killed) < 10:
        process = subprocess.Popen(command, cwd=ROOT)
        # From the first file on: before that only packages are imported.
        while not (folder / building.WORK).exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5 * draw.random())
        process.kill()
        killed.append(process.wait())
        if is_built(f"{folder}"):
            break
    assert killed.count(-signal.SIGKILL) >= 5
    subprocess.run(command, cwd=ROOT, check=True)
    assert read_manifest(folder) == undisturbed
    assert not list(folder.rglob(".writing-*"))
    for path in (tmp_path / "whole").rglob("*.parquet"):
        other = folder / path.relative_to(tmp_path / "whole")
        pd.testing.assert_frame_equal(
            pd.read_parquet(path), pd.read_parquet(other)
        )
    for path in (tmp_path / "whole").rglob("*.npy"):
        other = folder / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_text_files_with_fields_in_another_order_are_refused(tmp_path):
    """They would be read by their place, and users taken for items."""
    frame = shop_frames()["interactions"]
    frame.to_csv(tmp_path / "day-1.csv", index=False)
    turned = frame[list(reversed(frame.columns))]
    turned.to_csv(tmp_path / "day-2.csv", index=False)
    columns = "user=customer,item=sku,time=day"
    settings = DataSettings(dataset=f"{tmp_path}/day-*.csv", columns=columns)
    with pytest.raises(UserError, match=r"day-2\.csv.*the same order"):
        build(settings, tmp_path / "built")
    assert not is_built(f"{tmp_path}/built")
