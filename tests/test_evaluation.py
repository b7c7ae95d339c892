"""Metrics against ir-measures, ties, intervals, baselines and the heads' yardsticks."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Success, nDCG
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from baselines.mean_ratings import mean_predictors
from baselines.popularity import Popularity
from batches import history_batch, history_of
from data_processor import FIRST_ITEM
from evaluation.leave_one_out import protocol_line, target_ranks
from evaluation.metrics import bootstrap_interval, per_user, ranks
from evaluation.report import ranking_table, summarise
from evaluation.side_tasks import preference_quality, rating_errors
from support.errors import UserError
from tests.conftest import VARIANTS, fresh_model, rng


def test_metrics_agree_with_ir_measures(data):
    """On a random model's scores: ir-measures ranks the unseen films of each user itself, one list a user."""
    model = fresh_model(data, VARIANTS["enhanced"])
    ours = per_user(target_ranks(model, data, "test", 12))
    qrels, run = [], []
    for user in range(data.num_users):
        scores = model.score(history_batch([history_of(data, user, "test")], 12))[0].tolist()
        start, end = data.span(user, "test")
        seen = set(data.items[start:end].tolist())
        qrels.append(ir_measures.Qrel(str(user), str(data.items[end]), 1))
        run += [ir_measures.ScoredDoc(str(user), str(film), scores[film])
                for film in range(FIRST_ITEM, data.catalogue.num_rows) if film not in seen]
    wanted = {"HR@1": Success @ 1, "HR@5": Success @ 5, "HR@10": Success @ 10, "NDCG@5": nDCG @ 5,
              "NDCG@10": nDCG @ 10, "MRR": RR}
    theirs = {(row.measure, int(row.query_id)): row.value
              for row in ir_measures.iter_calc(list(wanted.values()), qrels, run)}
    for name, measure in wanted.items():
        expected = [theirs[measure, user] for user in range(data.num_users)]
        np.testing.assert_allclose(ours[name], expected, atol=1e-6)


def test_ndcg_agrees_with_scikit_learn():
    scores = rng().random((40, 50))
    target = rng(1).integers(0, 50, 40)
    relevance = np.zeros((40, 50))
    relevance[np.arange(40), target] = 1
    rank = ranks(torch.from_numpy(scores), torch.from_numpy(target)).numpy()
    assert per_user(rank)["NDCG@10"].mean() == pytest.approx(ndcg_score(relevance, scores, k=10), abs=1e-9)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_ties_are_broken_against_the_target(values, draw):
    target = draw.draw(st.integers(0, len(values) - 1))
    rank = int(ranks(torch.tensor([values]).float(), torch.tensor([target]))[0])
    assert rank == sum(value > values[target] for value in values) + values.count(values[target])


def test_a_constant_scorer_gets_nothing(data):
    class Constant:
        def score(self, batch):
            scores = torch.zeros(len(batch.lengths), data.catalogue.num_rows)
            scores[:, :FIRST_ITEM] = -torch.inf
            return scores

    rank = target_ranks(Constant(), data, "test", 12)
    histories = np.diff(data.offsets) - 1
    assert (rank == len(data.catalogue.movie_ids) - histories).all()


def test_a_scorer_that_knows_gets_everything(data):
    class Oracle:
        def score(self, batch):
            scores = torch.full((len(batch.lengths), data.catalogue.num_rows), -1.0)
            targets = torch.from_numpy(data.items[data.target_rows("test")])
            scores[torch.arange(len(scores)), targets[batch.users - 1]] = 1
            return scores

    assert (target_ranks(Oracle(), data, "test", 12) == 1).all()


def test_filter_takes_the_whole_history_out(data):
    """Against a naive loop, also over interactions older than the model reads."""
    model = fresh_model(data, VARIANTS["enhanced"])
    plain = target_ranks(model, data, "validation", 12, filter_seen=False)
    filtered = target_ranks(model, data, "validation", 12)
    popular = Popularity(data)
    assert (filtered <= plain).all() and (filtered < plain).any()
    rank = target_ranks(popular, data, "test", 12)
    for user in range(0, data.num_users, 9):
        start, end = data.span(user, "test")
        seen, target = set(data.items[start:end].tolist()), int(data.items[end])
        rivals = [film for film in range(FIRST_ITEM, data.catalogue.num_rows) if film not in seen and film != target]
        assert rank[user] == 1 + sum(popular.scores[film] >= popular.scores[target] for film in rivals)


def test_ranks_do_not_depend_on_batch_size(data, variant):
    model = fresh_model(data, variant)
    assert (target_ranks(model, data, "test", 12, batch_size=1) ==
            target_ranks(model, data, "test", 12, batch_size=60)).all()


def test_diverged_scores_are_an_error(data):
    class Broken:
        def score(self, batch):
            return torch.full((len(batch.lengths), data.catalogue.num_rows), torch.nan)

    with pytest.raises(UserError, match="diverged"):
        target_ranks(Broken(), data, "test", 12)


def test_popularity_counts_training_interactions(data):
    scores = Popularity(data).scores
    assert int(scores[FIRST_ITEM:].sum()) == len(data.training_rows())
    assert (scores[:FIRST_ITEM] == -torch.inf).all()


def test_bootstrap_interval_covers_the_mean():
    """95 % intervals of many samples hold the true mean about 95 % of the time, and match the normal width."""
    inside = []
    for seed in range(200):
        values = (rng(seed).random(300) < 0.3).astype(float)
        low, high = bootstrap_interval(values, 200, seed)
        inside.append(low <= 0.3 <= high)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert high - low == pytest.approx(2 * 1.96 * (0.21 / 300) ** 0.5, rel=0.2)


def test_summary_and_table():
    rank = np.array([1, 2, 6, 11])
    summary = summarise(rank, 100)
    assert summary["HR@1"]["mean"] == 1 / 4
    assert summary["HR@10"]["mean"] == 3 / 4
    assert summary["NDCG@10"]["mean"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(7) + 0) / 4)
    assert summary["MRR"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 11) / 4)
    assert "| x | 0.2500 [" in ranking_table({"x": summary})


def test_protocol_line_says_what_a_number_means(data):
    line = protocol_line(data, "test", True, "unknown")
    for part in ("leave-one-out", "full ranking of", "ties against", data.split_hash, "NOT MovieLens", "60 users"):
        assert part in line


def test_rating_yardsticks(data):
    targets = data.ratings[data.target_rows("test")]
    guesses = mean_predictors(data, "test")
    for guess in guesses.values():
        errors = rating_errors(guess, data, "test")
        assert errors["RMSE"] == pytest.approx(root_mean_squared_error(targets, guess))
        assert errors["MAE"] == pytest.approx(mean_absolute_error(targets, guess))
    start, end = data.span(4, "test")
    assert guesses["user mean"][4] == pytest.approx(data.ratings[start:end].mean())
    train = data.training_rows()
    film = data.items[data.target_rows("test")[4]]
    assert guesses["film mean"][4] == pytest.approx(data.ratings[train][data.items[train] == film].mean())


def test_preference_yardstick_is_the_training_mean(data):
    """A head that always answers the constant must score as the constant does."""
    shares = data.catalogue.genres / np.maximum(data.catalogue.genres.sum(1, keepdims=True), 1)
    mean = torch.from_numpy(shares[data.items[data.training_rows()]].mean(0))
    quality = preference_quality(lambda batch: mean.repeat(len(batch.lengths), 1), data, "validation", 12, 16,
                                 torch.device("cpu"))
    assert quality["head"] == pytest.approx(quality["constant"], abs=1e-3)
