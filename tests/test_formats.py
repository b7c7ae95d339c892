"""Every format that is read, from a real or written file of it, and odd and bad files of each."""

import gzip
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_processor
from data_processor import Dataset, load
from exporting import write_atomic
from readers import read
from readers.tables import Layout, _read_any, _read_plain
from readers.tfrecord import read_tfrecord
from settings import DataSettings
from support.errors import UserError, run_command
from tests.conftest import SHARED, other_data


def table():
    """40 users with 5 to 9 of 30 items, in order of time, by whole numbers."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(1, 41):
        for place in range(5 + user % 5):
            item = int(draw.integers(1, 31))
            moment = 1_600_000_000 + 1000 * user + 60 * place
            rows.append((user, item, int(draw.integers(1, 11)) / 2, moment))
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "time"])
    return frame.drop_duplicates(["user", "item"], ignore_index=True)


def text(separator=",", header=True, end="\n", **names):
    frame = table().rename(columns=names)
    return frame.to_csv(
        sep=separator, header=header, index=False, lineterminator=end
    )


def packed(content, kind):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as stream:
        stream.write(content.encode())
    return sink.getvalue().to_pybytes()


def amazon():
    """Reviews as Amazon's are published: an object a line."""
    lines = []
    for row in table().itertuples():
        review = {
            "reviewerID": row.user,
            "asin": row.item,
            "overall": row.rating,
            "unixReviewTime": row.time,
        }
        lines.append(json.dumps(review) + "\n")
    return "".join(lines)


# name of the file -> its content, and whether it holds times and ratings
FILES = {
    "comma.csv": text(),
    "tabs.tsv": text("\t"),
    "semicolons.csv": text(";"),
    "continental.csv": table().to_csv(sep=";", decimal=",", index=False),
    "bars.txt": text("|"),
    "quoted.csv": table().to_csv(index=False, quoting=1),
    "windows.csv": "\ufeff" + text(end="\r\n"),
    "utf-16.csv": text("\t").encode("utf-16"),
    "blanks.dat": text(" "),
    "no_header.csv": text(header=False),
    "no_header.txt": text(" ", header=False),
    "u.data": text("\t", header=False),
    "ratings.dat": text("\x1f", header=False).replace("\x1f", "::"),
    "packed.csv.gz": gzip.compress(text().encode()),
    "packed.csv.zst": packed(text(), "zstd"),
    "reviews.jsonl": amazon(),
    "reviews.json.gz": gzip.compress(amazon().encode()),
    "list.json": json.dumps(table().to_dict("records")),
    "named.csv": text(user="customerId", item="SKU", time="Date"),
    "atomic.inter": text(
        "\t",
        user="user_id:token",
        item="item_id:token",
        rating="rating:float",
        time="timestamp:float",
    ),
    "ratings.csv": text(user="userId", item="movieId", time="timestamp"),
}


def write(folder, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
    return folder / name


def same(raw, wanted):
    found = raw.interactions.rename(columns={"overall": "rating"})
    assert list(found) == list(wanted)
    for name in wanted:
        assert found[name].tolist() == wanted[name].tolist(), name


WANTED = table().assign(
    rating=table()["rating"].map(lambda value: f"{value:g}")
)[["user", "item", "time", "rating"]]


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_the_same_table(tmp_path, name):
    same(read(str(write(tmp_path, name, FILES[name]))), WANTED)


def test_tables_in_memory_and_parquet(tmp_path):
    frame = table()
    frame.to_parquet(tmp_path / "a.parquet")
    same(read(str(tmp_path / "a.parquet")), WANTED)
    from_file = load(DataSettings(dataset=str(tmp_path / "a.parquet")))
    for frames in (frame, pa.Table.from_pandas(frame)):
        assert Dataset.from_frames(frames).split_hash == from_file.split_hash
    renamed = frame.rename(columns={"user": "a", "item": "b"})
    data = Dataset.from_frames(renamed, columns="user=a,item=b")
    assert data.split_hash == from_file.split_hash
    shop = pd.DataFrame({"item": range(1, 31), "price": range(30)})
    assert "price" in Dataset.from_frames(frame, shop).catalogue.items.fields


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_several_files_by_a_pattern_or_a_folder(tmp_path, suffix):
    frame = table()
    for number, rows in enumerate((frame[:100], frame[100:])):
        path = tmp_path / f"part-{number}.{suffix}"
        if suffix == "csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_parquet(path)
    (tmp_path / "_SUCCESS").touch()
    written = tmp_path.parent / "written.yaml"
    for dataset in (tmp_path / f"part-*.{suffix}", tmp_path):
        same(read(str(dataset)), WANTED)
        flags = ["--dataset", str(dataset), "--write_schema", str(written)]
        assert run_command(data_processor.main, flags) == 0
        same(read(str(written)), WANTED)


def test_histories_in_lines(tmp_path):
    frame = table()
    pairs = "".join(f"{a} {b}\n" for a, b in frame[["user", "item"]].values)
    lines = "".join(
        f"{user} {' '.join(map(str, rows['item']))}\n"
        for user, rows in frame.groupby("user")
    )
    for name, content in (("pairs.txt", pairs), ("lines.txt", lines)):
        same(
            read(str(write(tmp_path, name, content))), WANTED[["user", "item"]]
        )


SESSIONS = [([3, 5, 9], "a"), ([7], "b"), ([5, 3], "c"), ([4, 8, 4, 1], "d")]


def test_sessions_in_lists(tmp_path):
    """A session a row: of JSON, of Parquet; its number is the user where no field says who."""
    rows = [{"items": items, "channel": name} for items, name in SESSIONS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "s.parquet")
    users = [1, 1, 1, 2, 3, 3, 4, 4, 4, 4]
    items = [3, 5, 9, 7, 5, 3, 4, 8, 4, 1]
    for path in (
        write(tmp_path, "s.jsonl", lines),
        tmp_path / "s.parquet",
    ):
        found = read(str(path)).interactions
        assert found["user"].tolist() == users
        assert found["item"].tolist() == items


def test_tfrecord_sessions_as_another_program_writes_them(tmp_path):
    writer = pytest.importorskip("tfrecord.writer")
    path = tmp_path / "s.tfrecord"
    file = writer.TFRecordWriter(str(path))
    for number, (items, name) in enumerate(SESSIONS):
        file.write(
            {
                "session_id": (-7 * number, "int"),
                "items": (items, "int"),
                "times": (
                    [10**9 + place for place in range(len(items))],
                    "int",
                ),
                "weight": ([item / 2 for item in items], "float"),
                "channel": (name.encode(), "byte"),
            }
        )
    file.close()
    frame = read_tfrecord(path)
    assert frame["session_id"].tolist() == [0, -7, -14, -21]
    assert frame["channel"].tolist() == ["a", "b", "c", "d"]
    assert frame["weight"].tolist()[0] == [1.5, 2.5, 4.5]
    raw = read(str(path))
    assert raw.interactions["item"].tolist() == [3, 5, 9, 7, 5, 3, 4, 8, 4, 1]
    assert raw.interactions["user"].tolist() == [
        *([0] * 3 + [-7] + [-14] * 2 + [-21] * 4)
    ]
    # In gzip, and each damage is named.
    whole = path.read_bytes()
    zipped = write(tmp_path, "s.tfrecord.gz", gzip.compress(whole))
    pd.testing.assert_frame_equal(read_tfrecord(zipped), frame)
    for content, message in (
        (whole[:-3], "record 4 is cut off"),
        (b"\x01" + whole[1:], "record 1 has no length"),
        (whole[:12] + b"\xff" * 8 + whole[20:], "record 1 is no tf.train"),
    ):
        bad = write(tmp_path, "bad.tfrecord", content)
        with pytest.raises(UserError, match=message):
            read(str(bad))


def test_tfrecord_of_values_that_are_not_packed(tmp_path):
    """What protobuf allows: each value by itself."""

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    values = b"".join(bytes([1 << 3, value]) for value in (3, 5))
    entry = field(1, b"items") + field(2, field(3, values))
    example = field(1, field(1, entry))
    size = struct.pack("<Q", len(example))
    from readers.tfrecord import _crc, _masked

    record = (
        size + struct.pack("<I", _masked(_crc(size))) + example + b"\0" * 4
    )
    frame = read_tfrecord(write(tmp_path, "a.tfrecord", record))
    assert frame["items"].tolist() == [[3, 5]]


def test_movielens_folders_by_path():
    for name in ("ml-100k", "ml-1m"):
        folder = SHARED / name
        if not folder.exists():
            pytest.skip(f"{name} is absent")
        raw = read(str(folder))
        assert raw.schema.name == name and raw.schema.noun == "film"


def recbole(path):
    """An atomic file as RecBole reads one: typed names, tabs, no quotes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names, types = zip(
        *(field.split(":") for field in lines[0].split("\t")), strict=True
    )
    rows = [line.split("\t") for line in lines[1:]]
    table = pd.DataFrame(rows, columns=names)
    for name, kind in zip(names, types, strict=True):
        if kind == "float":
            table[name] = table[name].replace("", "nan").astype(float)
        if kind.endswith("_seq"):
            table[name] = table[name].str.split(" ")
    return table


@pytest.mark.parametrize("shape", ["films", "shop", "ids"])
def test_atomic_files_hold_the_same_split(data, shape, tmp_path):
    """Their last two by order, of each user, are our validation and test items."""
    data = data if shape == "films" else other_data(shape)
    folder = tmp_path / "peer"
    write_atomic(data, folder)
    table = recbole(folder / "peer.inter").sort_values("order")
    table = table[table.groupby("user_id")["order"].transform("size") > 2]
    items = data.catalogue.items
    for until, place in (("validation", -2), ("test", -1)):
        requests = data.split.requests[until]
        users = data.catalogue.users.id_array(requests.users).astype(str)
        wanted = items.id_array(data.items[requests.ends]).astype(str)
        theirs = table.groupby("user_id")["item_id"].nth(place)
        theirs.index = table.loc[theirs.index, "user_id"]
        assert theirs[users].tolist() == wanted.tolist()
    described = recbole(folder / "peer.item")
    assert described["item_id"].tolist() == items.ids.astype(str).tolist()
    for name, entry in items.fields.items():
        for row in (items.first, items.first + 3):
            cell = described[name][row - items.first]
            value = entry.readable(items.data[name][row])
            if entry.column.kind == "number" and value is not None:
                assert cell == pytest.approx(value, rel=1e-3)
            if entry.column.kind == "tags":
                codes = items.data[name][row]
                assert len([tag for tag in cell if tag]) == (codes > 0).sum()
    # And we read them back: the same users, items, order and targets.
    raw = read(str(folder)).interactions
    assert raw["item"].astype(str).tolist() == table_of(data)[1]
    assert raw["user"].astype(str).tolist() == table_of(data)[0]


def table_of(data):
    users = data.catalogue.users.id_array(data.user_of).astype(str)
    items = data.catalogue.items.id_array(data.items).astype(str)
    return users.tolist(), items.tolist()


def test_only_what_recbole_splits_alike_is_written(tmp_path, capsys):
    frame = table()
    frame.to_csv(tmp_path / "a.csv", index=False)
    flags = ["--dataset", str(tmp_path / "a.csv"), "--to"]
    out = str(tmp_path / "out")
    assert run_command(data_processor.main, [*flags, "recbole", out]) == 0
    assert "out.inter" in capsys.readouterr().out
    assert run_command(data_processor.main, [*flags, "recpole", out]) == 2
    flags = ["--protocol", "global_time", *flags, "recbole", out]
    assert run_command(data_processor.main, flags) == 2
    assert "--protocol leave_one_out" in capsys.readouterr().err


def test_a_column_with_a_name_of_recbole_is_refused(tmp_path, capsys):
    frame = table()
    frame["order"] = range(len(frame))
    frame.to_csv(tmp_path / "a.csv", index=False)
    flags = ["--dataset", str(tmp_path / "a.csv")]
    flags += ["--to", "recbole", str(tmp_path / "out")]
    assert run_command(data_processor.main, flags) == 2
    assert "another name in the schema" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


PIECES = ["a", "12", ",", "\n", "\r", "\r\n", " ", "é", "😀", "\t", "'", "\\"]
PIECES += ["#", "\x1c", "\u2028", "\ufeff", "NA", '"', "\0", "x,y\n"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=12),
    st.sampled_from(["x,y", '"x","y"', 'x,"y,z"', '"x,y', ""]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(max_examples=300, deadline=None)
def test_the_fast_reader_reads_what_the_other_does(pieces, header, end):
    """Or leaves a file to it."""
    start = (header or "1,2") + end
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        path.write_bytes((start + "".join(pieces)).encode())
        layout = Layout(",", header or None, True, ["1", "2"])
        found = _read_plain(path, layout)
        if found is None:
            return
        other = _read_any(path, "utf-8-sig", layout)
        pd.testing.assert_frame_equal(found, other)


def test_the_fast_reader_keeps_the_quotes_of_atomic_files(tmp_path):
    path = tmp_path / "log.inter"
    header = 'user:token\t"item":token'
    path.write_text(f"{header}\n1\t2\n")
    layout = Layout("\t", header, False, header.split("\t"))
    found = _read_plain(path, layout)
    other = _read_any(path, "utf-8-sig", layout)
    pd.testing.assert_frame_equal(found, other)
    assert found.columns[1] == '"item":token'


def test_the_fast_reader_is_used(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("x,y\n1,é\n,\n")
    frame = _read_plain(path, Layout(",", "x,y", True, ["x", "y"]))
    assert frame["x"].tolist() == ["1", ""] and frame["y"].tolist() == [
        "é",
        "",
    ]


def written(folder, amounts):
    """Interactions with an amount each, as a user's file."""
    frame = table().assign(amount=np.resize(amounts, len(table())))
    frame.to_csv(folder / "log.csv", sep=";", index=False)
    return load(DataSettings(dataset=str(folder / "log.csv")))


def test_decimal_commas(tmp_path):
    """3,5 is 3.5; whether 1,234 is 1.234 or 1234 cannot be known."""
    numbers = np.arange(100) / 8
    text = [f"{number:.3f}".replace(".", ",") for number in numbers]
    text[0], text[8] = "0", "1,0"
    points = written(tmp_path, numbers)
    commas = written(tmp_path, text)
    columns = commas.catalogue.schema.interactions.columns
    assert columns["amount"].decimal == "," and not columns["amount"].log
    np.testing.assert_array_equal(
        commas.columns["amount"], points.columns["amount"]
    )
    thousands = written(tmp_path, [f"{number:,}" for number in range(900, 1100)])
    assert "amount" not in thousands.columns
    assert any("separate thousands" in note for note in thousands.counts)
