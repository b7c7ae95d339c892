"""The engine: profiles, several users, moments, new users and items, explanations in full."""

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from usearch.index import Index

from bulk import recommend_all, write_all
from dataset import Table
from engine import RecommendationEngine
from fields import Field
from item_search import find_items
from profiles import parse_time, time_note, typical_next_time
from queries import Query
from schema import Column
from support.errors import UserError
from vectors import write_vectors


@pytest.fixture(scope="module")
def timed(service_files):
    return RecommendationEngine(
        service_files / "timed" / "best", data_dir=str(service_files / "data")
    )


def test_a_profile_says_what_the_files_say(engine, tiny):
    """Counts, shares and means by hand from the raw tables."""
    found = engine.get_user_profile(12)
    own = tiny.interactions[tiny.interactions["user"] == 12]
    table = tiny.items.set_index("id")
    assert found.interactions == len(own)
    assert found.means["rating"] == pytest.approx(
        own["rating"].astype(float).mean(), abs=0.01
    )
    genres = table.loc[own["item"], "genres"]
    shares = found.affinities["genres"]
    for genre, share in shares.items():
        had = np.mean([genre in tags for tags in genres])
        assert share == pytest.approx(had, abs=0.001)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(found.expected["genres"].values()) == pytest.approx(1, abs=0.02)
    stranger = engine.get_user_profile(item_sequence=[3, 5])
    assert (
        stranger.user_id is None
        and stranger.interactions == 2
        and not stranger.means
    )


def test_some_users_get_what_each_gets_alone(engine):
    table = recommend_all(engine, [12, 30, 7], k=4, precision="fp32")
    assert table["user_id"].tolist() == [7] * 4 + [12] * 4 + [30] * 4
    for user, rows in table.groupby("user_id"):
        alone = engine.get_recommendations(user, k=4)
        assert rows["item_id"].tolist() == [item.id for item in alone]
        assert rows["score"].tolist() == pytest.approx(
            [item.score for item in alone], abs=1e-3
        )


def test_lists_in_a_folder_are_those_of_one_table(engine, tmp_path):
    """In files of some users each; what is there already is not made again."""
    folder, options = tmp_path / "lists", {"k": 3, "precision": "fp32"}
    parts = {"users_of_a_file": 17, **options}
    steps = list(write_all(engine, folder, **parts))
    assert steps == [(done, 4) for done in range(5)]
    files = sorted(folder.glob("*.parquet"))
    assert len(files) == 4
    whole = recommend_all(engine, **options)
    found = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    keys = ["user_id", "item_id", "rank"]
    pd.testing.assert_frame_equal(found[keys], whole[keys])
    np.testing.assert_allclose(found["score"], whole["score"], atol=1e-4)
    files[2].unlink()
    before = [path.stat().st_mtime_ns for path in (files[0], files[3])]
    assert list(write_all(engine, folder, **parts)) == [(3, 4), (4, 4)]
    assert pd.read_parquet(files[2])[keys].equals(
        whole.iloc[34 * 3 : 51 * 3][keys].reset_index(drop=True)
    )
    assert before == [path.stat().st_mtime_ns for path in (files[0], files[3])]
    with pytest.raises(UserError, match="holds other lists"):
        list(write_all(engine, folder, k=4))
    some = tmp_path / "some"
    list(write_all(engine, some, [1, 2], **options))
    with pytest.raises(UserError, match="holds other lists"):
        list(write_all(engine, some, [3, 4], **options))


@pytest.mark.parametrize("kind", ["main", "vanilla", "timed"])
def test_an_index_of_the_vectors_finds_what_the_model_ranks(
    service_files, tmp_path, kind
):
    """Without the counts, and with the items of the history."""
    engine = RecommendationEngine(
        service_files / kind / "best", data_dir=str(service_files / "data")
    )
    engine.scorer.transitions = None
    requests = engine.data.split.requests["end"]
    steps = list(write_vectors(engine, tmp_path, requests))
    assert steps == [(len(requests), len(requests))]
    items = pd.read_parquet(tmp_path / "items.parquet")
    users = pd.read_parquet(tmp_path / "users-00000.parquet")
    assert items["item_id"].tolist() == engine.catalogue.items.ids.tolist()
    vectors = np.stack(items["vector"])
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(items)), vectors)
    found = index.search(np.stack(users["vector"]), 5, exact=True).keys
    for user, keys in zip(users["user_id"].tolist(), found, strict=True):
        wanted = engine.get_recommendations(user, k=5, filter_seen=False)
        ids = items["item_id"].iloc[keys.astype(int)].tolist()
        assert ids == [item.id for item in wanted]


def test_users_with_fewer_items_left_have_fewer_rows(engine):
    count = len(engine.catalogue.items.ids)
    table = recommend_all(engine, [12, 30], k=count, precision="fp32")
    for user, rows in table.groupby("user_id"):
        had = len(engine.history(user).items)
        assert len(rows) == count - had and np.isfinite(rows["score"]).all()
    assert len(engine.get_recommendations(30, k=count)) == count - had


def test_the_time_of_the_request(timed):
    """Told, assumed from the user's gaps, or unknown; and it changes what is recommended."""
    history = timed.history(12)
    assert history.request_time == typical_next_time(history.times)
    assert "assumed" in time_note(True, history.request_time, None)
    bare = timed.history(item_sequence=[3, 5])
    assert "unknown" in time_note(True, bare.request_time, None)
    moments = [parse_time(text) for text in ("2003-01-05", "2003-07-05T20:00")]
    scores = [
        timed.get_recommendations(12, k=3, at=moment)[0].score
        for moment in moments
    ]
    assert scores[0] != scores[1]
    assert (
        time_note(True, history.request_time, moments[0])
        == "request time: 2003-01-05 00:00 UTC"
    )


def test_a_new_user_is_ranked_by_what_is_given(engine):
    lists = [
        [
            item.id
            for item in engine.get_recommendations(user_columns=facts, k=20)
        ]
        for facts in ({"gender": "F", "age": 1}, {"gender": "M", "age": 56})
    ]
    assert len(lists[0]) == 20 and lists[0] != lists[1]
    with pytest.raises(UserError, match="columns: gender, age"):
        engine.get_recommendations(user_columns={"shoes": 41})


def test_ids_without_commas_are_told_from_a_name(engine):
    ids = " ".join(map(str, engine.catalogue.items.ids[:3]))
    with pytest.raises(UserError, match=f"commas: {ids.replace(' ', ',')}"):
        find_items(engine.catalogue.items, engine.schema, ids)


def test_conditions_hold_of_all_that_is_recommended(engine):
    items = engine.get_recommendations(
        12, k=2, where=["year<=1980", "genres=Drama,Comedy"]
    )
    assert all(item.columns["year"] <= 1980 for item in items)
    assert all(
        {"Drama", "Comedy"} & set(item.columns["genres"]) for item in items
    )


def test_a_new_item_is_recommended_and_said_to_be_new(service_files):
    engine = RecommendationEngine(
        service_files / "main" / "best", data_dir=str(service_files / "data")
    )
    before = engine.get_recommendations(12, k=5)
    new = engine.add_item(
        None, "Brand New", {"genres": ["Drama"], "year": 1999}
    )
    assert new == int(max(engine.catalogue.items.ids))
    everything = engine.get_recommendations(
        12, k=len(engine.catalogue.items.ids) - 60
    )
    found = {
        item.id: item
        for item in engine.get_recommendations(12, k=10, where=["year>=0"])
    }
    assert [item.id for item in everything[:5] if item.id != new][:3] == [
        item.id for item in before if item.id != new
    ][:3]
    assert engine.item(engine.catalogue.items.index([new])[0]).note.startswith(
        "new: placed by its"
    )
    assert engine.history(item_sequence=[new, 3]).items.shape == (2,)
    assert all(item.note is None for item in found.values() if item.id != new)
    with pytest.raises(UserError, match="is taken"):
        engine.add_item(new, "Again")
    with pytest.raises(UserError, match="Dramma"):
        engine.add_item(None, "Wrong", {"genres": ["Dramma"]})


def test_an_explanation_in_full_is_what_the_model_does(engine):
    """Ranks, places lost and the set without which the item leaves the list, each asked again."""
    history = engine.history(12)
    query = Query(history, k=5)
    best = engine.answer([query])[0][0]
    (why,) = engine.explain(query, [best.id], in_full=True)
    assert why.rank == 1 and len(why.history) == min(
        len(history.items), engine.seq_length
    )
    question = engine.question(query, [best.id])
    first = why.history[0]
    row = engine.catalogue.items.index([first.id])[0]
    known = question.read.items != row
    ranks = question.outcomes(np.stack([known, np.ones_like(known)]))[1][:, 0]
    assert first.places == ranks[0] - ranks[1]
    if why.what_if.without:
        gone = engine.catalogue.items.index(
            [item.id for item in why.what_if.without]
        )
        left = ~np.isin(question.read.items, gone)
        assert question.outcomes(left[None])[1][0, 0] > query.k
    for flip in why.what_if.as_another:
        field = engine.catalogue.users.fields[flip.column]
        columns = {
            **history.user_columns,
            flip.column: np.array(field.code(flip.value)),
        }
        other = dataclasses.replace(question.read, user_columns=columns)
        assert question.of_histories([other])[1][0, 0] == flip.rank
    effects = [entry.effect for entry in why.history]
    assert effects == sorted(effects, reverse=True)
    named = {reason.name for reason in why.reasons if reason.of == "history"}
    assert all(name in why.sentence for name in named)


def test_a_history_is_encoded_once_for_all_that_is_asked(engine, monkeypatch):
    calls = []
    encode = engine.scorer.model.embed
    monkeypatch.setattr(
        engine.scorer.model,
        "embed",
        lambda *args, **options: calls.append(1) or encode(*args, **options),
    )
    queries = [Query(engine.history(user), k=3) for user in (7, 12, 30)]
    answers = engine.answer(queries)
    assert len(calls) == 1 and [len(answer) for answer in answers] == [3, 3, 3]
    alone = engine.answer(queries[1:2])[0]
    assert [item.id for item in alone] == [item.id for item in answers[1]]
    assert torch.isfinite(torch.tensor([item.score for item in alone])).all()


def test_an_id_with_braces_is_named():
    table = Table(np.array(["{a}", "b"], dtype=object), 1, np.empty(0))
    with pytest.raises(UserError, match=r"'\{x\}' among \{a\}"):
        table.known(["{x}"], "{id!r} among {name}", name="{a}")


def test_copies_of_an_engine_have_items_of_their_own(engine):
    copies = [copy.copy(engine), copy.deepcopy(engine)]
    copies.append(pickle.loads(pickle.dumps(engine)))
    for number, one in enumerate(copies):
        name = f"New film {number}"
        added = one.add_item(None, name, {})
        most = len(one.catalogue.items.ids)
        found = one.get_recommendations(None, [5], k=most)
        assert {item.id: item.name for item in found}[added] == name


def test_a_changed_answer_changes_no_other(engine):
    answer = engine.item(5)
    wanted = dict(answer.columns)
    answer.columns["year"] = "spoilt"
    assert engine.item(5).columns == wanted


def test_a_value_as_written_comes_before_one_of_other_case():
    column = Column("country", "category", values={"US": "fr"})
    field = Field(column, ("FR", "fr", "US"))
    found = {text: field.find(text) for text in ("FR", "fr", "us", "Fr", "x")}
    assert found == {"FR": 1, "fr": 2, "us": 3, "Fr": 2, "x": None}
