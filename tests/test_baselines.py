"""Baselines against independent computations of the same thing."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

import dataset
from baselines import popularity
from baselines.followers import (
    HISTORIES,
    PUBLISHED,
    pctm,
    sequential_rules,
)
from baselines.neighbours import (
    ColumnNeighbours,
    ItemToItem,
    ease,
    item_knn,
    markov_chain,
)
from baselines.popularity import (
    DAY,
    Popularity,
    RecentPopularity,
)
from batches import History, history_batch, history_of
from dataset import ITEM_ROWS
from evaluation.protocols import target_ranks
from settings import EvalSettings
from tests.conftest import span


@pytest.fixture()
def seen(data):
    """(U, R) who has what in the training part."""
    matrix = np.zeros((data.num_users + 1, len(data.catalogue.items)))
    for person in data.catalogue.users.rows:
        start, end = span(data, person, "validation")
        matrix[person, data.items[start:end]] = 1
    return matrix


def test_item_knn_is_cosine_similarity(data, seen):
    expected = cosine_similarity(seen.T)
    np.fill_diagonal(expected, 0)
    everything = item_knn(
        data, neighbours=len(data.catalogue.items), shrinkage=0.0
    )
    np.testing.assert_allclose(everything.matrix.numpy(), expected, atol=1e-6)
    nearest = item_knn(data, neighbours=3, shrinkage=0.0).matrix.numpy()
    for film in range(ITEM_ROWS, len(data.catalogue.items)):
        kept = nearest[:, film] > 0
        assert (
            expected[kept, film].min(initial=2.0)
            >= np.sort(expected[:, film])[-3] - 1e-6
        )
    shrunk = item_knn(
        data, neighbours=len(data.catalogue.items), shrinkage=10.0
    ).matrix.numpy()
    counts = seen.sum(0)
    i, j = np.argsort(-counts)[:2]
    assert shrunk[i, j] == pytest.approx(
        (seen[:, i] * seen[:, j]).sum() / ((counts[i] * counts[j]) ** 0.5 + 10)
    )


def test_ease_solves_its_regressions(data, seen):
    """Column by column: ridge regression of a film on all others."""
    matrix = ease(data, regularisation=7.0).matrix.numpy()
    for film in (ITEM_ROWS, ITEM_ROWS + 5, len(data.catalogue.items) - 1):
        others = np.delete(np.arange(seen.shape[1]), film)
        x, y = seen[:, others], seen[:, film]
        expected = np.linalg.solve(
            x.T @ x + 7.0 * np.eye(len(others)), x.T @ y
        )
        np.testing.assert_allclose(matrix[others, film], expected, atol=1e-5)
        assert matrix[film, film] == 0


def test_markov_chain_counts_followers(data):
    counts = np.zeros((len(data.catalogue.items),) * 2)
    popularity = np.zeros(len(data.catalogue.items))
    for person in data.catalogue.users.rows:
        start, end = span(data, person, "validation")
        items = data.items[start:end]
        np.add.at(popularity, items, 1)
        for step in (1, 2):
            for before, after in zip(items[:-step], items[step:], strict=True):
                counts[before, after] += 1 / step
    expected = counts + 0.5 * popularity / popularity.sum()
    np.testing.assert_allclose(
        markov_chain(data, reach=2, backoff=0.5).matrix.numpy(),
        expected / expected.sum(1, keepdims=True),
        atol=1e-6,
    )


def pairs_of(data, reach):
    """Distance -> how often each item stands so far after each, by loops."""
    size = len(data.catalogue.items)
    counts = {d: np.zeros((size, size)) for d in range(1, reach + 1)}
    for user in data.catalogue.users.rows:
        start, end = span(data, user, "validation")
        for place in range(start, end):
            for distance in range(1, reach + 1):
                if place + distance < end:
                    before, after = data.items[[place, place + distance]]
                    counts[distance][before, after] += 1
    return counts


def asked(data, user):
    """The history of a test request, and its batch."""
    history = history_of(data, user, span(data, user, "test")[1])
    return history.items, history_batch([history], data.catalogue, 1000)


@pytest.mark.parametrize(
    ("history", "count", "decay"), [("tail", 7, 0.6), ("long_tail", 10, 0.7)]
)
@pytest.mark.parametrize("popularity", [0.0, -0.4])
def test_pctm_sums_logarithms_of_probabilities(
    data, popularity, history, count, decay
):
    """From the formula, P(a | b) = (C + tau / I) / (C_b + tau), by loops: equal up to what is the
    same for all items."""
    counts = pairs_of(data, 4)
    whole = sum(counts[d] / d for d in counts)
    size = len(whole)
    tau = size / 25.0
    sums = whole.sum(1, keepdims=True)
    probability = (whole + tau / size) / (sums + tau)
    times = data.item_counts()
    share = np.log((times + 1) / (times.sum() + size))
    ranker = pctm(data, ["inverse", 4], 25.0, history, popularity)
    for user in (1, 2, 3):
        items, batch = asked(data, user)
        newest = items[::-1]
        steps = decay ** np.arange(count)
        weights = 0.8 * steps / steps.sum()
        older = len(newest) - count
        weights = [*weights, *[0.2 / older] * older]
        expected = popularity * share
        for item, weight in zip(newest, weights, strict=True):
            expected = expected + weight * np.log(probability[item])
        found = ranker.score(batch)[0].numpy()
        assert (found[:ITEM_ROWS] == -np.inf).all()
        difference = (found - expected)[ITEM_ROWS:]
        assert np.ptp(difference) < 1e-4 and np.ptp(expected) > 0.5


def test_sequential_rules_sum_what_followed(data):
    counts = pairs_of(data, 3)
    rules = sum(counts[d] / np.log10(d + 1.7) for d in counts)
    times = data.item_counts()
    rarity = np.log(data.num_users / np.maximum(times, 1))
    known = times > 0
    low, high = rarity[known].min(), rarity[known].max()
    rules *= np.where(known, (rarity - low) / (high - low), 0)[:, None]
    for row in rules:
        # by value, of equal ones the first
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))
        row[order[20:]] = 0
    ranker = sequential_rules(data, 3, "logarithmic", 20, True, "quadratic")
    for user in (1, 2, 3):
        items, batch = asked(data, user)
        newest = items[::-1][:10]
        expected = sum(
            rules[item] / age**2 for age, item in enumerate(newest, 1)
        )
        found = ranker.score(batch)[0].numpy()
        np.testing.assert_allclose(
            found[ITEM_ROWS:], expected[ITEM_ROWS:], rtol=1e-5, atol=2e-6
        )


@pytest.mark.parametrize("length", [0, 1, 7, 8, 300])
def test_weights_of_a_history_sum_to_one(length):
    for name, weights in HISTORIES.items():
        found = weights(length)
        assert found.shape == (length,), name
        assert found.sum() == pytest.approx(1.0 if length else 0.0)
        assert (np.diff(found[:7]) < 0).all()


def test_scores_weigh_films_by_their_age(data):
    matrix = np.random.default_rng(0).random((len(data.catalogue.items),) * 2)
    histories = [history_of(data, person) for person in (1, 2, 3)]
    scores = ItemToItem(matrix, decay=0.5).score(
        history_batch(histories, data.catalogue, 12)
    )
    for row, history in zip(scores, histories, strict=True):
        newest = history.items[-12:][::-1]
        expected = sum(
            0.5**age * matrix[film] for age, film in enumerate(newest)
        )
        np.testing.assert_allclose(
            row[ITEM_ROWS:], expected[ITEM_ROWS:], rtol=1e-4
        )
        assert (row[:ITEM_ROWS] == -torch.inf).all()
    newest = ItemToItem(matrix, decay=0.0).score(
        history_batch(histories, data.catalogue, 12)
    )
    np.testing.assert_allclose(
        newest[0, ITEM_ROWS:],
        matrix[histories[0].items[-1], ITEM_ROWS:],
        rtol=1e-5,
    )


def test_recent_popularity_counts_the_days_before(data):
    recent = RecentPopularity(data, days=30)
    history = history_of(data, 5, span(data, 5, "test")[1])
    scores = recent.score(history_batch([history], data.catalogue, 12))[0]
    rows, now = data.training_rows(), history.times[-1]
    inside = rows[
        (data.times[rows] < now) & (data.times[rows] >= now - 30 * DAY)
    ]
    expected = np.bincount(
        data.items[inside], minlength=len(data.catalogue.items)
    )
    assert (scores[ITEM_ROWS:].floor().numpy() == expected[ITEM_ROWS:]).all()
    empty = RecentPopularity(data, days=0).score(
        history_batch([history], data.catalogue, 12)
    )[0]
    assert (
        empty[ITEM_ROWS:].argsort()
        == Popularity(data).counts[ITEM_ROWS:].argsort()
    ).all()


def test_recent_popularity_of_large_data(data, monkeypatch):
    """Read in chunks, and of a part of the users: about as many interactions as allowed."""
    whole = RecentPopularity(data, days=30)
    monkeypatch.setattr(dataset, "CHUNK", 200)
    in_chunks = RecentPopularity(data, days=30)
    assert sorted(zip(whole.times, whole.items, strict=True)) == sorted(
        zip(in_chunks.times, in_chunks.items, strict=True)
    )
    total = len(whole.items)
    monkeypatch.setattr(popularity, "MOST", total // 3)
    some = RecentPopularity(data, days=30)
    assert total / 5 < len(some.items) < total / 2
    assert (np.diff(some.times) >= 0).all()


def test_baselines_bring_a_batch_to_the_cpu_before_numpy_reads_it(
    data, monkeypatch
):
    """As a GPU demands it; there is none here, so `cpu` marks what it returns."""
    rankers = [
        Popularity(data),
        RecentPopularity(data, 60),
        item_knn(data, 20, 5.0),
        ease(data, 20.0, 0.9),
        markov_chain(data),
        pctm(data, **PUBLISHED[0]),
    ]
    batch = history_batch([history_of(data, 5)], data.catalogue, 12)
    numpy, marked = torch.Tensor.numpy, []

    def cpu(tensor):
        marked.append(tensor.clone())
        return marked[-1]

    def checked(tensor):
        assert any(tensor is one for one in marked)
        return numpy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "numpy", checked)
    for ranker in rankers:
        ranker.score(batch)
    assert marked


def test_baselines_rank_under_the_one_protocol(data):
    for ranker in (
        RecentPopularity(data, 60),
        item_knn(data, 20, 5.0),
        ease(data, 20.0, 0.9),
        markov_chain(data),
        pctm(data, **PUBLISHED[0]),
    ):
        assert (
            target_ranks(ranker, data, "test", 12, EvalSettings()).min() >= 1
        )


def test_neighbours_by_columns_are_mean_cosine_similarities(data):
    history = history_of(data, 3)
    similar = cosine_similarity(data.catalogue.items.shares("genres"))[
        history.items[-12:]
    ]
    nobody = History(np.zeros(0, dtype=int))
    batch = history_batch([history, nobody], data.catalogue, 12)
    found, popular = ColumnNeighbours(data).score(batch).numpy()
    np.testing.assert_allclose(
        found[ITEM_ROWS:], similar.mean(0)[ITEM_ROWS:], atol=2e-6
    )
    everybody = Popularity(data).counts.numpy()[ITEM_ROWS:]
    assert (
        np.argsort(-popular[ITEM_ROWS:], kind="stable")
        == np.argsort(-everybody, kind="stable")
    ).all()
