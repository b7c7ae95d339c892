"""Lists of liked and of varied items, against loops over the definitions."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from starlette.testclient import TestClient

import inference
from ablations.shown import _over_users, shown_lists
from batches import history_batch, history_of
from bulk import recommend_all
from data_processor import process
from dataset import ITEM_ROWS
from evaluation.lists import top_lists
from evaluation.metrics import interval, per_user
from evaluation.protocols import target_ranks
from queries import Query, best_of
from reranking import (
    LikedRanker,
    intra_list_distance,
    lifted,
    liked_from,
    varied,
    varied_lists,
)
from settings import DataSettings, EvalSettings, Settings
from support.errors import UserError, run_command
from tests.conftest import VARIANTS, fresh_model, other_data, rng


@pytest.fixture(scope="module")
def scorer(data):
    return fresh_model(data, VARIANTS["enhanced"]).frozen()


def test_liked_is_next_and_rated_at_least_as_the_mean(data, scorer):
    ranker = LikedRanker(scorer, data.catalogue)
    histories = [history_of(data, user) for user in (1, 2, 3)]
    batch = history_batch(histories, data.catalogue, 12)
    scores, plain = ranker.score(batch), scorer.score(batch)
    states = scorer.states(batch)
    stars = data.catalogue.interaction_fields["rating"].numbers
    for row in range(3):
        codes = [
            code for code in batch.columns["rating"][row].tolist() if code
        ]
        mean = np.mean([stars[code - 1] for code in codes])
        for item in (ITEM_ROWS, ITEM_ROWS + 7):
            shares = scorer.value_probabilities(
                "rating", states[row : row + 1], torch.tensor([item])
            )[0]
            enough = sum(
                share.item()
                for share, star in zip(shares, stars, strict=True)
                if star >= mean
            )
            expected = plain[row, item].item() + np.log(enough)
            assert scores[row, item].item() == pytest.approx(
                expected, abs=1e-4
            )
    assert (scores[:, :ITEM_ROWS] == -torch.inf).all()


def test_without_values_the_middle_of_the_scale_counts(data, scorer):
    ranker = LikedRanker(scorer, data.catalogue)
    batch = history_batch([history_of(data, 1)], data.catalogue, 12)
    nothing = {"rating": torch.zeros_like(batch.columns["rating"])}
    least = ranker.least(batch.replace(columns=nothing))
    assert least.tolist() == pytest.approx([3.0])
    one = torch.zeros_like(batch.columns["rating"])
    one[0, 0] = 4  # a film with four stars
    least = ranker.least(batch.replace(columns={"rating": one}))
    assert least.item() <= 4 and least.item() == pytest.approx(4, abs=1e-5)


def test_a_model_without_values_is_refused():
    other = other_data("ids")
    plain = fresh_model(other, VARIANTS["enhanced"]).frozen()
    with pytest.raises(UserError, match="--rank_by liked and --prefer_expected: this model"):
        LikedRanker(plain, other.catalogue)


@pytest.mark.parametrize("diversity", [0.2, 0.5, 1.0])
def test_varied_lists_are_marginally_relevant(diversity):
    """By the formula, among the 10 k best."""
    draw = rng(1)
    scores = torch.from_numpy(draw.normal(size=60)).float()
    scores[[3, 5]] = -torch.inf
    table = torch.from_numpy(draw.normal(size=(60, 4))).float()
    best = scores.topk(50)
    found, values = varied(best.indices, best.values, table, 5, diversity)
    assert torch.equal(values, scores[found])
    among = np.argsort(-scores.numpy())[:50]
    best, worst = scores[among[0]].item(), scores[among[-1]].item()
    alike = cosine_similarity(table.numpy())
    chosen = []
    for _ in range(5):
        worths = {}
        for item in set(among.tolist()) - set(chosen):
            relevance = (scores[item].item() - worst) / (best - worst)
            nearest = max((alike[item, other] for other in chosen), default=0)
            worths[item] = (1 - diversity) * relevance - diversity * nearest
        # With diversity 1 all are as good as each other at first.
        best_first = found[0].item() if not chosen else None
        if diversity == 1 and not chosen:
            chosen.append(best_first)
            continue
        chosen.append(max(worths, key=worths.__getitem__))
    assert found.tolist() == chosen


def test_without_diversity_the_best_are_shown():
    items, scores = torch.tensor([2, 3, 1]), torch.tensor([3.0, 2.0, 1.0])
    found, values = varied(items, scores, None, 10, 0.0)
    assert found.tolist() == [2, 3, 1] and values.tolist() == [3, 2, 1]
    found, _ = varied(items, scores, torch.eye(4), 10, 0.3)
    assert sorted(found.tolist()) == [1, 2, 3]
    # One of two lists has an item less left.
    lists = np.array([[2, 3, 1], [2, 3, 0]])
    values = np.array([[3, 2, 1], [3, 2, -np.inf]], dtype=np.float32)
    found, values = varied_lists(lists, values, torch.eye(4), 10, 0.3)
    assert found[1].tolist() == [2, 3, 0] and values[1, 2] == -np.inf


def test_distance_within_lists():
    table = torch.from_numpy(rng(2).normal(size=(9, 3)))
    lists = np.array([[1, 4, 7], [2, 3, 8]])
    for row, found in zip(
        lists, intra_list_distance(lists, table), strict=True
    ):
        pairs = itertools.combinations(row, 2)
        far = [
            1 - cosine_similarity(table[[one, other]].numpy())[0, 1]
            for one, other in pairs
        ]
        assert found == pytest.approx(np.mean(far), abs=1e-5)


def test_what_lists_cost_and_give(data, scorer):
    settings = Settings().replace(seq_length=12)
    rows = shown_lists(scorer, data, settings, "test")
    ranks = target_ranks(scorer, data, "test", 12, EvalSettings())
    requests = data.split.requests["test"]
    quality = per_user(ranks, requests.users)["NDCG@10"]
    assert rows["next"]["NDCG@10"]["mean"] == pytest.approx(quality.mean())
    stars = data.catalogue.interaction_fields["rating"].numbers
    values = stars[data.columns["rating"] - 1]
    liked = [
        values[end] >= values[data.offsets[user] : end].mean()
        for user, end in zip(requests.users, requests.ends, strict=True)
    ]
    found = rows["next"]["of liked targets"]["mean"]
    assert found == pytest.approx(quality[liked].mean())
    hits = values[requests.ends][ranks[:, 0] <= 10]
    found = rows["next"]["value of hits"]["mean"]
    assert found == pytest.approx(hits.mean())
    far = [
        rows[name]["distance"]["mean"]
        for name in rows
        if name.startswith("next") and "expected" not in name
    ]
    assert far == sorted(far) and far[0] < far[-1]


def test_what_is_measured_are_the_lists_that_users_are_shown(data, scorer):
    """Of one request after the other."""
    settings = Settings().replace(seq_length=12)
    rows = shown_lists(scorer, data, settings, "test")
    requests = data.split.requests["test"]
    for name, row in rows.items():
        if "expected" not in name:
            continue
        quality = []
        for user, end in zip(requests.users, requests.ends, strict=True):
            rank_by = name.partition(",")[0]
            history = history_of(data, user, end)
            wish = Query(history, 10, rank_by=rank_by, prefer_expected="mean")
            batch = history_batch([history], data.catalogue, 12)
            with torch.no_grad():
                states = scorer.states(batch)
                asked = (scorer, data.catalogue, [wish], batch, states)
                ((items, _),) = best_of(*asked)
            place = (items == data.items[end]).nonzero()
            quality.append(float((1 / (place + 2.0).log2()).sum()))
        assert row["NDCG@10"]["mean"] == pytest.approx(np.mean(quality))


def test_of_several_targets_each_has_its_own_value(tiny, scorer):
    """Five targets a user: by a plain loop over users and targets."""
    flags = DataSettings(dataset="synthetic", protocol="multi5")
    several = process(tiny, flags)
    settings = Settings().replace(seq_length=12)
    rows = shown_lists(scorer, several, settings, "test")
    requests = several.split.requests["test"]
    lists, _ = top_lists(scorer, several, requests, 12, True)
    stars = several.catalogue.interaction_fields["rating"].numbers
    values = stars[several.columns["rating"] - 1]
    hits, qualities = [], []
    for user, end, places in zip(
        requests.users, requests.ends, requests.target_rows, strict=True
    ):
        least = values[several.offsets[user] : end].mean()
        found = [values[at] for at in places]
        inside = [several.items[at] in lists[len(hits)] for at in places]
        hits.append([v for v, hit in zip(found, inside, strict=True) if hit])
        gains, liked = 0.0, 0
        for at, value in zip(places, found, strict=True):
            if value < least - 1e-6:
                continue
            liked += 1
            place = np.flatnonzero(lists[len(hits) - 1] == several.items[at])
            gains += sum(1 / np.log2(2 + place))
        ideal = sum(1 / np.log2(2 + np.arange(liked)))
        qualities += [gains / ideal] if liked else []
    means = [np.mean(each) for each in hits if each]
    assert means
    row = rows["next"]
    assert row["value of hits"]["mean"] == pytest.approx(np.mean(means))
    found = row["of liked targets"]["mean"]
    assert found == pytest.approx(np.mean(qualities))


def test_intervals_of_lists_are_over_users():
    """Two requests of one user are one value."""
    values, users = np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9])
    assert _over_users(values, users) == interval(np.array([2.0, 5.0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_weight_of_what_is_expected_is_the_smallest(seed):
    draw = rng(seed)
    scores = torch.from_numpy(draw.normal(size=60).astype(np.float32))
    scores[:10] = -torch.inf  # may not be chosen
    expected = torch.from_numpy(draw.normal(3, 0.5, 60))
    expected[:10] = 9.0

    def chosen(changed):
        return changed.topk(5).indices

    def mean(changed):
        return float(expected[chosen(changed)].mean())

    most = float(expected[10:].topk(5).values.mean())
    distance = expected - expected[10:].mean()
    for least in np.linspace(mean(scores) + 0.01, most - 0.01, 7):
        found = lifted(scores, expected, least, chosen)
        assert mean(found) >= least - 1e-5
        change = (found - scores)[10:].double()
        weight = float((change / distance[10:]).median())
        smaller = scores + 0.99 * weight * distance
        assert weight > 0 and mean(smaller) < least
    assert lifted(scores, expected, mean(scores) - 0.1, chosen) is scores
    for never in (8.0, 1e9, 1e38, 1e300):
        high = lifted(scores, expected, never, chosen)
        assert mean(high) == pytest.approx(most)
    nothing = torch.full_like(scores, -torch.inf)
    assert lifted(nothing, expected, 3.0, chosen) is nothing


@pytest.mark.parametrize("value", [33.3, 99.9, 7.7, 4.0])
def test_equal_values_are_all_liked(value):
    """Whatever the rounding of their mean."""
    numbers = torch.tensor([value], dtype=torch.float64)
    for length in range(1, 201):
        mean = np.full(length, np.float32(value)).mean(dtype=np.float64)
        assert float(numbers[0]) >= liked_from(np.array(mean))


@pytest.mark.parametrize("name", ["ids", "shop"])
def test_lists_of_any_data(name):
    """Also where nothing, or a channel but no number, is predicted: nothing to like."""
    other = other_data(name)
    plain = fresh_model(other, VARIANTS["enhanced"]).frozen()
    settings = Settings().replace(seq_length=12)
    rows = shown_lists(plain, other, settings, "test")
    assert not any(label.startswith("liked") for label in rows)
    assert all(0 <= row["NDCG@10"]["mean"] <= 1 for row in rows.values())


def test_the_engine_ranks_by_liking(engine):
    """Alone, for many at once, and beside others in one batch."""
    plain = engine.get_recommendations(12, k=20)
    liked = engine.get_recommendations(12, k=20, rank_by="liked")
    shift = {item.id: item.score for item in plain}
    assert all(item.score < shift.get(item.id, np.inf) for item in liked)
    scores = [item.score for item in liked]
    assert scores == sorted(scores, reverse=True)
    table = recommend_all(
        engine, [7, 12], k=20, precision="fp32", rank_by="liked", diversity=0.3
    )
    own = table[table["user_id"] == 12]
    varied_list = engine.get_recommendations(
        12, k=20, rank_by="liked", diversity=0.3
    )
    assert own["item_id"].tolist() == [item.id for item in varied_list]
    assert varied_list[0].id == liked[0].id
    assert {item.id for item in varied_list} != {item.id for item in liked}


def test_flags(service_files, capsys):
    command = ["--model_path", str(service_files / "main" / "best")]
    command += ["--data_dir", str(service_files / "data"), "--user_id", "12"]
    flags = ["--rank_by", "liked", "--diversity", "0.3", "--k", "3"]
    assert run_command(inference.main, [*command, *flags]) == 0
    assert "rating" in capsys.readouterr().out
    for wrong in ("-0.1", "1.5", "nan", "much"):
        flags = ["--diversity", wrong]
        assert run_command(inference.main, [*command, *flags]) == 2
        assert "0 to 1" in capsys.readouterr().err


def test_the_service_takes_the_same(service_files, engine):
    from serving.app import create_app
    from serving.engines import Config

    config = Config(
        model_path=str(service_files / "main" / "best"),
        data_dir=str(service_files / "data"),
    )
    with TestClient(create_app(config), base_url="http://localhost") as client:
        wish = {"user_id": 12, "k": 4, "rank_by": "liked", "diversity": 0.4}
        answer = client.post("/recommend", json=wish).json()
        ids = [item["id"] for item in answer["recommendations"]]
        wanted = engine.get_recommendations(
            12, k=4, rank_by="liked", diversity=0.4
        )
        assert ids == [item.id for item in wanted]
        for wrong in ({"rank_by": "best"}, {"diversity": 2}):
            refused = client.post("/recommend", json={"user_id": 12, **wrong})
            assert refused.status_code == 422
        wish = {"user_id": 12, "model": "popularity", "diversity": 0.4}
        refused = client.post("/recommend", json=wish)
        assert refused.status_code == 400 and "diversity" in refused.text
