"""Measures of lists, slices and calibration, against computations by hand or by another library."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

import evaluation.lists as lists_module
import model_io
import scorer as scorer_module
from ablations import analyse
from batches import history_batch, history_of
from dataset import ITEM_ROWS
from evaluation.lists import coverage, list_quality, top_lists
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from evaluation.slices import request_slices, slice_table
from model_io import save_model
from settings import EvalSettings
from splits import Requests
from support.tables import table_text
from tests.conftest import VARIANTS, fresh_model, rng, span, tiny_settings
from transitions import pair_values


def test_top_lists_are_the_best_unseen_films(data):
    model = fresh_model(data, VARIANTS["enhanced"]).frozen()
    requests = data.split.requests["test"]
    lists, _ = top_lists(model, data, requests, 12, True, 5)
    for person in (1, 7, 31):
        start, end = span(data, person, "test")
        scores = (
            model.score(
                history_batch(
                    [history_of(data, person, end)], data.catalogue, 12
                )
            )[0]
            .detach()
            .numpy()
        )
        unseen = [
            film
            for film in np.argsort(-scores)
            if film not in set(data.items[start:end])
        ]
        assert lists[person - 1].tolist() == unseen[:5]
    hits = [
        int(data.items[end] in lists[person])
        for person, end in enumerate(data.split.requests["test"].ends)
    ]
    rank = target_ranks(model, data, "test", 12, EvalSettings())
    assert hits == per_user(rank, np.arange(data.num_users))["HR@5"].tolist()


@pytest.mark.parametrize(
    "variant", ["vanilla", "enhanced", "enhanced-transitions"]
)
@pytest.mark.parametrize("hides", [True, False])
def test_lists_of_a_large_catalogue_are_found_block_by_block(
    data, variant, hides, monkeypatch
):
    """Also for a user without a history, and where fewer items are left than asked for."""
    model = fresh_model(data, VARIANTS[variant])
    if model.transitions is not None:
        model.transitions.hold(pair_values(data, model.transitions.kinds))
        model.transitions.weight.fill_(2.0)
    scorer, asked = model.frozen(), data.split.requests["end"]
    if scorer.starts:
        nobody = Requests(asked.users[:1], data.offsets[asked.users[:1]], 0)
        asked = Requests(
            np.append(asked.users, nobody.users),
            np.append(asked.ends, nobody.ends),
            0,
        )
    for k in (3, 1000):
        rows, values = top_lists(scorer, data, asked, 12, hides, k)
        with monkeypatch.context() as patch:
            patch.setattr(scorer_module, "BLOCK", 7)
            patch.setattr(lists_module, "BLOCK", 7)
            patch.setattr(scorer, "scores", None)
            found, scores = top_lists(scorer, data, asked, 12, hides, k)
        assert np.array_equal(rows, found)
        there = np.isfinite(values)
        assert np.array_equal(there, np.isfinite(scores))
        np.testing.assert_allclose(
            scores[there], values[there], rtol=1e-4, atol=1e-5
        )


def test_list_quality_by_hand(data):
    lists = np.stack(
        [
            rng(person).permutation(
                np.arange(ITEM_ROWS, len(data.catalogue.items))
            )[:4]
            for person in data.catalogue.users.rows
        ]
    )
    quality, train = (
        list_quality(lists, data, "test"),
        data.items[data.training_rows()],
    )
    table = data.catalogue.items.shares("genres")
    genres = [set(np.flatnonzero(row)) for row in table]
    for person in (1, 9):
        films, history = (
            lists[person - 1],
            data.items[slice(*span(data, person, "test"))],
        )
        seen = [(train == film).sum() for film in films]
        assert quality["popularity"][person - 1] == pytest.approx(
            np.mean(seen)
        )
        assert quality["popularity lift"][person - 1] == pytest.approx(
            np.mean(seen)
            / np.mean([(train == film).sum() for film in history])
            - 1
        )
        assert quality["novelty (bits)"][person - 1] == pytest.approx(
            np.mean(
                [-np.log2(max(count, 1) / data.num_users) for count in seen]
            )
        )
        pairs = [
            1 - len(genres[i] & genres[j]) / len(genres[i] | genres[j])
            for i, j in itertools.combinations(films, 2)
        ]
        assert quality["diversity of genres"][person - 1] == pytest.approx(
            np.mean(pairs)
        )
        wanted, given = (
            np.mean([table[film] for film in part], axis=0)
            for part in (history, films)
        )
        assert quality["miscalibration of genres"][
            person - 1
        ] == pytest.approx(
            stats.entropy(wanted, 0.99 * given + 0.01 * wanted), rel=1e-4
        )
    assert coverage(lists, data)["catalogue coverage"] == len(
        np.unique(lists)
    ) / len(data.catalogue.items.ids)


def test_novelty_counts_users_not_interactions(data):
    """An item that each user has many times is no novelty to anybody."""
    same = data.replace(items=np.full_like(data.items, ITEM_ROWS))
    lists = np.full((data.num_users, 2), ITEM_ROWS)
    quality = list_quality(lists, same, "test")
    assert quality["novelty (bits)"].tolist() == [0.0] * data.num_users


def test_empty_places_of_lists_do_not_count(data):
    """A short list is measured as if it were no longer; an empty one has no measure."""
    lists = np.full((data.num_users, 4), ITEM_ROWS)
    lists += np.arange(4)
    short = lists[:, :3].copy()
    lists[:, 3] = 0
    expected = list_quality(short, data, "test")
    for name, values in list_quality(lists, data, "test").items():
        assert values.tolist() == pytest.approx(expected[name].tolist()), name
    for values in list_quality(lists * 0, data, "test").values():
        assert np.isnan(values).all()


def test_a_history_that_training_never_saw_has_no_lift(data):
    """Its mean popularity is 0."""
    new = data.replace(items=data.items.copy())
    row = data.split.requests["test"].ends[0]
    first = data.offsets[data.split.requests["test"].users[0]]
    new.items[new.items == ITEM_ROWS] = ITEM_ROWS + 1
    new.items[first:row] = ITEM_ROWS
    ends = new.split.train_ends.copy()
    ends[data.split.requests["test"].users[0]] = first
    split = dataclasses.replace(new.split, train_ends=ends)
    lists = np.full((data.num_users, 2), ITEM_ROWS + 1)
    lift = list_quality(lists, new.replace(split=split), "test")[
        "popularity lift"
    ]
    assert np.isnan(lift[0]) and np.isfinite(lift[1:]).all()


def test_gini_of_exposure_at_its_ends(data):
    films = np.arange(ITEM_ROWS, len(data.catalogue.items))
    assert coverage(films[:, None], data)["Gini of exposure"] == pytest.approx(
        0.0
    )
    assert coverage(np.full((50, 1), ITEM_ROWS), data)[
        "Gini of exposure"
    ] == pytest.approx(1 - 1 / len(films))


def test_slices_part_the_requests(data):
    for family, parts in request_slices(data, "test").items():
        counts = sum(part.astype(int) for part in parts.values())
        tags = family == "target's genres"
        assert (counts >= 1).all() if tags else (counts == 1).all(), family
    users = data.catalogue.users
    women = request_slices(data, "test")["user's gender"]["woman"]
    code = users.fields["gender"].code("woman")
    assert (users.data["gender"][1:][women] == code).all()
    rank = np.arange(1, data.num_users + 1)[:, None]
    rows = slice_table(rank, data, "test")
    assert (
        sum(row[2] for row in rows if row[0] == "history, interactions")
        == data.num_users
    )
    (row,) = [row for row in rows if row[:2] == ("user's gender", "woman")]
    assert row[3]["mean"] == pytest.approx(
        per_user(rank[women], np.flatnonzero(women))["NDCG@10"].mean()
    )


def test_reliability_agrees_with_scikit_learn():
    draw = rng()
    probabilities = draw.dirichlet(np.ones(5), 4000)
    ratings = np.array([draw.choice(5, p=row) + 1 for row in probabilities])
    title, _, rows = analyse._reliability("rating", probabilities, ratings)
    true = (ratings[:, None] == np.arange(1, 6)).ravel()
    observed, stated = calibration_curve(
        true, probabilities.ravel(), n_bins=10
    )
    assert [row[:2] for row in rows] == [
        [f"{said:.3f}", f"{seen:.3f}"]
        for said, seen in zip(stated, observed, strict=True)
    ]
    # drawn from the very probabilities
    assert float(title.split()[-1]) < 0.02
    certain = np.tile([0, 0, 0, 0, 1.0], (9, 1))
    title, *_ = analyse._reliability("rating", certain, np.ones(9, dtype=int))
    assert float(title.split()[-1]) == pytest.approx(0.4)


def test_tables_as_text():
    assert (
        table_text(["a", "b"], [["1\n2", "3 %"]])
        == "| a | b |\n| --- | --- |\n| 1 2 | 3 % |\n"
    )


def test_script(data, tiny, tmp_path, monkeypatch, capsys):
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"])
    save_model(
        tmp_path / "model",
        fresh_model(data, VARIANTS["enhanced"]),
        settings,
        data,
        {},
    )
    monkeypatch.setattr(model_io, "load", lambda _settings, _like=None: data)
    analyse.main(
        [
            "--model_path",
            str(tmp_path / "model"),
            "--output",
            str(tmp_path / "tables"),
        ]
    )
    text = (tmp_path / "tables" / "analysis.md").read_text(encoding="utf-8")
    for part in (
        "## Ranking",
        "catalogue coverage",
        "gender: woman",
        "expected calibration error",
        data.split_hash,
    ):
        assert part in text
    assert "ten films" in capsys.readouterr().out
