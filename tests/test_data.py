"""Order, filters, ids, split and calendar of the data processor."""

import hashlib

import numpy as np
import pandas as pd
import pytest

import dataset
from baselines.mean_values import mean_predictors
from data_card import _column_line
from data_processor import data_card, from_sequences, load, main, process
from dataset import ITEM_ROWS, PAD, Dataset
from fields import UNKNOWN, Field
from item_regression import item_regression
from pair_counts import transition_counts
from schema import Column
from settings import DataSettings
from support.errors import UserError
from tests.conftest import REAL, SASREC, other_data, span


def test_data_card_and_script(data, capsys):
    card = dict(data_card(data))
    assert card["hash of the split"] == data.split_hash
    main(["--dataset", "synthetic"])
    printed = capsys.readouterr().out
    assert "NOT MovieLens" in printed and "43,996" in printed
    with pytest.raises(UserError, match="unknown flag"):
        main(["--hidden_size", "3"])


def test_real_counts(real_data):
    assert len(real_data.items) == 1_000_209 and real_data.num_users == 6_040
    assert len(real_data.catalogue.items.ids) == 3_706
    card = dict(data_card(real_data))
    assert card["neighbouring times that are equal"].startswith("49.")
    if real_data.note:
        assert "12.4 %" in real_data.note


def raw_sequences(data):
    """Ids of each user's items, by user id."""
    users, items = data.catalogue.users, data.catalogue.items
    return {
        users.id(row): items.id_array(
            data.items[data.offsets[row] : data.offsets[row + 1]]
        ).tolist()
        for row in users.rows
    }


def test_order_is_user_time_file(tiny):
    """Against a stable multi-key sort of pandas, with many ties."""
    rows = tiny.interactions.assign(time=tiny.interactions["time"] // 100_000)
    shuffled = rows.sample(frac=1, random_state=0).reset_index(drop=True)
    data = process(tiny.replace(shuffled), DataSettings())
    expected = shuffled.sort_values(["user", "time"], kind="stable")
    for user, items in raw_sequences(data).items():
        assert items == expected.loc[expected["user"] == user, "item"].tolist()


def test_ids_round_trip(data):
    items, users = data.catalogue.items, data.catalogue.users
    assert (items.id_array(items.index(items.ids)) == items.ids).all()
    assert items.index([10**9, -1, 0]).tolist() == [PAD] * 3
    assert users.index([10**30, 0, int(users.ids[4])]).tolist() == [
        UNKNOWN,
        UNKNOWN,
        5,
    ]
    assert data.items.min() >= ITEM_ROWS and data.items.max() < len(items)
    text = other_data("shop").catalogue.users
    assert [
        text.id(row) for row in text.index(["c 3", "nobody", "c 11"])[[0, 2]]
    ] == [
        "c 3",
        "c 11",
    ]


def test_columns_follow_the_raw_tables(data, tiny):
    raw, items = tiny.items.set_index("id"), data.catalogue.items
    for row in items.rows:
        found, wanted = items.readable(row), raw.loc[items.id(row)]
        assert found["year"] == wanted["year"] and sorted(
            found["genres"]
        ) == sorted(wanted["genres"])
    users = data.catalogue.users
    genders = [users.readable(row)["gender"] for row in users.rows]
    raw_genders = tiny.users.set_index("id").loc[users.ids, "gender"]
    assert genders == [
        {"F": "woman", "M": "man"}[code] for code in raw_genders
    ]


def test_gaps_are_unknown_in_every_kind_of_column():
    shop = other_data("shop").catalogue
    for table in (shop.items, shop.users):
        found = [table.readable(row) for row in table.rows]
        for name in table.fields:
            missing = [entry[name] in (None, ()) for entry in found]
            assert name == "label" or (any(missing) and not all(missing)), name
    assert (other_data("shop").columns["channel"] == UNKNOWN).any()


def test_repeats_are_kept_only_where_the_schema_says_so(tiny):
    again = tiny.interactions.iloc[:3]
    import pandas as pd

    twice = tiny.replace(
        pd.concat([tiny.interactions, again.assign(time=again["time"] + 9)])
    )
    assert len(process(twice, DataSettings()).items) >= len(
        process(tiny, DataSettings()).items
    )
    shop = other_data("shop")
    assert any(
        len(set(items)) < len(items) for items in raw_sequences(shop).values()
    )


def test_split_holds_out_the_last_two_of_everyone(data):
    training = set(data.training_rows())
    assert len(training) == len(data.items) - 2 * data.num_users
    for user in data.catalogue.users.rows:
        start, end = span(data, user, "end")
        assert end == data.offsets[user + 1]
        assert span(data, user, "test") == (start, end - 1)
        assert span(data, user, "validation") == (start, end - 2)
        assert not training & {end - 1, end - 2}


def test_item_filter(tiny):
    counts = tiny.interactions["item"].value_counts()
    threshold = int(counts.median())
    data = process(tiny, DataSettings(min_item_count=threshold))
    assert set(data.catalogue.items.ids) == set(
        counts[counts >= threshold].index
    )
    with pytest.raises(UserError, match="leave no interactions"):
        process(tiny, DataSettings(min_item_count=10**6))


def test_hash_sees_every_part(tiny, data):
    for column, value in (("item", 7), ("rating", "2"), ("time", 10**9)):
        changed = tiny.interactions.copy()
        assert changed.loc[5, column] != value
        changed.loc[5, column] = value
        assert (
            process(tiny.replace(changed), DataSettings()).split_hash
            != data.split_hash
        )


def test_from_sequences():
    data = from_sequences([[3, 1], [2]], vocab_size=3)
    assert raw_sequences(data) == {1: [3, 1], 2: [2]}
    for bad in ([[0]], [[4]], [[]], []):
        with pytest.raises(UserError):
            from_sequences(bad, vocab_size=3)


def test_item_preset_equals_the_sasrec_file(real_data):
    """--min_item_count 5 gives the very sequences of SASRec's and BERT4Rec's ml-1m.txt."""
    if not (SASREC / "ml-1m.txt").exists():
        pytest.skip(f"{SASREC.name}/ml-1m.txt is absent")
    data = load(DataSettings(min_item_count=5, data_dir=str(REAL)))
    assert (
        len(data.catalogue.items.ids) == 3_416 and len(data.items) == 999_611
    )
    to_movie, to_user = (
        dict(
            np.loadtxt(
                SASREC / f"sas_to_original_{what}.txt", dtype=int
            ).tolist()
        )
        for what in ("items", "users")
    )
    published = {}
    for user, item in np.loadtxt(SASREC / "ml-1m.txt", dtype=int):
        published.setdefault(to_user[user], []).append(to_movie[item])
    ours = raw_sequences(data)
    # Beyond user 2,999 the times of this copy are estimated.
    compared = [user_id for user_id in published if user_id < 3000]
    assert len(compared) == 2_999
    assert all(published[user_id] == ours[user_id] for user_id in compared)


# Requests and targets, and training parts, by raw ids, as they were before the tables had a
# schema.
BOARDS = {
    "loo-3706": {},
    "loo-3416": {"min_item_count": 5},
    "global-time": {"protocol": "global_time"},
    "multi-S": {
        "protocol": "multi5",
        "keep": "rating>=4",
        "min_user_count": 10,
    },
}
HASHES = {
    "loo-3706 validation": (6040, "2150ccaac1c1cb24"),
    "loo-3706 test": (6040, "998a7331394b0301"),
    "loo-3706 training": (988129, "672ce8a6829ea1e8"),
    "loo-3416 validation": (6040, "a99b9ab8fbb5b45a"),
    "loo-3416 test": (6040, "566c9c47328b0885"),
    "loo-3416 training": (987531, "dcad1568d93b063b"),
    "global-time validation": (12164, "95d3177efd4c8813"),
    "global-time test": (13723, "c7c5ecd5d5ae53ca"),
    "global-time training": (700145, "5dc7c759f07670f5"),
    "multi-S validation": (892, "dcd8f9e96f058650"),
    "multi-S test": (892, "f34f1419599c338c"),
    "multi-S training": (402110, "6d2bd61ccbf211f7"),
}


def hash_of(lines):
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[
        :16
    ]


@pytest.mark.parametrize("board", BOARDS)
def test_every_protocol_asks_for_the_very_targets_as_before(real_data, board):
    data = load(DataSettings(data_dir=str(REAL), **BOARDS[board]))
    users, items = data.catalogue.users, data.catalogue.items
    for until in ("validation", "test"):
        requests = data.split.requests[until]
        targets = items.id_array(data.items[requests.target_rows]).tolist()
        asked = zip(
            users.id_array(requests.users).tolist(), targets, strict=True
        )
        lines = [f"{user} {' '.join(map(str, row))}" for user, row in asked]
        assert hash_of(lines) == HASHES[f"{board} {until}"]
    rows = data.training_rows()
    trained = zip(
        users.id_array(data.user_of[rows]).tolist(),
        items.id_array(data.items[rows]).tolist(),
        strict=True,
    )
    assert (
        hash_of([f"{user} {item}" for user, item in trained])
        == HASHES[f"{board} training"]
    )


@pytest.mark.parametrize("rows", [1, 50, 400])
def test_what_is_counted_in_chunks_is_counted_at_once(
    data, monkeypatch, rows
):
    def figures():
        (entry,) = [
            field
            for field in data.catalogue.interaction_fields.values()
            if field.predicted
        ]
        means = mean_predictors(entry, data, "test")
        return [
            data.item_counts(),
            transition_counts(data, same_time=False).toarray(),
            item_regression(data).toarray(),
            *means.values(),
        ]

    whole = figures()
    monkeypatch.setattr(dataset, "CHUNK", rows)
    chunks = list(data.chunks())
    assert len(chunks) > 1
    assert sum(len(part.items) for part in chunks) == len(data.items)
    for found, wanted in zip(figures(), whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("timed", [True, False])
def test_what_is_left_out_later_was_not_seen_before(timed):
    """With --keep; without times by the order of the file."""
    rows = [(user, item) for user in range(5) for item in range(12)]
    frame = pd.DataFrame(rows, columns=["user", "item"])
    no = (frame["user"] + frame["item"]) % 3 == 0
    frame["liked"] = np.where(no, "no", "yes")
    if timed:
        frame["time"] = 1_600_000_000 + 60 * frame["item"]
    settings = DataSettings(keep="liked=yes")
    data = Dataset.from_frames(frame, settings=settings)
    for user in data.catalogue.users.rows:
        start, end = data.offsets[user : user + 2]
        for place in range(start, end):
            seen = set(data.catalogue.items.id_array(data.seen(user, place)))
            target = data.catalogue.items.id(data.items[place])
            assert seen == set(range(target)), target


@pytest.mark.parametrize("extreme", [-1.797e308, -1e39, 1e39])
def test_numbers_that_fp32_cannot_hold_are_unknown(extreme):
    rows = [(user, item) for user in range(6) for item in range(8)]
    frame = pd.DataFrame(rows, columns=["user", "item"])
    price = [extreme, *np.linspace(1, 30, 7)]
    items = pd.DataFrame({"item": range(8), "price": price})
    items["place"] = [[1.0, extreme], *[[0.5, 0.1 * n] for n in range(7)]]
    data = Dataset.from_frames(frame, items)
    table = data.catalogue.items
    knots = np.array(table.fields["price"].knots)
    assert np.isfinite(knots).all() and knots.min() >= 0.5
    first = table.first
    assert np.isnan(table.data["price"][first])
    assert np.isnan(table.data["place"][first]).all()
    assert np.isfinite(table.data["place"][first + 1 :]).all()


def test_a_tag_that_is_given_twice_counts_once(data):
    entry = data.catalogue.items.fields["genres"]
    one, other = entry.values[:2]
    twice = entry.stored([one, one, other])
    assert twice.tolist() == entry.stored([one, other]).tolist()


def test_frames_without_proper_names(tmp_path):
    """Numbers as names of columns, and two columns of one name."""
    frame = pd.DataFrame([(u, i) for u in range(5) for i in range(6)])
    data = Dataset.from_frames(frame, columns="user=0,item=1")
    assert data.num_users == 5
    frame.columns = ["user", "user"]
    with pytest.raises(UserError, match="two columns 'user'"):
        Dataset.from_frames(frame)


def test_a_column_without_a_value_on_the_card():
    field = Field(Column("price", "number"), knots=(0.0,))
    line = _column_line(field, np.full(6, np.nan))
    assert line == "number, 0 values, 100.0% missing"


@pytest.mark.parametrize("text", ["1_0", "\u0663", "1.0", "", "+", "0x1"])
def test_text_that_is_no_whole_number_is_no_id(data, text):
    users = data.catalogue.users
    assert users.parse_id(" 7 ") == users.parse_id("+7") == 7
    with pytest.raises(UserError, match="whole numbers"):
        users.parse_id(text)
