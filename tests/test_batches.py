"""Batches: windows, masks, what each position is told and what it must predict."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import training_batches
from batches import (
    History,
    append_mask,
    history_batch,
    history_of,
)
from dataset import MASK, PAD
from settings import TrainSettings
from tests.conftest import rng, span
from training_batches import TrainingBatches, cloze_mask, visible_times

PLAIN = TrainSettings(batch_size=8)


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    """Side information stays in training batches."""
    monkeypatch.setattr(training_batches, "CONTEXT_DROPOUT", 0.0)
    monkeypatch.setattr(training_batches, "USER_ID_DROPOUT", 0.0)


def same(left, right):
    return left.pattern == right.pattern and all(
        torch.equal(value, right.tensors()[name])
        for name, value in left.tensors().items()
    )


def test_causal_positions_predict_the_following_interaction(data):
    seen = 0
    for batch in TrainingBatches(data, 12, PLAIN, 0.0).epoch(0):
        for row in range(len(batch.lengths)):
            user, length = int(batch.users[row]), int(batch.lengths[row])
            start, end = span(data, user, "validation")
            window = slice(max(start, end - 13), end)
            items = torch.from_numpy(data.items[window])
            assert torch.equal(batch.items[row, :length], items[:-1])
            assert torch.equal(batch.targets[row, :length], items[1:])
            assert torch.equal(
                batch.target_columns["rating"][row, :length],
                torch.from_numpy(data.columns["rating"][window])[1:],
            )
            assert torch.equal(
                batch.request_times[row, :length],
                torch.from_numpy(data.times[window])[1:],
            )
            assert (batch.targets[row, length:] == PAD).all() and (
                batch.items[row, length:] == PAD
            ).all()
            seen += 1
    assert seen == data.num_users


def test_training_never_holds_a_held_out_interaction(data):
    held_out = {
        (user, int(data.items[row]))
        for until in ("validation", "test")
        for user, row in zip(
            data.split.requests[until].users,
            data.split.requests[until].ends,
            strict=True,
        )
    }
    for share in (0.0, 1.0):
        for batch in TrainingBatches(data, 12, PLAIN, share).epoch(0):
            for row, user in enumerate(batch.users.tolist()):
                shown = set(batch.items[row].tolist()) | set(
                    batch.targets[row].tolist()
                )
                assert not {(user, item) for item in shown} & held_out


@pytest.mark.parametrize(
    "masking", [{}, {"masking": "late"}, {"last_mask_share": 0.8}]
)
def test_cloze_replaces_item_rating_and_time(data, masking):
    for batch in TrainingBatches(
        data, 12, dataclasses.replace(PLAIN, **masking), 1.0
    ).epoch(0):
        masked = batch.items == MASK
        assert batch.pattern == "bidirectional" and batch.items.shape[1] <= 12
        assert (
            torch.equal(masked, batch.targets != PAD) and masked.any(1).all()
        )
        assert (batch.columns["rating"][masked] == 0).all()
        assert (batch.request_times[~masked] == 0).all()


def test_kinds_of_batch_alternate_by_share(data):
    made = TrainingBatches(data, 12, PLAIN, 0.25)
    kinds = [
        batch.pattern for epoch in range(4) for batch in made.epoch(epoch)
    ]
    assert kinds.count("bidirectional") == len(kinds) // 4


def test_epochs_are_a_function_of_seed_epoch_and_step(data):
    made = TrainingBatches(data, 12, TrainSettings(batch_size=8), 0.5)
    first, again = list(made.epoch(3)), list(made.epoch(3))
    assert all(map(same, first, again))
    assert all(map(same, first[2:], made.epoch(3, first_step=2)))
    assert not all(map(same, first, made.epoch(4)))
    train = TrainSettings(batch_size=8)
    halves = [
        list(TrainingBatches(data, 12, train, 0.5, rank=rank, world=2).epoch(3))
        for rank in (0, 1)
    ]
    assert len(halves[0]) == len(halves[1]) == len(first) // 2
    users = [
        set(batch.users.tolist()) - {0} for half in halves for batch in half
    ]
    assert sum(map(len, users)) == len(set().union(*users))  # nobody twice


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_the_interactions_evenly(data, world):
    """Each reads the windows of a run of users, in batches of as many tokens as the others."""
    train = TrainSettings(
        batch_tokens=64, sliding_window=True, late_start_share=0.0
    )
    made = [
        TrainingBatches(data, 12, train, 0.0, rank=rank, world=world)
        for rank in range(world)
    ]
    found = [list(one.epoch(0)) for one in made]
    assert {len(batches) for batches in found} == {made[0].steps}
    alone = TrainingBatches(data, 12, train, 0.0)
    for name in ("users", "starts", "ends"):
        windows = np.concatenate([getattr(one, name) for one in made])
        assert np.array_equal(windows, getattr(alone, name))
    for one, other in itertools.pairwise(made):
        assert one.users[-1] < other.users[0]
    tokens = [sum(batch.tokens for batch in batches) for batches in found]
    assert max(tokens) < 1.1 * min(tokens)
    whole = len(list(alone.epoch(0)))
    assert whole - 2 * world <= world * made[0].steps <= whole + world


@pytest.mark.parametrize("world", [2, 5])
def test_batches_of_a_step_are_of_similar_length_in_all_processes(
    real_data, world
):
    """Else the others wait for the one with the longest histories."""
    train = TrainSettings(
        batch_size=512,
        batch_tokens=1024,
        sliding_window=True,
        late_start_share=0.5,
    )
    for epoch in (0, 3):
        widths = []
        for rank in range(world):
            made = TrainingBatches(
                real_data, 200, train, 0.0, rank=rank, world=world
            )
            widths.append(
                [batch.items.shape[1] for batch in made.epoch(epoch)]
            )
        spread = np.ptp(widths, axis=0)
        assert spread.mean() < 0.05 * np.mean(widths)


@pytest.mark.parametrize("tokens", [0, 64])
def test_every_person_once_and_limits_kept(data, tokens):
    train = TrainSettings(batch_size=8, batch_tokens=tokens)
    made = list(TrainingBatches(data, 12, train, 0.0).epoch(0))
    users = [user for batch in made for user in batch.users.tolist()]
    assert sorted(users) == data.catalogue.users.rows.tolist()
    assert all(len(batch.users) <= 8 for batch in made)
    assert not tokens or all(batch.items.numel() <= tokens for batch in made)


def test_sliding_windows_cover_everything(data):
    train = TrainSettings(batch_size=8, sliding_window=True)
    targets = {user: set() for user in data.catalogue.users.rows.tolist()}
    for batch in TrainingBatches(data, 12, train, 0.0).epoch(0):
        for row, user in enumerate(batch.users.tolist()):
            targets[user] |= set(batch.targets[row].tolist()) - {PAD}
    for user, films in targets.items():
        start, end = span(data, user, "validation")
        assert films == set(data.items[start + 1 : end].tolist())


def test_context_dropout_hides_the_stated_share(data, monkeypatch):
    monkeypatch.setattr(training_batches, "CONTEXT_DROPOUT", 0.5)
    monkeypatch.setattr(training_batches, "USER_ID_DROPOUT", 1.0)
    made = TrainingBatches(data, 12, TrainSettings(batch_size=64), 0.0)
    found = [batch for epoch in range(20) for batch in made.epoch(epoch)]
    for name in ("columns.rating", "times", "user_columns.age"):
        parts = [
            (batch.tensors()[name].reshape(len(batch.users), -1) == 0).all(1)
            for batch in found
        ]
        assert 0.4 < torch.cat(parts).float().mean() < 0.6
    assert all((batch.users == 0).all() for batch in found)


@pytest.mark.parametrize("cloze", [0.0, 1.0])
def test_late_starts_are_ends_of_the_same_windows(data, cloze):
    """The stated share begins later, by somebody unknown; each still ends where it did, and the
    others are as they were. Short ends are as frequent as long ones."""
    late_too, left, share = (
        dataclasses.replace(PLAIN, late_start_share=0.5),
        [],
        [],
    )
    trained = data.train_lengths

    def rows(train, epoch):
        for batch in TrainingBatches(data, 12, train, cloze).epoch(epoch):
            items = torch.where(
                batch.items == MASK, batch.targets, batch.items
            )
            times = torch.where(
                batch.items == MASK, batch.request_times, batch.times
            )
            for row, length in enumerate(batch.lengths.tolist()):
                told = [
                    items[row],
                    times[row],
                    *([] if cloze else [batch.targets[row]]),
                ]
                yield (
                    tuple(
                        zip(
                            *(part[:length].tolist() for part in told),
                            strict=True,
                        )
                    ),
                    batch.users[row].item(),
                    batch.user_columns["age"][row],
                    bool(batch.whole[row]),
                )

    whole = list(rows(PLAIN, 0))
    of_end = {
        window[place:]: (window, user, facts)
        for window, user, facts, _ in whole
        for place in range(len(window))
    }
    # no two alike
    assert len(whole) == data.num_users and len(of_end) == sum(
        len(window) for window, *_ in whole
    )
    for epoch in range(20):
        ends = set()
        for window, user, facts, complete in rows(late_too, epoch):
            full, person, known = of_end[window]
            late = user == 0
            assert torch.equal(facts, known) and (
                late or (user == person and window == full)
            )
            # causal: one film more than the model reads
            fits = trained[person] <= (12 if cloze else 13)
            assert complete == (fits and window == full)
            ends.add(person)
            share.append(late)
            left += [len(window) + 1] * (
                late and len(full) == 12 and not cloze
            )
        assert len(ends) == data.num_users  # each once
    assert 0.47 < np.mean(share) < 0.53
    if not cloze:
        assert 400 < len(left) < 800 and min(left) == 2
        # of 2, 3, ... 12 left of 13
        chance = np.log(np.arange(3, 14) / np.arange(2, 13)) / np.log(13 / 2)
        np.testing.assert_allclose(
            np.bincount(left, minlength=13)[2:] / len(left), chance, atol=0.06
        )


def test_batches_are_of_windows_of_similar_length_after_late_starts(real_data):
    """Little padding, and limits kept, exactly in the first epoch and nearly in others."""
    train = TrainSettings(
        late_start_share=0.5, batch_size=512, batch_tokens=6400
    )
    made = TrainingBatches(real_data, 200, train, 0.0)
    for epoch in (0, 1, 17):
        found = list(made.epoch(epoch))
        assert (
            len(found) == len(made)
            and sum(len(batch.users) for batch in found) == real_data.num_users
        )
        assert (
            max(
                batch.items.numel() if epoch == 0 else batch.tokens
                for batch in found
            )
            <= 6400
        )
        assert sum(batch.tokens for batch in found) > 0.91 * sum(
            batch.items.numel() for batch in found
        )
        assert max(len(batch.users) for batch in found) <= 512


def mask(lengths, width, **changes):
    settings = TrainSettings(
        **{"mask_prob": 0.3, "last_mask_share": 0.0, **changes}
    )
    return cloze_mask(np.asarray(lengths), width, settings, rng())


@pytest.mark.parametrize("masking", ["uniform", "late"])
def test_cloze_mask_shares(masking):
    masked = mask([20] * 4000, 25, masking=masking)
    assert not masked[:, 20:].any() and masked.any(1).all()
    assert abs(masked[:, :20].mean() - 0.3) < 0.02
    assert (
        mask([1, 2, 3] * 200, 5, masking=masking, mask_prob=1e-9)
        .sum(1)
        .tolist()
        == [1] * 600
    )
    last = mask([20] * 4000, 25, masking=masking, last_mask_share=1.0)
    assert (last.sum(1) == 1).all() and last[:, 19].all()


def test_which_positions_are_masked():
    """Alike, or in proportion to the place."""
    uniform, late = (
        mask([40] * 4000, 40, masking=masking)
        for masking in ("uniform", "late")
    )
    assert uniform.mean(0).min() > 0.27 and uniform.mean(0).max() < 0.33
    np.testing.assert_allclose(
        late.mean(0), 2 * 0.3 * np.arange(1, 41) / 41, atol=0.03
    )


def test_visible_times_hide_the_masked_moments():
    times = torch.tensor([[10, 20, 30, 40], [10, 20, 30, 0], [5, 6, 7, 8]])
    masked = torch.tensor(
        [
            [False, True, True, False],
            [True, False, False, False],
            [True, True, True, True],
        ]
    )
    assert visible_times(times, masked).tolist() == [
        [10, 10, 10, 40],
        [20, 20, 30, 0],
        [0, 0, 0, 0],
    ]


def test_append_mask_keeps_the_newest(data):
    histories = [
        History(
            np.arange(2, 7),
            np.arange(10, 15),
            {"rating": np.arange(1, 6)},
            request_time=99,
        ),
        History(
            np.array([9]),
            np.array([50]),
            {"rating": np.array([4])},
            request_time=60,
        ),
    ]
    catalogue = data.catalogue
    asked = append_mask(history_batch(histories, catalogue, 4), 4)
    assert asked.items.tolist() == [[4, 5, 6, MASK], [9, MASK, PAD, PAD]]
    assert asked.columns["rating"].tolist() == [[3, 4, 5, 0], [4, 0, 0, 0]]
    assert asked.times.tolist() == [[12, 13, 14, 14], [50, 50, 0, 0]]
    assert asked.request_times.tolist() == [[0, 0, 0, 99], [0, 60, 0, 0]]
    assert asked.lengths.tolist() == [4, 2]
    assert asked.whole.tolist() == [False, True]
    # room for the history, not for the mask
    short = append_mask(history_batch(histories, catalogue, 5), 5)
    assert history_batch(histories, catalogue, 5).whole.tolist() == [
        True,
        True,
    ] and short.whole.tolist() == [
        False,
        True,
    ]
    assert not history_batch(
        [dataclasses.replace(histories[1], whole=False)], catalogue, 5
    ).whole.any()


def test_history_ends_before_its_target(data):
    for until in ("validation", "test"):
        history = history_of(data, 7, span(data, 7, until)[1])
        row = span(data, 7, until)[1]
        assert (
            history.items[-1] == data.items[row - 1]
            and history.request_time == data.times[row]
        )
    assert history_of(data, 7).request_time == 0


@pytest.mark.parametrize("positions", [1, 30, 64, 10_000])
def test_parts_hold_everybody_once_and_respect_their_size(data, positions):
    for cloze in (0.0, 1.0):
        batch = next(
            TrainingBatches(
                data, 12, dataclasses.replace(PLAIN, batch_size=24), cloze
            ).epoch(0)
        )
        parts = batch.parts(positions)
        assert sorted(
            int(user) for part in parts for user in part.users
        ) == sorted(batch.users.tolist())
        for part in parts:
            assert (
                part.items.numel() <= max(positions, part.items.shape[1])
                and int(part.lengths.max()) > 0
            )
            rows = [
                batch.users.tolist().index(user)
                for user in part.users.tolist()
            ]
            width = part.items.shape[1]
            for name, value in part.tensors().items():
                whole = batch.tensors()[name][rows]
                kept = (
                    whole
                    if name.startswith("user") or whole.dim() == 1
                    else whole[:, :width]
                )
                assert torch.equal(value, kept) and (
                    kept is whole or not whole[:, width:].any()
                )


def test_predicted_positions_are_the_targets_and_a_filling_that_does_not_count(
    data,
):
    for batch in TrainingBatches(data, 12, PLAIN, 1.0).epoch(0):
        predicted, targets = batch.predicted(), batch.targets.flatten()
        assert len(set(predicted.tolist())) == len(predicted)
        assert set((targets != PAD).nonzero()[:, 0].tolist()) == {
            position
            for position in predicted.tolist()
            if targets[position] != PAD
        }
        assert len(predicted) % 64 == 0 or len(predicted) == len(targets)


def test_histories_with_and_without_times_share_a_batch(data):
    """Each alone says the same as beside the other."""
    timed = history_of(data, 3)
    bare = History(timed.items[:5])
    both = history_batch([timed, bare], data.catalogue, 12)
    for row, history in enumerate((timed, bare)):
        (alone,) = history_batch([history], data.catalogue, 12).times
        assert torch.equal(both.times[row, : len(alone)], alone)
    assert both.times[0].any() and not both.times[1].any()
