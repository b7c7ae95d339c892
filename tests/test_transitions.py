"""Counts that are added to a model's scores: what they are, how they are kept and weighed.

Against a double loop: tests/test_baselines.py. As a part of models: VARIANTS of conftest.py.
"""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

import blending
import transitions as module
from blending import SHARPNESS, WEIGHTS, blended
from dataset import ITEM_ROWS
from evaluation.metrics import per_user
from evaluation.protocols import target_ranks
from growth import alike, for_catalogue
from model_io import load_model, new_model, save_model
from settings import EvalSettings, ModelSettings, Settings, TrainSettings
from support.errors import UserError
from tests.conftest import TINY_MODEL, VARIANTS, fresh_model, rng
from tests.test_models import request
from training_loop import fit
from transitions import REACH, TAIL, Transitions, transition_counts

SETTINGS = Settings(
    model=ModelSettings(transitions=True, **TINY_MODEL),
    train=TrainSettings(batch_size=16, max_epochs=2, precision="fp32"),
)


@pytest.fixture()
def drawn():
    """Values between 40 rows, those of PAD and MASK empty."""
    values = sparse.random(40, 40, density=0.3, rng=rng(4)).tolil()
    values[:ITEM_ROWS] = values[:, :ITEM_ROWS] = 0
    return values.tocsr()


def test_the_largest_pairs_are_kept(drawn, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 5)
    kept = Transitions(40).hold_values(drawn).matrix().toarray()
    for row, whole in zip(kept, drawn.toarray(), strict=True):
        largest = np.sort(whole)[::-1][:5]
        np.testing.assert_allclose(np.sort(row)[::-1][:5], largest, rtol=1e-6)
        assert (row > 0).sum() == (largest > 0).sum()


def test_parts_add_up_to_the_whole(data):
    held = fresh_model(data, VARIANTS["enhanced-transitions"]).transitions
    batch = request(data)
    parts = held.parts(batch)
    torch.testing.assert_close(parts.sum(1), held(batch))
    values = torch.from_numpy(held.matrix().toarray())
    for row in range(len(batch.items)):
        newest = batch.items[row, : batch.lengths[row]].flip(0)[:REACH]
        for age, item in enumerate(newest):
            torch.testing.assert_close(
                parts[row, age], values[item] * TAIL**age
            )
        assert not parts[row, len(newest) :].any()


def test_what_was_counted_is_saved_and_loaded(data, tmp_path):
    """Also where copies of the weights are shared, and where there are no pairs at all."""
    settings = Settings(model=VARIANTS["enhanced-transitions"])
    settings = settings.replace(dataset="synthetic")
    model = fresh_model(data, settings.model)
    batch = request(data)
    for name in ("counted", "empty"):
        if name == "empty":
            model.transitions.hold_values(
                sparse.csr_matrix((model.transitions.rows,) * 2)
            )
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
    "below 0": ("values", lambda values: -values),
    "too large": ("values", lambda values: values + 1e38),
    "values too few": ("values", lambda values: values[1:]),
    "starts fall": ("starts", lambda starts: starts.flip(0)),
    "starts too far": ("starts", lambda starts: starts * 2),
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


def test_the_weight_is_the_best_on_validation(data):
    """Every pair ranked alone."""
    base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    _, found = blended(base, data, SETTINGS)
    counts, rows = transition_counts(data), len(data.catalogue.items)
    users, scores = data.split.requests["validation"].users, {}
    for weight in WEIGHTS:
        for sharpness in SHARPNESS:
            held = Transitions(rows).hold(counts, weight, sharpness)
            rank = target_ranks(
                Shifted(base, held), data, "validation", 12, EvalSettings()
            )
            scores[weight, sharpness] = per_user(rank, users)["NDCG@10"].mean()
    best = scores[found["weight"], found["sharpness"]]
    assert best == pytest.approx(max(scores.values()))
    assert best > scores[0.0, 1.0]


def test_some_of_many_requests_choose_the_weight(data, monkeypatch):
    asked = []
    monkeypatch.setattr(blending, "REQUESTS", 20)
    within = blending.ranks_within
    monkeypatch.setattr(
        blending,
        "ranks_within",
        lambda scores, data, part, hides: (
            asked.extend(part.users) or within(scores, data, part, hides)
        ),
    )
    base = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    blended(base, data, SETTINGS, weights=(1.0,))
    assert len(set(asked)) == 20
    assert len(asked) == 20 * len(SHARPNESS)


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
    before = model.transitions.matrix().toarray()
    after = grown.transitions.matrix().toarray()
    np.testing.assert_array_equal(after[:-1, :-1], before)
    shares = np.zeros(len(items))
    shares[items.first :] = alike(
        new, np.array([len(items.ids)]), torch.arange(len(items.ids))
    )
    np.testing.assert_allclose(after[:-1, -1], before @ shares, rtol=1e-5)
    np.testing.assert_allclose(after[-1, :-1], shares @ before, rtol=1e-5)
    assert after[-1, -1] == pytest.approx(shares @ before @ shares, rel=1e-5)
    assert after[-1].any() and after[:, -1].any()


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
        on_best=lambda model, _: pairs.append(model.transitions.matrix().nnz),
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
    after = for_catalogue(model, larger).transitions.matrix().toarray()
    assert not after[-1].any() and not after[:, -1].any()
    np.testing.assert_array_equal(
        after[:-1, :-1], model.transitions.matrix().toarray()
    )
