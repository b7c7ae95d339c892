"""Views for contrastive learning: what each keeps of a history, and that none sees what is to be predicted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import enhanced_model
import training_loop
from batches import TrainingBatches
from data_processor import MASK, PAD, UNKNOWN
from losses import BALANCED, contrastive_loss
from settings import TrainSettings
from tests.conftest import ALL_TASKS, VARIANTS, fresh_model, rng, span, tiny_settings
from training_loop import fit
from views import FORMS, Views, last_targets

KINDS = ["mixed", "same_target", *FORMS]


def batch_of(data, size=32):
    return next(TrainingBatches(data, 12, TrainSettings(batch_size=size), 0.0).epoch(0))


def views_of(data, kind, batch, seed=0):
    return Views(kind, data, data.training_rows(), 12).of(batch, rng(seed))


def rows(batch):
    """Each history as a list of (film, rating)."""
    return [list(zip(items[:length], ratings[:length], strict=True)) for items, ratings, length in
            zip(batch.items.tolist(), batch.ratings.tolist(), batch.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_histories_of_nobody_in_particular(data, kind):
    batch = batch_of(data)
    pair = views_of(data, kind, batch)
    for view in pair:
        assert (view.users == UNKNOWN).all() and (view.demographics == UNKNOWN).all()
        assert view.lengths.min() >= 1 and len(view.lengths) == len(batch.lengths)
        assert ((view.items != PAD) == (torch.arange(view.items.shape[1]) < view.lengths[:, None])).all()
    assert rows(pair[0]) != rows(pair[1])
    again = views_of(data, kind, batch)
    assert all(torch.equal(left.items, right.items) for left, right in zip(pair, again, strict=True))
    assert rows(views_of(data, kind, batch, seed=1)[1]) != rows(pair[1])


def test_what_each_form_keeps(data):
    batch = batch_of(data)
    cropped, masked, shuffled = (FORMS[name](batch, rng()) for name in ("crop", "mask", "reorder"))
    for whole, part in zip(rows(batch), rows(cropped), strict=True):
        places = [start for start in range(len(whole)) if whole[start:start + len(part)] == part]
        assert places and len(part) == max(1, int(0.6 * len(whole)))
    hidden = masked.items == MASK
    assert torch.equal(masked.items[~hidden], batch.items[~hidden]) and (masked.ratings[hidden] == 0).all()
    assert 0.2 < float(hidden.sum() / batch.lengths.sum()) < 0.4
    moved = 0
    for whole, other in zip(rows(batch), rows(shuffled), strict=True):
        changed = [place for place, (left, right) in enumerate(zip(whole, other, strict=True)) if left != right]
        assert sorted(whole) == sorted(other) and (not changed or changed[-1] - changed[0] < 0.6 * len(whole))
        moved += len(changed)
    assert moved and torch.equal(shuffled.timestamps, batch.timestamps)


def test_other_histories_led_to_the_same_film_in_training(data):
    """No view holds a held-out interaction or the film that it leads to."""
    held = {(person, int(data.items[end])) for person in range(data.num_users)
            for end in (span(data, person, "validation")[1], span(data, person, "test")[1])}
    for batch in TrainingBatches(data, 12, TrainSettings(batch_size=16), 0.0).epoch(0):
        mine, other = views_of(data, "same_target", batch)
        assert torch.equal(mine.items, batch.items)
        for target, history in zip(last_targets(batch).tolist(), rows(other), strict=True):
            films = [film for film, _ in history]
            leads = [(person, end) for person in range(data.num_users)
                     for end in range(data.offsets[person] + 1, span(data, person, "validation")[1])
                     if data.items[end] == target
                     and data.items[max(data.offsets[person], end - 12):end].tolist() == films]
            assert leads and not any((person, film) in held for person, _ in leads for film in films)


def test_contrastive_loss_is_cross_entropy_of_cosines():
    torch.manual_seed(0)
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    cosine = F.cosine_similarity(first[:, None], second[None], dim=-1) / 0.3
    expected = (F.cross_entropy(cosine, torch.arange(6)) + F.cross_entropy(cosine.T, torch.arange(6))) / 2
    assert float(contrastive_loss(first, second, torch.arange(6), 0.3)) == pytest.approx(float(expected), rel=1e-5)
    pair = contrastive_loss(first[:2], second[:2], torch.tensor([3, 3]), 0.3)  # the only rival is one of its own
    assert float(pair) == pytest.approx(0.0, abs=1e-6)


def test_mixed_views_mix_within_a_batch(data):
    """Each history takes one of the forms."""
    batch = batch_of(data)
    (view, _), found = views_of(data, "mixed", batch), set()
    for whole, mine, masked in zip(rows(batch), rows(view), (view.items == MASK).any(1).tolist(), strict=True):
        form = "mask" if masked else "crop" if len(mine) < len(whole) else "reorder"
        found.add(form)
        if form == "crop":
            assert any(whole[start:start + len(mine)] == mine for start in range(len(whole)))
        if form == "reorder":
            assert sorted(mine) == sorted(whole)
    assert found == set(FORMS)


def test_views_have_a_stream_of_their_own(data, tmp_path, monkeypatch):
    """What is hidden of a batch says nothing of how its views are cut, nor does one batch's cut of another's."""
    drawn = []
    monkeypatch.setattr(Views, "of", lambda self, batch, noise: drawn.append(noise.random()) or (batch, batch))
    settings = tiny_settings(tmp_path, VARIANTS["enhanced"], contrastive_weight=0.1, masked_item_weight=0.0,
                             batch_size=16, max_epochs=2)
    fit(fresh_model(data, settings.model), data, settings, quiet=True)
    batches = TrainingBatches(data, settings.model.seq_length, settings.train, 0.0)
    hidden = [np.random.default_rng((settings.train.seed, epoch, number)).random()
              for epoch in range(2) for number in range(len(batches))]
    assert len(drawn) == 2 * len(batches) == len({*drawn, *hidden}) / 2


def test_a_batch_with_views_is_one_part(data, tmp_path, monkeypatch):
    """Each history is told from all the others of its batch, however few positions a part may hold."""
    batch = batch_of(data)
    assert len(batch.parts(100)) > 1
    settings, compared = tiny_settings(tmp_path, VARIANTS["enhanced"], contrastive_weight=0.1, batch_size=16,
                                       masked_item_weight=0.0, max_epochs=1), []
    monkeypatch.setattr(enhanced_model, "contrastive_loss", lambda first, second, groups, temperature: (
        compared.append(len(first)) or contrastive_loss(first, second, groups, temperature)))
    monkeypatch.setitem(training_loop.PART_POSITIONS, "cpu", 100)
    fit(fresh_model(data, settings.model), data, settings, quiet=True)
    sizes = [len(batch.lengths) for batch in TrainingBatches(data, settings.model.seq_length, settings.train,
                                                             0.0).epoch(0)]
    assert compared == sizes and max(sizes) == 16


def test_what_is_compared_are_the_states_that_predict_what_follows_two_views(data):
    model = fresh_model(data, dataclasses.replace(VARIANTS["enhanced"], contrastive_temperature=0.3))
    batch = batch_of(data)
    batch = batch.replace(views=views_of(data, "crop", batch))
    states = [model.request_states(view) for view in batch.views]
    assert not torch.allclose(*states)
    expected = contrastive_loss(*states, torch.tensor([row[row != PAD][-1] for row in batch.targets]), 0.3)
    torch.testing.assert_close(model(batch, {"contrastive"})["contrastive"], expected)


def test_balanced_loss_weighs_by_learned_uncertainty(data):
    settings = dataclasses.replace(VARIANTS["enhanced"], task_weighting="uncertainty")
    model, batch = fresh_model(data, settings), batch_of(data)
    batch = batch.replace(views=views_of(data, "crop", batch))
    losses = model(batch, ALL_TASKS | {"contrastive"})
    assert set(losses) == {"next_item", "rating", "preference", "contrastive", BALANCED}
    scale = {task: value.item() for task, value in model.log_variance.items()}
    expected = sum(np.exp(-scale[task]) * loss.item() + scale[task] / 2 for task, loss in losses.items()
                   if task != BALANCED)
    assert losses[BALANCED].item() == pytest.approx(expected, rel=1e-5)
    losses[BALANCED].backward()
    grad = float(model.log_variance["rating"].grad)
    assert grad == pytest.approx(0.5 - np.exp(-scale["rating"]) * losses["rating"].item(), rel=1e-4)
