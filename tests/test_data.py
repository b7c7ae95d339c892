"""Order, filters, ids, split and calendar of the data processor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from data_processor import (
    ITEM_ROWS,
    PAD,
    UNKNOWN,
    calendar,
    data_card,
    from_sequences,
    load,
    main,
    process,
)
from settings import DataSettings
from support.errors import UserError
from tests.conftest import REAL, SASREC, rng, span


def raw_sequences(data):
    """Raw film ids of each person, by raw user id."""
    return {int(user_id): data.catalogue.movie_id(data.items[start:end]).tolist()
            for user_id, start, end in zip(data.catalogue.user_ids, data.offsets[:-1], data.offsets[1:], strict=True)}


def test_order_is_user_time_file(tiny):
    """Against a stable multi-key sort of pandas, with many ties."""
    ratings = tiny.ratings.assign(timestamp=tiny.ratings["timestamp"] // 100_000)
    shuffled = ratings.sample(frac=1, random_state=0).reset_index(drop=True)
    data = process(dataclasses.replace(tiny, ratings=shuffled), DataSettings())
    expected = shuffled.sort_values(["user_id", "timestamp"], kind="stable")
    for user_id, films in raw_sequences(data).items():
        assert films == expected.loc[expected["user_id"] == user_id, "movie_id"].tolist()


def test_random_ties_differ_only_inside_ties(tiny):
    ratings = tiny.ratings.assign(timestamp=tiny.ratings["timestamp"] // 100_000)
    tied = dataclasses.replace(tiny, ratings=ratings)
    file_order = process(tied, DataSettings())
    first, again, other = (process(tied, DataSettings(tie_break="random", tie_seed=seed)) for seed in (1, 1, 2))
    assert (first.items == again.items).all() and (first.items != other.items).any()
    assert (first.items != file_order.items).any()
    assert (first.timestamps == file_order.timestamps).all()
    assert first.split_hash == again.split_hash != other.split_hash
    key = np.stack([np.repeat(np.arange(first.num_users), np.diff(first.offsets)), first.timestamps, first.items])
    same = np.stack([key[0], file_order.timestamps, file_order.items])
    assert (key[:, np.lexsort(key[::-1])] == same[:, np.lexsort(same[::-1])]).all()


def test_ids_round_trip(data):
    films = data.catalogue
    assert (films.movie_id(films.item_index(films.movie_ids)) == films.movie_ids).all()
    assert films.item_index([10**9, -1, 0]).tolist() == [PAD] * 3
    assert films.user_index([10**9, 0, int(films.user_ids[4])]).tolist() == [UNKNOWN, UNKNOWN, 5]
    assert data.items.min() >= ITEM_ROWS and data.items.max() < films.num_rows


def test_features_follow_the_raw_tables(data, tiny):
    films = tiny.movies.set_index("movie_id")
    for movie_id, index in zip(data.catalogue.movie_ids, data.catalogue.item_index(data.catalogue.movie_ids),
                               strict=True):
        assert data.catalogue.years[index] == films.loc[movie_id, "year"]
        assert data.catalogue.genres[index].sum() == len(films.loc[movie_id, "genres"].split("|"))
    people = tiny.users.set_index("user_id")
    assert [["F", "M"][gender - 1] for gender in data.demographics[:, 0]] == \
        people.loc[data.catalogue.user_ids, "gender"].tolist()


def test_split_holds_out_the_last_two_of_everyone(data):
    training = set(data.training_rows())
    assert len(training) == len(data.items) - 2 * data.num_users
    for user in range(data.num_users):
        start, end = span(data, user, "end")
        assert end == data.offsets[user + 1]
        assert span(data, user, "test") == (start, end - 1) and span(data, user, "validation") == (start, end - 2)
        assert not training & {end - 1, end - 2}


def test_item_filter(tiny):
    counts = tiny.ratings["movie_id"].value_counts()
    threshold = int(counts.median())
    data = process(tiny, DataSettings(min_item_count=threshold))
    assert set(data.catalogue.movie_ids) == set(counts[counts >= threshold].index)
    with pytest.raises(UserError, match="leave no interactions"):
        process(tiny, DataSettings(min_item_count=10**6))


def test_hash_sees_every_part(tiny, data):
    for column in ("movie_id", "rating", "timestamp"):
        changed = tiny.ratings.copy()
        changed.loc[5, column] += 1 if changed.loc[5, column] < changed[column].max() else -1
        assert process(dataclasses.replace(tiny, ratings=changed), DataSettings()).split_hash != data.split_hash


def test_calendar_agrees_with_pandas():
    seconds = np.concatenate([rng().integers(0, 2**32, 5000), pd.to_datetime(
        ["2000-02-28", "2000-02-29", "2000-03-01", "2000-12-31 23:59:59", "2001-01-01", "1900-03-01", "1972-02-29"],
        format="mixed"
    ).astype("datetime64[s]").astype("int64")])
    day, weekday, hour = calendar(torch.from_numpy(seconds))
    dates = pd.to_datetime(seconds, unit="s")
    assert (day.numpy() == dates.dayofyear - 1).all()
    assert (weekday.numpy() == dates.dayofweek).all()
    assert (hour.numpy() == dates.hour).all()


def test_from_sequences():
    data = from_sequences([[3, 1], [2]], vocab_size=3)
    assert raw_sequences(data) == {1: [3, 1], 2: [2]}
    for bad in ([[0]], [[4]], [[]], []):
        with pytest.raises(UserError):
            from_sequences(bad, vocab_size=3)


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
    assert len(real_data.catalogue.movie_ids) == 3_706
    card = dict(data_card(real_data))
    assert card["neighbouring timestamps that are equal"].startswith("49.")
    if real_data.note:
        assert "12.4 %" in real_data.note


def test_item_preset_equals_the_sasrec_file(real_data):
    """--min_item_count 5 gives the very sequences of SASRec's and BERT4Rec's ml-1m.txt."""
    if not (SASREC / "ml-1m.txt").exists():
        pytest.skip(f"{SASREC.name}/ml-1m.txt is absent")
    data = load(DataSettings(min_item_count=5, data_dir=str(REAL)))
    assert len(data.catalogue.movie_ids) == 3_416 and len(data.items) == 999_611
    to_movie, to_user = (dict(np.loadtxt(SASREC / f"sas_to_original_{what}.txt", dtype=int).tolist())
                         for what in ("items", "users"))
    published = {}
    for user, item in np.loadtxt(SASREC / "ml-1m.txt", dtype=int):
        published.setdefault(to_user[user], []).append(to_movie[item])
    ours = raw_sequences(data)
    compared = [user_id for user_id in published if user_id < 3000]  # beyond, timestamps of this copy are estimated
    assert len(compared) == 2_999
    assert all(published[user_id] == ours[user_id] for user_id in compared)
