"""Metrics against ir-measures, ties, intervals, baselines and the heads' yardsticks."""

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG
from sklearn.metrics import (
    mean_absolute_error,
    ndcg_score,
    root_mean_squared_error,
)

from baselines.mean_values import mean_predictors
from baselines.popularity import Popularity
from batches import history_batch, history_of
from data_processor import from_sequences, process
from dataset import ITEM_ROWS
from evaluation.metrics import CUTOFFS, interval, per_request, per_user, ranks
from evaluation.protocols import (
    CANDIDATES,
    draw_candidates,
    protocol_line,
    target_ranks,
)
from evaluation.report import summarise
from evaluation.side_tasks import preference_quality, value_quality
from settings import DataSettings, EvalSettings
from splits import split_interactions
from support.errors import UserError
from tests.conftest import (
    VARIANTS,
    fresh_model,
    other_data,
    rng,
    shop,
    span,
)

PLAIN = EvalSettings()


def test_metrics_agree_with_ir_measures(data):
    """On a random model's scores: ir-measures ranks the unseen films of each user itself, one
    list a user.
    """
    model = fresh_model(data, VARIANTS["enhanced"]).frozen()
    ours = per_request(target_ranks(model, data, "test", 12, PLAIN))
    qrels, run = [], []
    for user in data.catalogue.users.rows:
        scores = model.score(
            history_batch(
                [history_of(data, user, span(data, user, "test")[1])],
                data.catalogue,
                12,
            )
        )[0].tolist()
        start, end = span(data, user, "test")
        seen = set(data.items[start:end].tolist())
        qrels.append(ir_measures.Qrel(str(user), str(data.items[end]), 1))
        run += [
            ir_measures.ScoredDoc(str(user), str(film), scores[film])
            for film in range(ITEM_ROWS, len(data.catalogue.items))
            if film not in seen
        ]
    wanted = {
        "HR@1": Success @ 1,
        "HR@5": Success @ 5,
        "HR@10": Success @ 10,
        "NDCG@5": nDCG @ 5,
        "NDCG@10": nDCG @ 10,
        "MRR": RR,
    }
    theirs = {
        (row.measure, int(row.query_id)): row.value
        for row in ir_measures.iter_calc(list(wanted.values()), qrels, run)
    }
    for name, measure in wanted.items():
        expected = [
            theirs[measure, user] for user in data.catalogue.users.rows
        ]
        np.testing.assert_allclose(ours[name], expected, atol=1e-6)


def test_ndcg_agrees_with_scikit_learn():
    scores = rng().random((40, 50))
    target = rng(1).integers(0, 50, 40)
    relevance = np.zeros((40, 50))
    relevance[np.arange(40), target] = 1
    rank = ranks(
        torch.from_numpy(scores), torch.from_numpy(target)[:, None]
    ).numpy()
    assert per_request(rank)["NDCG@10"].mean() == pytest.approx(
        ndcg_score(relevance, scores, k=10), abs=1e-9
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_ties_are_broken_against_the_target(values, draw):
    target = draw.draw(st.integers(0, len(values) - 1))
    rank = int(
        ranks(torch.tensor([values]).float(), torch.tensor([[target]]))[0]
    )
    assert rank == sum(
        value > values[target] for value in values
    ) + values.count(values[target])


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, 2.0, 3.0, -np.inf]), min_size=1, max_size=25
    ),
    st.data(),
)
def test_metrics_of_several_targets_agree_with_ir_measures(values, draw):
    """Random rankings with ties, films left out, fewer candidates than K; a second person without
    any ranked film.
    """
    finite = [film for film, value in enumerate(values) if np.isfinite(value)]
    if not finite:
        return
    targets = draw.draw(
        st.lists(
            st.sampled_from(finite),
            min_size=1,
            max_size=min(5, len(finite)),
            unique=True,
        )
    )
    found = ranks(torch.tensor([values]), torch.tensor([targets]))
    rank = np.sort(found.numpy())
    ours = per_request(rank)
    # ir-measures gets the same order spelled out: of equal scores, those that are no targets come
    # first.
    order = sorted(finite, key=lambda film: (-values[film], film in targets))
    run = [
        ir_measures.ScoredDoc("1", str(film), float(-place))
        for place, film in enumerate(order)
    ]
    qrels = [ir_measures.Qrel("1", str(film), 1) for film in targets]
    for k in CUTOFFS:
        for name, measure, scale in (
            (f"HR@{k}", Success @ k, 1),
            (f"NDCG@{k}", nDCG @ k, 1),
            (f"Recall@{k}", R @ k, 1),
            (f"MAP@{k}", AP @ k, len(targets) / min(len(targets), k)),
        ):  # they divide by T
            theirs = (
                ir_measures.calc_aggregate([measure], qrels, run)[measure]
                * scale
            )
            assert ours[name][0] == pytest.approx(theirs, abs=1e-6), name
    assert ours["MRR"][0] == pytest.approx(
        ir_measures.calc_aggregate([RR], qrels, run)[RR], abs=1e-6
    )
    assert (np.diff(rank[0]) > 0).all()


def test_ranks_are_in_the_order_of_the_targets():
    scores = torch.tensor([[1.0, 5.0, 3.0, 4.0]])
    assert ranks(scores, torch.tensor([[2, 1, 0]])).tolist() == [[3, 1, 4]]


def test_a_film_that_is_a_target_twice_has_no_rank_before_the_first():
    assert ranks(
        torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 0]])
    ).tolist() == [[1, 2]]


def test_means_are_over_each_persons_requests_first():
    rank = np.array([[1], [30], [1]])
    metrics = per_user(rank, np.array([4, 4, 9]))
    assert metrics["HR@10"].tolist() == [0.5, 1.0]


def test_a_constant_scorer_gets_nothing(data):
    class Constant:
        def score(self, batch):
            scores = torch.zeros(len(batch.lengths), len(data.catalogue.items))
            scores[:, :ITEM_ROWS] = -torch.inf
            return scores

    rank = target_ranks(Constant(), data, "test", 12, PLAIN)[:, 0]
    histories = np.diff(data.offsets)[1:] - 1
    assert (rank == len(data.catalogue.items.ids) - histories).all()


def test_a_scorer_that_knows_gets_everything(data):
    class Oracle:
        def score(self, batch):
            scores = torch.full(
                (len(batch.lengths), len(data.catalogue.items)), -1.0
            )
            targets = torch.from_numpy(
                data.items[data.split.requests["test"].ends]
            )
            scores[
                torch.arange(len(scores)), targets[batch.users.numpy() - 1]
            ] = 1
            return scores

    assert (target_ranks(Oracle(), data, "test", 12, PLAIN) == 1).all()


def test_filter_takes_the_whole_history_out(data):
    """Against a naive loop, also over interactions older than the model reads."""
    model = fresh_model(data, VARIANTS["enhanced"]).frozen()
    plain = target_ranks(
        model, data, "validation", 12, EvalSettings(filter_seen="no")
    )
    filtered = target_ranks(model, data, "validation", 12, PLAIN)
    popular = Popularity(data)
    assert (filtered <= plain).all() and (filtered < plain).any()
    rank = target_ranks(popular, data, "test", 12, PLAIN)
    for user in range(1, data.num_users, 9):
        start, end = span(data, user, "test")
        seen, target = (
            set(data.items[start:end].tolist()),
            int(data.items[end]),
        )
        rivals = [
            film
            for film in range(ITEM_ROWS, len(data.catalogue.items))
            if film not in seen and film != target
        ]
        assert rank[user - 1, 0] == 1 + sum(
            popular.counts[film] >= popular.counts[target] for film in rivals
        )


def test_published_candidates_may_be_seen(data):
    """Then --no-filter_seen ranks them by their scores, and the filter puts them last."""
    drawn = draw_candidates(
        data, "test", EvalSettings(candidates="popular_100_any")
    )
    seen = [
        np.isin(
            drawn[person - 1], data.items[slice(*span(data, person, "test"))]
        )
        for person in data.catalogue.users.rows
    ]
    assert all(flags.any() for flags in seen)
    assert all(
        data.items[span(data, person, "test")[1]] not in drawn[person - 1]
        for person in data.catalogue.users.rows
    )
    scores = torch.arange(float(len(data.catalogue.items)))

    class ByNumber:
        def score(self, batch):
            return scores.expand(len(batch.lengths), -1).clone()

    for filtered in (True, False):
        got = target_ranks(
            ByNumber(),
            data,
            "test",
            12,
            EvalSettings(
                candidates="popular_100_any",
                filter_seen="yes" if filtered else "no",
            ),
        )
        for person in data.catalogue.users.rows:
            rivals = set(
                drawn[person - 1][~seen[person - 1]]
                if filtered
                else drawn[person - 1]
            )
            assert got[person - 1, 0] == 1 + sum(
                rival >= data.items[span(data, person, "test")[1]]
                for rival in rivals
            )


@pytest.mark.parametrize("kind", ["uniform_100", "popular_100"])
def test_candidates_are_unseen_and_the_same_for_everybody(data, kind):
    evaluation = EvalSettings(candidates=kind)
    drawn = draw_candidates(data, "test", evaluation)
    assert (drawn == draw_candidates(data, "test", evaluation)).all()
    assert (
        drawn.shape == (data.num_users, CANDIDATES)
        and drawn.min() >= ITEM_ROWS
    )
    for person in data.catalogue.users.rows:
        start, end = span(data, person, "test")
        assert not set(drawn[person - 1]) & set(data.items[start : end + 1])
    # Few films in this world: the rank among them is what the full ranking says of these very
    # films.
    model = fresh_model(data, VARIANTS["enhanced"]).frozen()
    scores = model.score(
        history_batch(
            [history_of(data, 3, span(data, 3, "test")[1])], data.catalogue, 12
        )
    )[0]
    rivals = scores[torch.from_numpy(np.unique(drawn[2]))]
    target = scores[int(data.items[span(data, 3, "test")[1]])]
    assert target_ranks(model, data, "test", 12, evaluation)[2, 0] == 1 + int(
        (rivals >= target).sum()
    )


def test_popular_candidates_are_popular():
    """With many films to choose from, a film is drawn more often the more often training has it."""
    sequences = [
        [1 + (7 * person + step) % (10 + step * 20) for step in range(30)]
        for person in range(200)
    ]
    many = from_sequences(
        [list(dict.fromkeys(sequence)) for sequence in sequences], 600
    )
    split = split_interactions(DataSettings(), many.offsets, many.times)
    many = many.replace(split=split)
    counts = np.bincount(many.items[many.training_rows()], minlength=602)
    uniform, popular = (
        draw_candidates(many, "test", EvalSettings(candidates=kind))
        for kind in ("uniform_100", "popular_100")
    )
    assert counts[popular].mean() > 2 * counts[uniform].mean()


def test_diverged_scores_are_an_error(data):
    class Broken:
        def score(self, batch):
            return torch.full(
                (len(batch.lengths), len(data.catalogue.items)), torch.nan
            )

    with pytest.raises(UserError, match="diverged"):
        target_ranks(Broken(), data, "test", 12, PLAIN)


def test_popularity_counts_training_interactions(data):
    scores = Popularity(data).counts
    assert int(scores[ITEM_ROWS:].sum()) == len(data.training_rows())


def test_interval_covers_the_mean():
    """95 % intervals of many samples hold the true mean about 95 % of the time, and match the
    normal width.
    """
    inside = []
    for seed in range(200):
        values = (rng(seed).random(300) < 0.3).astype(float)
        found = interval(values, 200, seed)
        low, high = found["low"], found["high"]
        inside.append(low <= 0.3 <= high)
    assert 0.9 <= np.mean(inside) <= 0.99
    assert high - low == pytest.approx(2 * 1.96 * (0.21 / 300) ** 0.5, rel=0.2)


def test_summary(data):
    """Also of the requests whose target has another time than the item before, and the same."""
    ends = data.split.requests["test"].ends
    users = len(ends)
    same = np.arange(users) % 3 == 0
    times = data.times.copy()
    times[ends[same]] = times[ends[same] - 1]
    data = data.replace(times=times)
    rank = rng(0).integers(1, 20, (users, 1))
    summary = summarise(rank, data, "test")
    assert summary["HR@10"]["mean"] == pytest.approx((rank <= 10).mean())
    assert summary["MRR"]["mean"] == pytest.approx((1 / rank).mean())
    gains = np.where(rank <= 10, 1 / np.log2(1 + rank), 0)[:, 0]
    assert summary["NDCG@10"]["mean"] == pytest.approx(gains.mean())
    parts = {"same timestamp": same, "different timestamp": ~same}
    for name, chosen in parts.items():
        found = summary[f"NDCG@10, {name}"]["mean"]
        assert found == pytest.approx(gains[chosen].mean())


def test_summary_without_times(data):
    untimed = data.replace(times=np.zeros_like(data.times))
    rank = np.ones((len(data.split.requests["test"]), 1), dtype=int)
    assert not any("time" in name for name in summarise(rank, untimed, "test"))


def test_protocol_line_says_what_a_number_means(data):
    line = protocol_line(data, "test", PLAIN)
    for part in (
        "leave-one-out",
        "full ranking of",
        "ties against",
        data.split_hash,
        "NOT MovieLens",
        "60 users",
    ):
        assert part in line
    line = protocol_line(
        data, "test", EvalSettings(candidates="popular_100", filter_seen="no")
    )
    assert "100 candidates beside the target, popular draw" in line
    assert "kept" in line


def test_value_yardsticks(data):
    entry, ends = (
        data.catalogue.interaction_fields["rating"],
        data.split.requests["test"].ends,
    )
    ratings = entry.numbers[data.columns["rating"] - 1]
    guesses = mean_predictors(entry, data, "test")
    chances = rng().dirichlet(np.ones(5), len(ends))
    found = value_quality("rating", chances, data, "test")
    for name, guess in {**guesses, "head": chances @ entry.numbers}.items():
        assert found[name]["RMSE"] == pytest.approx(
            root_mean_squared_error(ratings[ends], guess)
        )
        assert found[name]["MAE"] == pytest.approx(
            mean_absolute_error(ratings[ends], guess)
        )
    start, end = span(data, 4, "test")
    assert guesses["user mean"][3] == pytest.approx(ratings[start:end].mean())
    train, item = data.training_rows(), data.items[end]
    assert guesses["item mean"][3] == pytest.approx(
        ratings[train][data.items[train] == item].mean()
    )


def test_values_that_are_no_numbers_are_judged_by_cross_entropy():
    shop = other_data("shop")
    entry, requests = (
        shop.catalogue.interaction_fields["channel"],
        shop.split.requests["test"],
    )
    codes = shop.columns["channel"][requests.ends]
    chances = rng().dirichlet(np.ones(len(entry.values)), len(requests))
    known = codes > 0
    expected = -np.log(chances[known, codes[known] - 1]).mean()
    assert value_quality("channel", chances, shop, "test")["head"][
        "cross-entropy"
    ] == pytest.approx(expected)


def test_preference_yardstick_is_the_training_mean(data):
    """A head that always answers the constant must score as the constant does."""
    shares = data.catalogue.items.shares("genres")
    mean = shares[data.items[data.training_rows()]].mean(0)
    predicted = np.tile(mean, (len(data.split.requests["validation"]), 1))
    quality = preference_quality("genres", predicted, data, "validation")
    assert quality["head"] == pytest.approx(quality["constant"], abs=1e-3)


def test_repeats_stay_in_the_ranking_where_the_schema_says_so():
    shop = other_data("shop")
    model = fresh_model(shop, VARIANTS["enhanced"]).frozen()
    kept, asked, hidden = (
        target_ranks(model, shop, "test", 12, EvalSettings(filter_seen=how))
        for how in ("auto", "no", "yes")
    )
    assert (kept == asked).all() and (hidden != kept).any()


def test_of_several_targets_a_repeat_alone_is_last():
    """With the history taken out of the ranking: the other targets keep their own ranks."""
    flags = DataSettings(dataset="shop", protocol="multi5", min_user_count=8)
    data = process(shop(), flags)
    ranker, requests = Popularity(data), data.split.requests["test"]
    found = target_ranks(
        ranker, data, "test", 12, EvalSettings(filter_seen="yes")
    )
    scores, last = ranker.counts, len(data.catalogue.items.ids)
    pasts = data.histories(requests)
    mixed = 0
    for row, past, at in zip(found, pasts, requests.target_rows, strict=True):
        left = set(range(ITEM_ROWS, len(scores))) - set(past)
        targets = data.items[at]
        new = [item for item in targets if item in left]
        expected = [last] * (len(targets) - len(new))
        for place, item in enumerate(sorted(new, key=lambda i: -scores[i])):
            better = [scores[i] >= scores[item] for i in left - set(new)]
            expected.append(place + 1 + sum(better))
        assert row.tolist() == sorted(expected)
        mixed += 0 < len(new) < len(targets)
    assert mixed


def test_no_figure_of_a_head_without_a_known_target(data):
    """An empty mean would be written as NaN, which is no JSON."""
    requests = data.split.requests["test"]
    ratings = data.columns["rating"].copy()
    ratings[requests.ends] = 0
    nobody = data.replace(columns={**data.columns, "rating": ratings})
    number = len(data.catalogue.interaction_fields["rating"].values)
    chances = np.full((len(requests), number), 1 / number)
    assert value_quality("rating", chances, nobody, "test") == {}
