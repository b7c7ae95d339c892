"""Files as people have them: odd names, gaps, types and formats; each trains or is refused in a
line."""

import dataclasses
import gzip
import json

import numpy as np
import pandas as pd
import pytest

from data_processor import load, main
from dataset import Table
from fields import Field
from item_search import rows_where
from model_io import new_model
from readers import read
from schema import Column, plain_number
from settings import DataSettings, ModelSettings
from support.errors import UserError, run_command
from tests.conftest import TINY_MODEL


def rows(**columns):
    """Twelve users with five interactions each, and further columns of 60 values."""
    users = np.repeat(np.arange(1, 13), 5)
    frame = pd.DataFrame(
        {
            "user_id": users,
            "item_id": 100 + (users * 3 + np.arange(60) % 5) % 17,
        }
    )
    return frame.assign(
        timestamp=1_500_000_000 + np.arange(60) * 3600, **columns
    )


def items(**columns):
    return pd.DataFrame({"item_id": 100 + np.arange(17)} | columns)


def folder_of(tmp_path, **tables):
    for name, frame in tables.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return str(tmp_path)


def prepared(dataset, **options):
    data = load(DataSettings(dataset=str(dataset), **options))
    new_model(data, ModelSettings(**TINY_MODEL))
    return data


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_numbers_booleans_and_late_texts_of_typed_files(tmp_path, kind):
    frame = rows(
        price=np.linspace(0, 3, 60),
        new=np.arange(60) % 2 == 0,
        late=[None, "a", "b"] * 20,
        seen=pd.date_range("2020-01-01", periods=60).astype("datetime64[ns]"),
    )
    path = tmp_path / f"typed.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.assign(seen=frame["seen"].astype(str)).to_json(
            path, orient="records", lines=True
        )
    fields = prepared(path).catalogue.interaction_fields
    assert fields["price"].column.kind == "number"
    assert (fields["new"].column.kind, fields["late"].column.kind) == (
        "category",
        "category",
    )
    assert fields["seen"].knots[0] == 18262  # days since 1970


def test_columns_named_like_roles_and_alike(tmp_path):
    frame = rows(
        user=["x", "y"] * 30,
        time=np.arange(60) % 24,
        **{"a.b": ["p", "q"] * 30},
    )
    frame = frame.assign(
        **{"a b": ["q", "p"] * 30, "$": ["1", "2"] * 30, "%": ["2", "3"] * 30}
    )
    things = items(
        id=["one", "two", "three", "four"] * 4 + ["one"],
        name=[f"n {n}" for n in range(17)],
    )
    data = prepared(
        folder_of(tmp_path, interactions=frame, items=things),
        columns="user=user_id",
    )
    assert data.catalogue.users.ids.tolist() == list(range(1, 13))
    assert set(data.catalogue.interaction_fields) == {
        "user_2",
        "time_2",
        "a_b",
        "a_b_2",
        "column",
        "column_2",
    }
    assert (
        "id_2" in data.catalogue.items.fields
        and data.catalogue.items.names[2] == "n 0"
    )


def test_gaps_in_every_kind(tmp_path):
    frame = rows(date=["2020-01-01", "", "2021-06-01"] * 20, nothing=[""] * 60)
    things = items(
        tags=["a|b", "", "b"] * 5 + ["a|b", "c"],
        price=["1.5", "NA", "2.5"] * 5 + ["3", "4"],
        vector=["[0.5, 1]", "", "[1, 2]"] * 5 + ["[0, 0]", "[1, 1]"],
    )
    people = pd.DataFrame(
        {
            "user_id": range(1, 13),
            "bio": [f"likes thing {n} much" for n in range(12)],
        }
    )
    data = prepared(
        folder_of(tmp_path, interactions=frame, items=things, users=people)
    )
    dates = data.columns["date"]
    assert np.isnan(dates).sum() == 20 and np.nanmin(dates) == 18262
    fields = data.catalogue.items.fields
    assert {name: entry.column.kind for name, entry in fields.items()} == {
        "tags": "tags",
        "price": "number",
        "vector": "vector",
    }
    assert np.isnan(data.catalogue.items.data["price"][2:]).sum() == 5


def test_ids_as_pandas_writes_them(tmp_path):
    frame = rows()
    frame["item_id"] = frame["item_id"].astype(str) + ".0"
    data = prepared(
        folder_of(
            tmp_path,
            interactions=frame,
            items=items(shelf=list("abcdefghi") + ["a"] * 8),
        )
    )
    assert data.catalogue.items.ids.tolist() == sorted(
        {int(float(one)) for one in frame["item_id"]}
    )
    assert data.catalogue.items.data["shelf"][2:].all() and not data.counts


@pytest.mark.parametrize(
    "text", ["20170714", "20170714023959", "2017-07-14 02:39:59"]
)
def test_compact_dates(tmp_path, text):
    path = tmp_path / "a.csv"
    rows().assign(timestamp=text).to_csv(path, index=False)
    times = prepared(path).times
    assert str(np.datetime64(int(times[0]), "s"))[:10] == "2017-07-14"


def write(tmp_path, name, content):
    (tmp_path / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    return str(tmp_path / name)


HEAD = "user_id,item_id,timestamp\n"
WRONG = {
    "no gzip": ("a.txt.gz", b"plain", "a.txt.gz: zlib inflate failed"),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(HEAD.encode() * 50)[:-9],
        "a.csv.gz: Truncated compressed stream",
    ),
    "no text": ("a.txt", b"\x00\x01\x00 a\n", "it is binary"),
    "a wrong epoch": (
        "a.csv",
        HEAD + "1,2,1500000000\n1,3,soon\n",
        ":3: timestamp 'soon'",
    ),
    "infinite": ("a.yaml", None, "'inf' is not a number or date"),
    "a word among vectors": (
        "v.yaml",
        None,
        "'hello e' is not a list of 2 finite numbers",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_named(tmp_path, capsys, case):
    name, content, message = WRONG[case]
    path = tmp_path / name
    if content is None:
        values = ["inf" if case == "infinite" else "1, 2"] * 60
        values[7] = "hello e" if case != "infinite" else "1"
        rows().to_csv(tmp_path / "i.csv", index=False)
        items(x=values[:17]).to_csv(tmp_path / "t.csv", index=False)
        kind = "number" if case == "infinite" else "vector"
        path.write_text(
            "name: odd\ninteractions: {file: i.csv, user: user_id, item: item_id}\n"
            f"items: {{file: t.csv, id: item_id, columns: {{x: {kind}}}}}\n"
        )
    else:
        write(tmp_path, name, content)
    assert run_command(main, ["--dataset", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_flags_that_do_not_fit_the_file(tmp_path):
    path = tmp_path / "a.csv"
    rows().to_csv(path, index=False)
    with pytest.raises(
        UserError,
        match=r"user=user_ids: .* the fields user_id, item_id, timestamp",
    ):
        read(str(path), columns="user=user_ids")
    with pytest.raises(
        UserError, match="--columns is for a file without a schema"
    ):
        read("synthetic", columns="user=a")


def test_attributes_must_be_a_mapping(tmp_path):
    path = write(tmp_path, "s.txt", "1 2 3 4\n2 3 4 5\n")
    (tmp_path / "s_item2attributes.json").write_text(json.dumps([1, 2]))
    with pytest.raises(UserError, match="expected a mapping"):
        read(path)


def test_a_table_may_lie_in_several_files(tmp_path):
    """`file: part-*.csv`, as in datasets/README.md."""
    table = rows()
    table[:10].to_csv(tmp_path / "part-1.csv", index=False)
    table[10:].to_csv(tmp_path / "part-2.csv", index=False)
    schema = tmp_path / "own.yaml"
    schema.write_text(
        "name: own\ninteractions: {file: part-*.csv, user: user_id, item: item_id}\n"
    )
    assert len(read(str(schema)).interactions) == len(table)


def test_lists_are_tags_or_vectors_whatever_file_holds_them(tmp_path):
    """An empty list is no number, and a list of doubles no list of words."""
    frame = rows()
    frame.to_csv(tmp_path / "interactions.csv", index=False)
    ids = sorted(set(frame["item_id"]))
    words = [["a", "b"], [], ["b"], ["c", "a"]]
    numbers = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]
    table = pd.DataFrame(
        {
            "item_id": ids,
            "labels": [words[row % 4] for row in range(len(ids))],
            "image": [numbers[row % 4] for row in range(len(ids))],
        }
    )
    table.to_parquet(tmp_path / "items.parquet")
    columns = read(str(tmp_path)).schema.items.columns
    assert columns["labels"].kind == "tags"
    assert columns["image"].kind == "vector"


def test_conditions_are_exact():
    """An unknown number is no smaller one, and large numbers keep their digits."""
    values = (10**9 + np.arange(3)).astype(float)
    stamp = Field(Column("stamp", "number"), knots=(0.0,))
    shelf = Field(Column("shelf", "category"), values=("10", "20", "30"))
    table = Table(
        np.arange(3),
        0,
        np.empty(0, dtype=object),
        {"stamp": stamp, "shelf": shelf},
        {"stamp": values, "shelf": np.array([1, 2, 3])},
    )
    assert rows_where(table, ["stamp>=1000000001"]).tolist() == [
        False,
        True,
        True,
    ]
    assert rows_where(table, ["shelf=20.0"]).tolist() == [False, True, False]
    note = Field(Column("note", "text"))
    texts = np.array(["Some text", "", "other"], dtype=object)
    noted = dataclasses.replace(
        table, fields={"note": note}, data={"note": texts}
    )
    assert rows_where(noted, ["note=TEXT"]).tolist() == [True, False, False]
    with pytest.raises(UserError, match="note: it is text; write note="):
        rows_where(noted, ["note>=M"])
    with pytest.raises(
        UserError, match="--keep shelf: no value is called '25'"
    ):
        rows_where(table, ["shelf=25"], "--keep")


def test_categories_that_are_long_numbers_stay_different(tmp_path):
    """Numbers of up to 19 digits, as shops have them for their categories."""
    first = 2053013555220840837
    labels = [first, first + 1, first + 243269648]
    frame = items(label=[labels[row % 3] for row in range(len(items()))])
    frame.to_parquet(tmp_path / "items.parquet")
    data = prepared(folder_of(tmp_path, interactions=rows()))
    found = data.catalogue.items.fields["label"]
    assert found.column.kind == "category"
    assert found.values == tuple(map(str, labels))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("4.0", "4"),
        ("3.50", "3.5"),
        ("0.30000000000000004", "0.3"),
        ("007", "7"),
        ("-5", "-5"),
        ("1e3", "1000"),
        ("12345678901234.0", "12345678901234"),
        ("9" * 40, "9" * 40),
        ("9" * 5000, "9" * 5000),
        ("seven", "seven"),
    ],
)
def test_numbers_in_their_shortest_form(text, plain):
    assert plain_number(text) == plain


def test_a_header_with_a_blank_is_no_sequence(tmp_path):
    frame = rows().rename(columns={"user_id": "user id"})
    path = tmp_path / "ratings.csv.gz"
    frame.to_csv(path, index=False)
    assert len(read(str(path)).interactions) == len(frame)


def test_a_user_without_items_is_named(tmp_path):
    write(tmp_path, "s.txt", "1 2 3 4\n2\n3 4 5\n")
    schema = write(
        tmp_path,
        "own.yaml",
        "name: own\nreader: sequences\n"
        "interactions: {file: s.txt, user: user_id, item: item_id}\n",
    )
    with pytest.raises(UserError, match=r"s\.txt:2: user 2 has no item"):
        read(str(schema))


def test_the_file_that_is_named_is_read(tmp_path):
    """A name with brackets is a name first, a pattern second."""
    rows()[:16].to_csv(tmp_path / "log[1].csv", index=False)
    rows()[:1].to_csv(tmp_path / "log1.csv", index=False)
    schema = write(
        tmp_path,
        "own.yaml",
        "name: own\n"
        "interactions: {file: 'log[1].csv', user: user_id, item: item_id}\n",
    )
    assert len(read(str(schema)).interactions) == 16


def test_texts_stay_as_they_are(tmp_path):
    """Long numbers as names, and lists as texts."""
    rows().to_csv(tmp_path / "i.csv", index=False)
    things = items(
        title=9_780_000_000_001 + np.arange(17),
        words=[["a film", str(row)] for row in range(17)],
    )
    things.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    (tmp_path / "shop.yaml").write_text(
        "name: shop\ninteractions: {file: i.csv, user: user_id, item: item_id}\n"
        "items: {file: t.jsonl, id: item_id, name: title, columns: {words: text}}\n"
    )
    items_read = read(str(tmp_path / "shop.yaml")).items
    assert items_read["name"].nunique() == 17
    assert items_read["name"].iloc[0] == "9780000000001"
    assert items_read["words"].str.contains("a film").all()


def test_a_header_with_blanks_is_no_sequence(tmp_path):
    lines = [
        f"{user};{100 + (user * 3 + step) % 17};{1_500_000_000 + step}"
        for user in range(12)
        for step in range(5)
    ]
    path = tmp_path / "head.txt"
    path.write_text("\n".join(["user id;item id;time", *lines]) + "\n")
    assert prepared(path).num_users == 12
    path = tmp_path / "blank.txt"
    path.write_text("\n1 2 3 4\n2 3 4 5\n")
    assert len(read(str(path)).interactions) == 6


def test_a_written_schema_of_shipped_files_can_be_given(tmp_path):
    path = tmp_path / "again.yaml"
    flags = ["--dataset", "synthetic", "--write_schema", str(path)]
    assert run_command(main, flags) == 0
    again = load(DataSettings(dataset=str(path)))
    assert again.num_users == load(DataSettings(dataset="synthetic")).num_users


def test_values_are_for_categories_and_tags(tmp_path):
    (tmp_path / "shop.yaml").write_text(
        "name: shop\ninteractions: {user: u, item: i}\n"
        "items:\n  id: i\n  columns:\n    price: {kind: number, values: [1, 2]}\n"
    )
    with pytest.raises(UserError, match=r"shop\.yaml:6: .*values are for"):
        read(str(tmp_path / "shop.yaml"))


def test_times_that_no_name_tells(tmp_path, capsys):
    """A typed column is the time; dates as text are said to be dates."""
    frame = rows().rename(columns={"timestamp": "played_at"})
    moments = pd.to_datetime(frame["played_at"], unit="s")
    frame["played_at"] = moments.astype("datetime64[us]")
    frame.to_parquet(tmp_path / "plays.parquet")
    data = prepared(tmp_path / "plays.parquet")
    assert data.has_times and not data.catalogue.interaction_fields
    assert data.times.max() == 1_500_000_000 + 59 * 3600
    frame["played_at"] = moments.dt.strftime("%Y-%m-%d %H:%M")
    frame.to_csv(tmp_path / "plays.csv", index=False)
    assert run_command(main, ["--dataset", str(tmp_path / "plays.csv")]) == 0
    assert "--columns time=played_at" in capsys.readouterr().out


def test_the_broken_date_is_named_and_not_a_good_one(tmp_path):
    frame = rows()
    moments = pd.to_datetime(frame.pop("timestamp"), unit="s")
    frame["date"] = moments.dt.strftime("%d.%m.%Y")
    frame.loc[31, "date"] = "unbekannt"
    frame.to_csv(tmp_path / "loans.csv", index=False)
    with pytest.raises(UserError, match=r"loans.csv:33: .*'unbekannt'"):
        prepared(tmp_path / "loans.csv")
