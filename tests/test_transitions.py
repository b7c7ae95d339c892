"""Counts that are added to a model's scores: what they are, how they are kept and weighed.

As a part of models: VARIANTS of conftest.py.
"""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import Ridge

import item_regression as regression_module
import pair_counts as counts_module
import rivals as rivals_module
import transitions as module
from blending import WEIGHTS, Search, decays_of, weigh
from data_processor import process
from dataset import ITEM_ROWS, NO_TIME
from evaluation.metrics import per_user
from evaluation.protocols import request_batches, target_ranks
from evaluation.slices import same_time
from growth import alike, for_catalogue
from item_regression import item_regression
from model_io import load_model, new_model, save_model
from pair_counts import REACH, SHARPNESS, transition_counts
from rivals import Collector
from settings import (
    DataSettings,
    EvalSettings,
    ModelSettings,
    Settings,
    TrainSettings,
)
from support.errors import UserError
from tests.conftest import (
    TINY_MODEL,
    VARIANTS,
    fresh_model,
    other_data,
    rng,
    shop,
    span,
)
from tests.test_models import request
from training_loop import fit
from transitions import SCALE, Transitions, pair_values

SETTINGS = Settings(
    model=ModelSettings(transitions=True, **TINY_MODEL),
    train=TrainSettings(batch_size=16, max_epochs=2, precision="fp32"),
)
DAY = 86_400


@pytest.fixture(scope="module")
def in_bursts(data):
    """Data in which several interactions of a user have the same time, or none."""
    times = data.times // (30 * DAY) * (30 * DAY)
    requests = data.split.requests["validation"]
    for row in (*requests.ends[:5], *range(0, len(times), 50)):
        times[row - 1 : row + 1] = NO_TIME
    assert 0.2 < (times[1:] == times[:-1]).mean() < 0.8
    return data.replace(times=times)


@pytest.fixture()
def drawn():
    """Values between 40 rows, those of PAD and MASK empty."""
    values = sparse.random(40, 40, density=0.3, rng=rng(4)).tolil()
    values[:ITEM_ROWS] = values[:, :ITEM_ROWS] = 0
    values[5:20] = -values[5:20]
    return values.tocsr()


def test_values_are_those_of_a_loop(in_bursts):
    """By loops over the histories, from the formulas."""
    data = in_bursts
    size = len(data.catalogue.items)
    counts = np.zeros((2, size, size))
    for user in data.catalogue.users.rows:
        start, end = span(data, user, "validation")
        for row in range(start, end):
            for other in range(row + 1, min(end, row + 11)):
                same = data.times[row] == data.times[other] != NO_TIME
                pair = data.items[row], data.items[other]
                counts[0 if same else 1][pair] += (other - row) ** -0.5
    assert counts[0].any() and counts[1].any()
    both = counts.sum(0)
    np.testing.assert_allclose(transition_counts(data).toarray(), both)
    last = SCALE * item_regression(data).toarray()
    follow = np.log1p(SHARPNESS * counts)
    expected = [*follow, last]
    for values, kind in zip(pair_values(data, 3), expected, strict=True):
        np.testing.assert_allclose(values.toarray(), kind)
    expected = [np.log1p(SHARPNESS * both), last]
    for values, kind in zip(pair_values(data, 2), expected, strict=True):
        np.testing.assert_allclose(values.toarray(), kind)


@pytest.mark.parametrize("similar", [5, 1000])
def test_the_regression_is_that_of_scikit_learn(data, monkeypatch, similar):
    """For each item: its most similar items predict which users have it."""
    monkeypatch.setattr(regression_module, "SIMILAR", similar)
    monkeypatch.setattr(regression_module, "RIDGE", 1.0)
    users = []
    for user in data.catalogue.users.rows:
        start, end = span(data, user, "validation")
        has = np.zeros(len(data.catalogue.items))
        has[data.items[start:end]] = 1
        users.append(has)
    seen = np.array(users)
    together = seen.T @ seen
    number = np.diag(together)
    found = item_regression(data).toarray()
    ridge = Ridge(alpha=1.0, fit_intercept=False, solver="cholesky")
    for item in range(ITEM_ROWS, len(number)):
        cosines = together[item] / np.sqrt(
            np.maximum(1, number * number[item])
        )
        cosines[item] = 0
        chosen = np.argsort(-cosines, kind="stable")[:similar]
        chosen = chosen[cosines[chosen] > 0]
        expected = np.zeros(len(number))
        if len(chosen):
            fitted = ridge.fit(seen[:, chosen], seen[:, item])
            expected[chosen] = fitted.coef_
        np.testing.assert_allclose(found[:, item], expected, atol=1e-9)
    assert (found < 0).any() and not np.diag(found).any()


def test_the_regression_counts_as_many_users_as_are_affordable(
    data, monkeypatch
):
    lengths = data.user_items().getnnz(axis=1)
    pairs = int((lengths**2).sum())
    monkeypatch.setattr(regression_module, "PAIRS", pairs)
    whole = item_regression(data)
    monkeypatch.setattr(regression_module, "PAIRS", pairs - 1)
    half = item_regression(data)
    assert (whole != half).nnz > 0
    matrix = data.user_items()[::2]
    monkeypatch.setattr(
        regression_module, "_together", lambda _: 2 * (matrix.T @ matrix)
    )
    assert (item_regression(data) != half).nnz == 0


def test_pairs_that_do_not_fit_are_counted_of_some_users(data, monkeypatch):
    size = len(data.catalogue.items)
    whole = transition_counts(data)
    monkeypatch.setattr(counts_module, "CELLS", size**2)
    assert (transition_counts(data) != whole).nnz == 0
    ends = data.split.train_ends.copy()
    ends[1::2] = data.offsets[:-1][1::2]
    split = dataclasses.replace(data.split, train_ends=ends)
    even = transition_counts(data.replace(split=split))
    assert 0 < even.nnz < whole.nnz
    # The tiny data have more pairs than cells.
    monkeypatch.setattr(counts_module, "CELLS", size**2 - 1)
    assert (transition_counts(data) != 2 * even).nnz == 0


def test_data_without_times_have_no_pairs_at_the_same_time(data):
    settings = VARIANTS["enhanced-transitions"]
    assert fresh_model(other_data("ids"), settings).transitions.kinds == 2
    assert fresh_model(data, settings).transitions.kinds == 3


def test_the_largest_pairs_are_kept(drawn, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 5)
    monkeypatch.setattr(module, "KEPT_LAST", 3)
    held = Transitions(40, kinds=2).hold([drawn, drawn.T.tocsr()])
    for kept, whole, number in zip(
        held.matrices(), (drawn, drawn.T), (5, 3), strict=True
    ):
        for row, all_of_it in zip(
            kept.toarray(), whole.toarray(), strict=True
        ):
            largest = np.sort(np.abs(all_of_it))[::-1][:number]
            kept_sizes = np.sort(np.abs(row))[::-1][:number]
            np.testing.assert_allclose(kept_sizes, largest, rtol=1e-3)
            assert (row != 0).sum() == (largest > 0).sum()
            there = row != 0
            np.testing.assert_allclose(row[there], all_of_it[there], rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["enhanced-transitions", "enhanced-known-time"]
)
def test_parts_add_up_to_the_whole(in_bursts, name):
    """Each is what the formula says, of the pairs of all kinds, by the case of the request."""
    held = fresh_model(in_bursts, VARIANTS[name]).transitions
    batch = request(in_bursts)
    parts = held.parts(batch)
    torch.testing.assert_close(parts.sum(1), held(batch))
    kinds = [
        torch.from_numpy(values.toarray())
        for values in pair_values(in_bursts, 3)
    ]
    known = VARIANTS[name].query_time == "known"
    cases = []
    for row, length in enumerate(batch.lengths.tolist()):
        moment, asked = (
            int(times[row, length - 1])
            for times in (batch.times, batch.request_times)
        )
        case = int(known and moment == asked != NO_TIME)
        cases.append(case)
        newest = batch.items[row, :length].flip(0)
        for age, item in enumerate(newest):
            expected = torch.zeros(len(kinds[0]))
            for kind, values in enumerate(kinds):
                factor = held.weight[case, kind]
                if kind < 2:
                    factor = factor * held.decay[case, kind] ** age
                if age < REACH or kind == 2:
                    expected += factor * values[item]
            torch.testing.assert_close(
                parts[row, age], expected, rtol=1e-3, atol=1e-3
            )
        assert not parts[row, length:].any()
    assert batch.lengths.max() > REACH
    assert len(set(cases)) == (2 if known else 1)


def test_what_was_counted_is_saved_and_loaded(data, tmp_path):
    """Also where copies of the weights are shared, and where there are no pairs at all."""
    settings = Settings(model=VARIANTS["enhanced-transitions"])
    settings = settings.replace(dataset="synthetic")
    model = fresh_model(data, settings.model)
    batch = request(data)
    for name in ("counted", "empty"):
        if name == "empty":
            model.transitions.clear()
        save_model(tmp_path / name, model, settings, data, {})
        for copies in (None, str(tmp_path)):
            same = load_model(tmp_path / name, copies).model
            assert torch.equal(
                same.frozen().score(batch), model.frozen().score(batch)
            )


DAMAGES = {
    "items too high": ("items", lambda items: items + 10**6),
    "items below 0": ("items", lambda items: items - 10),
    "no numbers": ("values", lambda values: values * torch.nan),
    "too small": ("values", lambda values: values - 1e38),
    "too large": ("values", lambda values: values + 1e38),
    "values too few": ("values", lambda values: values[1:]),
    "starts fall": ("starts", lambda starts: starts.flip(0)),
    "starts too far": ("starts", lambda starts: starts * 2),
    "no weight": ("weight", lambda weight: weight * torch.nan),
    "weight below 0": ("weight", lambda weight: -weight),
    "grows with age": ("decay", lambda decay: decay + 1),
    "no decay": ("decay", lambda decay: decay * torch.nan),
    "starts not at 0": ("starts", lambda starts: starts + 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_pairs_that_cannot_be_are_refused(data, tmp_path, damage):
    settings = Settings(model=VARIANTS["enhanced-transitions"])
    model = fresh_model(data, settings.model)
    name, change = DAMAGES[damage]
    setattr(model.transitions, name, change(getattr(model.transitions, name)))
    save_model(tmp_path / "broken", model, settings, data, {})
    with pytest.raises(UserError, match="none of this catalogue"):
        load_model(tmp_path / "broken")


class Shifted:
    """A ranker and counts, added outside of any model."""

    starts = True

    def __init__(self, base, held):
        self.base, self.held = base, held

    def score(self, batch):
        return self.base.score(batch) + self.held(batch)


def test_a_batch_has_the_cases_that_its_requests_are_weighed_by(in_bursts):
    requests = in_bursts.split.requests["validation"]
    held = Transitions(len(in_bursts.catalogue.items), 3, 2)
    same = same_time(in_bursts, "validation")
    unknown = in_bursts.times[requests.ends] == NO_TIME
    unknown &= in_bursts.times[requests.ends - 1] == NO_TIME
    assert unknown.any() and not same[unknown].any()
    for chosen, _, batch in request_batches(in_bursts, requests, 12):
        assert held.case_of(batch).tolist() == same[chosen].tolist()


@pytest.mark.parametrize("cases", [1, 2])
def test_the_last_weight_chosen_is_the_best(in_bursts, cases):
    """Every weight of the last kind ranked alone, beside what was chosen for the others."""
    data = in_bursts
    base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    held = Transitions(len(data.catalogue.items), 3, cases)
    found = weigh(held, base, data, SETTINGS)
    requests = data.split.requests["validation"]
    before, asked = data.times[requests.ends - 1], data.times[requests.ends]
    same = (before == asked) & (asked != NO_TIME)
    assert same.any() and not same.all()
    for case in range(cases):
        flags = same == case if cases == 2 else np.ones(len(same), bool)
        users, scores = requests.users[flags], {}
        chosen = held.weight[case, -1].item()
        for weight in WEIGHTS:
            held.weight[case, -1] = weight
            rank = target_ranks(
                Shifted(base, held), data, "validation", 12, EvalSettings()
            )
            quality = per_user(rank[flags], users)["NDCG@10"].mean()
            scores[held.weight[case, -1].item()] = quality
        held.weight[case, -1] = chosen
        assert scores[chosen] == max(scores.values())
    assert held.weight.any()
    assert found["weight"] == held.weight.tolist()


def of_several_targets():
    """Items repeat, and are hidden here; five targets a user."""
    flags = DataSettings(dataset="shop", protocol="multi5", min_user_count=8)
    return process(shop(), flags)


@pytest.mark.parametrize("filter_seen", ["no", "yes"])
@pytest.mark.parametrize("which", ["in_bursts", "several"])
def test_what_a_trial_holds_is_enough_for_its_quality(
    which, filter_seen, request
):
    """NDCG@10 with some weights, as when all items are ranked."""
    if which == "several":
        data = of_several_targets()
    else:
        data = request.getfixturevalue(which)
    settings = SETTINGS.replace(filter_seen=filter_seen)
    base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    held = Transitions(len(data.catalogue.items), 3)
    held.hold(pair_values(data, 3))
    requests = data.split.requests["validation"]
    collector = Collector(
        held, decays_of(3), base, data, settings, torch.device("cpu")
    )
    trial = Search(collector.affordable(requests), decays_of(3))
    draw, shown = rng(5), []
    for _ in range(10):
        pairs = [
            (draw.choice(WEIGHTS[::3]), draw.choice(decays))
            for decays in decays_of(3)
        ]
        for kind, (weight, decay) in enumerate(pairs):
            held.weight[0, kind] = weight
            if kind < 2:
                held.decay[0, kind] = decay
        rank = target_ranks(
            Shifted(base, held), data, "validation", 12, settings.eval
        )
        expected = per_user(rank, requests.users)["NDCG@10"].mean()
        found = trial.quality(pairs)
        assert found == pytest.approx(expected, abs=1e-9)
        assert found == pytest.approx(trial.qualities(1, pairs)[pairs[1]])
        shown.append(found)
    assert len(set(shown)) > 5


def test_never_worse_on_validation_than_without_counts(data):
    """Whatever the model; a search of one kind after the other could end lower."""
    requests = data.split.requests["validation"]
    for seed in range(5):
        torch.manual_seed(seed)
        base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
        held = Transitions(len(data.catalogue.items))
        weigh(held, base, data, SETTINGS)
        quality = [
            per_user(
                target_ranks(ranker, data, "validation", 12, EvalSettings()),
                requests.users,
            )["NDCG@10"].mean()
            for ranker in (Shifted(base, held), base)
        ]
        assert quality[0] >= quality[1]


@pytest.mark.parametrize(("name", "most"), [("REQUESTS", 20), ("RIVALS", 900)])
def test_some_of_many_requests_choose_the_weight(
    data, monkeypatch, name, most
):
    """As many as are affordable, spread evenly."""
    monkeypatch.setattr(rivals_module, name, most)
    monkeypatch.setattr(rivals_module, "SAMPLE", 10)
    base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    held = Transitions(len(data.catalogue.items))
    held.hold(pair_values(data, 2))
    collector = Collector(
        held, decays_of(2), base, data, SETTINGS, torch.device("cpu")
    )
    requests = data.split.requests["validation"]
    rivals = collector.affordable(requests)
    assert 10 <= len(rivals.users) < len(requests)
    steps = np.diff(np.sort(rivals.users))
    assert steps.min() > 1 and steps.max() - steps.min() <= 1
    if name == "RIVALS":
        assert len(rivals.request) < 1.5 * most


def test_training_itself_does_not_change(data):
    """The same weights with counts and without; the record is of both together."""
    found = {}
    for switch in (False, True):
        settings = SETTINGS.replace(transitions=switch)
        torch.manual_seed(0)
        model = new_model(data, settings.model)
        records = []
        progress = fit(
            model,
            data,
            settings,
            quiet=True,
            on_best=lambda _, record, kept=records: kept.append(dict(record)),
        )
        found[switch] = model, progress, records
    plain, counted = found[False][0], found[True][0]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, counted.state_dict()[name]), name
    record = found[True][1].best
    assert record == found[True][2][-1]
    assert record["NDCG@10"] >= found[False][1].best["NDCG@10"]
    rank = target_ranks(
        counted.frozen(), data, "validation", 12, EvalSettings()
    )
    users = data.split.requests["validation"].users
    assert per_user(rank, users)["NDCG@10"].mean() == record["NDCG@10"]


def test_counts_are_of_the_training_part(data):
    """What is held out may be anything."""
    changed = data.items.copy()
    for until in ("validation", "test"):
        changed[data.split.requests[until].target_rows] = ITEM_ROWS
    other = transition_counts(data.replace(items=changed))
    assert (other != transition_counts(data)).nnz == 0


def test_a_new_item_follows_what_items_like_it_follow(data):
    """Its row and its column are the means of theirs: of all that share most tags with it, where
    the model reads no columns."""
    settings = dataclasses.replace(
        VARIANTS["enhanced-ids-only"], transitions=True
    )
    model = fresh_model(data, settings)
    items = data.catalogue.items
    new = items.with_row(10**6, "New", items.readable(items.first + 7))
    larger = dataclasses.replace(data.catalogue, items=new)
    grown = for_catalogue(model, larger)
    shares = np.zeros(len(items))
    shares[items.first :] = alike(
        new, np.array([len(items.ids)]), torch.arange(len(items.ids))
    )
    for values, grown_values in zip(
        model.transitions.matrices(), grown.transitions.matrices(), strict=True
    ):
        before, after = values.toarray(), grown_values.toarray()
        np.testing.assert_array_equal(after[:-1, :-1], before)
        np.testing.assert_allclose(after[:-1, -1], before @ shares, rtol=1e-3)
        np.testing.assert_allclose(after[-1, :-1], shares @ before, rtol=1e-3)
        mean = shares @ before @ shares
        assert after[-1, -1] == pytest.approx(mean, rel=1e-3)
        assert not before.any() or (after[-1].any() and after[:, -1].any())
    for name in ("weight", "decay"):
        assert torch.equal(
            getattr(grown.transitions, name), getattr(model.transitions, name)
        )


def test_a_second_run_begins_without_counts(data):
    """As the first did: what it selects by is the model alone."""
    torch.manual_seed(0)
    model = new_model(data, SETTINGS.model)
    fit(model, data, SETTINGS, quiet=True)
    pairs = []
    fit(
        model,
        data,
        SETTINGS,
        quiet=True,
        on_best=lambda model, _: pairs.append(
            int(model.transitions.starts[-1])
        ),
    )
    assert pairs[0] == 0 and pairs[-1] > 0


def test_an_item_like_all_others_has_no_transitions(data, monkeypatch):
    """Nothing tells which ones it is like; the mean of all would be a table of all pairs."""
    monkeypatch.setattr("growth.MOST_ALIKE", 5)
    settings = dataclasses.replace(
        VARIANTS["enhanced-ids-only"], transitions=True
    )
    model = fresh_model(data, settings)
    new = data.catalogue.items.with_row(10**6, "New", {})
    larger = dataclasses.replace(data.catalogue, items=new)
    grown = for_catalogue(model, larger).transitions
    for values, before in zip(
        grown.matrices(), model.transitions.matrices(), strict=True
    ):
        after = values.toarray()
        assert not after[-1].any() and not after[:, -1].any()
        np.testing.assert_array_equal(after[:-1, :-1], before.toarray())
