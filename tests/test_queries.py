"""What queries answer: preferred items, held-out choices, given histories with values, profiles."""

import dataclasses

import numpy as np
import pytest
import torch

from bulk import recommend_all
from item_search import find_items, listed, spoken
from queries import Query
from support.errors import UserError


def values_of(items):
    return np.array([item.values["rating"] for item in items])


@pytest.mark.parametrize("rank_by", ["next", "liked"])
@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_a_list_is_expected_to_be_as_good_as_wanted(engine, rank_by, diversity):
    """Its mean, not each item; where it is so already, nothing changes."""
    history = engine.history(12)

    def asked(least, k=5):
        wish = Query(history, k, None, (), None, (), rank_by, diversity, least)
        return engine.answer([wish])[0]

    plain, whole = asked(None), asked(None, 80)
    mean, best = values_of(plain).mean(), np.sort(values_of(whole))[-5:].mean()
    assert [one.id for one in asked(mean - 0.1)] == [one.id for one in plain]
    for share in (0.3, 0.7):
        least = mean + share * (best - mean)
        found = asked(least)
        assert values_of(found).mean() > least - 0.01  # rounded
        assert len({one.id for one in found}) == 5
    # Nothing is enough: about the highest.
    assert values_of(asked(9.0)).mean() > mean + 0.7 * (best - mean)


def test_the_mean_of_the_history_is_what_is_preferred(engine):
    history = engine.history(12)
    mean = engine.profile_of(history, 12).means["rating"]
    by_word = Query(history, 20, prefer_expected="mean")
    by_number = Query(history, 20, prefer_expected=mean)
    first, second = engine.answer([by_word, by_number])
    assert [item.id for item in first] == [item.id for item in second]


@pytest.mark.parametrize("until", ["test", "validation"])
def test_what_a_user_chose_next_and_its_place(engine, tiny, until):
    own = tiny.interactions[tiny.interactions["user"] == 12]
    items = own["item"].tolist()
    known = set(engine.catalogue.items.ids.tolist())
    held_out = items[-1 if until == "test" else -2]
    assert engine.held_out(12, until) == held_out
    history = engine.history(12, until=until)
    ids = engine.catalogue.items.id_array(history.items).tolist()
    before = items[: -1 if until == "test" else -2]
    assert ids == [one for one in before if one in known]
    query = Query(history, len(known))
    order = [item.id for item in engine.answer([query])[0]]
    chosen = engine.place(query, held_out)
    assert chosen.place == chosen.place_by_next == 1 + order.index(held_out)
    liked = dataclasses.replace(query, prefer_expected="mean")
    order = [item.id for item in engine.answer([liked])[0]]
    assert engine.place(liked, held_out).place == 1 + order.index(held_out)
    left_out = dataclasses.replace(query, where=["year>=2500"])
    found = engine.place(left_out, held_out)
    assert found.place is None and found.place_by_next is None


def test_ties_stand_against_the_item_chosen_next(engine, monkeypatch):
    history = engine.history(12, until="test")

    def even(scores):
        return [(0, torch.zeros_like(scores))]

    monkeypatch.setattr(
        type(engine.scorer),
        "blocks",
        lambda self, states, batch: even(self.scores(states, batch)),
    )
    held_out = engine.held_out(12, "test")
    allowed = len(engine.catalogue.items.ids) - len(set(history.items))
    assert engine.place(Query(history), held_out).place == allowed


def test_values_of_a_given_history_change_the_answer(engine):
    items = engine.catalogue.items.ids[:4].tolist()
    low, high, none = (
        engine.history(None, items, history_columns={"rating": [value] * 4})
        for value in (1, 5, None)
    )
    plain = engine.history(None, items)
    assert engine.answer([Query(none)]) == engine.answer([Query(plain)])
    assert engine.answer([Query(low)]) != engine.answer([Query(high)])
    assert engine.profile_of(high, None).means == {"rating": 5.0}
    of_user = engine.history(12)
    ids = engine.catalogue.items.id_array(of_user.items).tolist()
    codes = of_user.columns["rating"].tolist()
    stars = engine.catalogue.interaction_fields["rating"].values
    given = engine.history(
        12,
        ids,
        history_columns={"rating": [stars[code - 1] for code in codes]},
    )
    assert given.columns["rating"].tolist() == codes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rating": [5]}, "rating: give 2 values"),
        ({"rating": [5, 9]}, "rating 9: choose one of"),
        ({"stars": [5, 5]}, "no column of interactions is called 'stars'"),
    ],
)
def test_wrong_values_of_a_history_are_named(engine, columns, message):
    items = engine.catalogue.items.ids[:2].tolist()
    with pytest.raises(UserError, match=message):
        engine.history(None, items, history_columns=columns)


def test_a_profile_says_what_is_liked(engine, tiny):
    """By hand from the raw tables: chosen clearly more often than by all, or rated clearly higher,
    and not clearly lower."""
    assert len(engine.data.items)  # without data nobody else is known
    found = engine.get_user_profile(12).likes["genres"]
    known = set(engine.catalogue.items.ids.tolist())
    rows = tiny.interactions[tiny.interactions["item"].isin(known)]
    tags = tiny.items.set_index("id")["genres"]
    own = rows[rows["user"] == 12]
    training = rows[rows.groupby("user").cumcount(ascending=False) > 1]
    ratings = own["rating"].astype(float).to_numpy()
    strength = {}
    for genre in {genre for row in tags for genre in row}:
        has = np.array([genre in tags[item] for item in own["item"]])
        usual = np.mean([genre in tags[item] for item in training["item"]])
        spread = np.sqrt(len(own) * usual * (1 - usual))
        often = (has.sum() - len(own) * usual) / spread
        higher = 0.0
        if has.any():
            error = ratings.std() / np.sqrt(has.sum())
            higher = (ratings[has].mean() - ratings.mean()) / error
        if has.sum() >= 3 and higher > -2 and max(often, higher) >= 2:
            strength[genre] = max(often, higher)
    expected = sorted(strength, key=strength.get, reverse=True)[:5]
    assert list(found) == expected


def test_a_profile_shows_the_newest_interactions(engine, tiny):
    found = engine.get_user_profile(12).newest
    own = tiny.interactions[tiny.interactions["user"] == 12]
    known = set(engine.catalogue.items.ids.tolist())
    rows = own[own["item"].isin(known)][::-1].head(len(found))
    assert [one.id for one in found] == rows["item"].tolist()
    assert [one.values["rating"] for one in found] == [
        str(value) for value in rows["rating"]
    ]
    assert all(one.time.endswith("UTC") for one in found)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("Lion King, The (1994)", "The Lion King (1994)"),
        ("Enfer, L' (1994)", "L'Enfer (1994)"),
        ("Beautiful Day, A", "A Beautiful Day"),
        (
            "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
            "The City of Lost Children (La Cité des enfants perdus) (1995)",
        ),
        ("milk, whole", "milk, whole"),
        ("Eat, Drink, Man, Woman", "Eat, Drink, Man, Woman"),
        ("Seven (Se7en) (1995)", "Seven (Se7en) (1995)"),
    ],
)
def test_names_as_people_say_them(stored, name):
    assert spoken(stored) == name


def test_only_and_without_limit_the_list(engine):
    history = engine.history(12)
    plain = [item.id for item in engine.answer([Query(history, 80)])[0]]
    chosen = plain[5::7]
    only = engine.get_recommendations(12, k=80, only=chosen)
    assert [item.id for item in only] == chosen
    left = engine.get_recommendations(12, k=80, without=chosen)
    assert [item.id for item in left] == [
        one for one in plain if one not in set(chosen)
    ]
    both = engine.get_recommendations(12, only=chosen, without=chosen[:1])
    assert [item.id for item in both] == chosen[1 : 1 + 10]
    assert engine.get_recommendations(12, only=[]) == []
    with pytest.raises(UserError, match="--only: film 10000"):
        engine.get_recommendations(12, only=[10000])


def test_similar_items_are_those_with_the_largest_cosine(engine):
    table = engine.scorer.table.numpy()
    ids = engine.catalogue.items.ids
    first = engine.catalogue.items.first
    vectors = table[first:] / np.linalg.norm(table[first:], axis=1)[:, None]
    cosines = vectors @ vectors[4]
    order = [place for place in np.argsort(-cosines) if place != 4]
    found = engine.similar_items(ids[4], 6)
    assert [item.id for item in found] == ids[order[:6]].tolist()
    assert [item.score for item in found] == pytest.approx(
        cosines[order[:6]], abs=1e-3
    )
    dramas = engine.similar_items(ids[4], 5, ["genres=Drama"])
    assert all("Drama" in item.columns["genres"] for item in dramas)


def test_items_from_a_file(tmp_path, engine):
    ids, names = tmp_path / "ids.txt", tmp_path / "names.txt"
    ids.write_text("3\n\n 5 \n")
    assert listed(f"@{ids}") == "3, 5" and listed("3, 5") == "3, 5"
    items = engine.catalogue.items
    wanted = [spoken(items.names[items.first + place]) for place in (1, 2)]
    names.write_text("\n".join(wanted))
    found = find_items(items, engine.schema, listed(f"@{names}"))
    assert found == items.ids[1:3].tolist()
    for wrong in ("absent.txt", "."):
        with pytest.raises(UserError):
            listed(f"@{tmp_path / wrong}")


def test_a_held_out_item_is_of_a_user_of_the_data(engine):
    for known in (
        {"item_sequence": [3]},
        {"user_id": 12, "item_sequence": [3]},
    ):
        with pytest.raises(UserError, match="--history_until test is for users of the data"):
            engine.history(**known, until="test")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"k": 0}, "--k 0"),
        ({"rank_by": "likd"}, "choose next or liked"),
        ({"diversity": 5}, "between 0 and 1"),
        ({"prefer_expected": float("nan")}, "neither a number"),
        ({"prefer_expected": "high"}, "neither a number"),
    ],
)
def test_what_no_list_can_be_is_refused(engine, wish, message):
    """By the engine, too, where no flag was read."""
    with pytest.raises(UserError, match=message):
        engine.get_recommendations(1, **wish)
    if "prefer_expected" not in wish:
        with pytest.raises(UserError, match=message):
            recommend_all(engine, [1], **wish)


def test_a_part_of_the_data_that_there_is_not(engine):
    with pytest.raises(UserError, match="choose one of"):
        engine.history(1, until="tst")
    with pytest.raises(UserError, match="names no user"):
        recommend_all(engine, [])
    with pytest.raises(UserError, match="--k -1"):
        engine.similar_items(engine.catalogue.items.ids[0].item(), k=-1)
