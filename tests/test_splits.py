"""Who trains and who is asked, under each protocol."""

import numpy as np
import pytest
import torch

import splits
from batches import history_of
from data_processor import process
from evaluation.protocols import (
    protocol_line,
    request_batches,
    target_ranks,
)
from fields import UNKNOWN
from settings import DataSettings, EvalSettings, TrainSettings
from splits import MULTI_TARGETS
from support.errors import UserError
from tests.conftest import VARIANTS, fresh_model
from training_batches import TrainingBatches

PROTOCOLS = ("leave_one_out", "global_time", "multi5")
CPU = torch.device("cpu")


@pytest.fixture(params=PROTOCOLS)
def split_data(request, tiny):
    return process(tiny, DataSettings(protocol=request.param))


def test_training_never_holds_what_is_asked(split_data):
    """Neither in inputs nor in targets of any batch, of either kind."""
    asked = {
        (int(person), int(split_data.items[row]))
        for until in ("validation", "test")
        for person, rows in zip(
            split_data.split.requests[until].users,
            split_data.split.requests[until].target_rows,
            strict=True,
        )
        for row in rows
    }
    trained = set(split_data.training_rows().tolist())
    for until in ("validation", "test"):
        assert not trained & set(
            split_data.split.requests[until].target_rows.ravel().tolist()
        )
    train = TrainSettings(batch_size=8)
    for share in (0.0, 1.0):
        for batch in TrainingBatches(split_data, 12, train, share).epoch(0):
            for row, user in enumerate(batch.users.tolist()):
                shown = set(batch.items[row].tolist()) | set(
                    batch.targets[row].tolist()
                )
                assert not {(user, item) for item in shown} & asked


def test_validation_trains_too_and_nothing_of_the_test(split_data):
    """`through_validation`: what trains grows by what lies up to the validation targets."""
    split = split_data.split
    larger = split_data.replace(split=split.through_validation())
    before = set(split_data.training_rows().tolist())
    added = set(larger.training_rows().tolist()) - before
    asked = set(split.requests["validation"].target_rows.ravel().tolist())
    tested = set(split.requests["test"].target_rows.ravel().tolist())
    assert asked <= added and not added & tested
    assert before <= set(larger.training_rows().tolist())
    users = set(split.requests["validation"].users.tolist())
    assert {int(split_data.user_of[row]) for row in added} <= users


def test_histories_and_targets_are_of_one_person_and_in_order(split_data):
    for until in ("validation", "test"):
        requests = split_data.split.requests[until]
        assert len(requests) > 3
        for person, end, rows in zip(
            requests.users, requests.ends, requests.target_rows, strict=True
        ):
            start, last = split_data.offsets[person : person + 2]
            assert (
                start < end <= rows[0]
                and rows[-1] < last
                and (np.diff(rows) == 1).all()
            )
            history = history_of(split_data, person, end)
            assert (history.items == split_data.items[start:end]).all()
            assert history.request_time == split_data.times[rows[0]]
        met = np.concatenate(
            [
                chosen
                for chosen, *_ in request_batches(split_data, requests, 12)
            ]
        )
        assert sorted(met) == list(range(len(requests)))


def test_every_protocol_ranks_and_says_what_it_does(split_data):
    model = fresh_model(split_data, VARIANTS["enhanced"]).frozen()
    requests = split_data.split.requests["test"]
    rank = target_ranks(model, split_data, "test", 12, EvalSettings())
    assert rank.shape == (len(requests), requests.count) and rank.min() >= 1
    assert rank.max() <= len(split_data.catalogue.items.ids)
    assert split_data.split.description in protocol_line(
        split_data, "test", EvalSettings()
    )


def test_protocols_have_hashes_of_their_own(tiny):
    assert (
        len(
            {
                process(tiny, DataSettings(protocol=name)).split_hash
                for name in PROTOCOLS
            }
        )
        == 3
    )
    assert (
        process(tiny, DataSettings(protocol="multi5", split_seed=1)).split_hash
        != process(tiny, DataSettings(protocol="multi5")).split_hash
    )


def test_global_time_trains_before_the_cut_and_asks_after_it(
    tiny, monkeypatch
):
    monkeypatch.setattr(splits, "MOST_TARGETS", 10**6)
    data = process(tiny, DataSettings(protocol="global_time"))
    trained = data.times[data.training_rows()]
    validation, test = (
        data.times[data.split.requests[until].ends]
        for until in ("validation", "test")
    )
    assert trained.max() < validation.min() and validation.max() < test.min()
    # Everything after the cut is asked for, but a person's first interaction ever.
    assert (
        len(data.items)
        - len(data.training_rows())
        - len(validation)
        - len(test)
        <= data.num_users
    )
    assert len(test) == pytest.approx(
        splits.HELD_OUT * len(data.items), rel=0.1
    )


def test_global_time_spreads_a_users_targets(tiny, monkeypatch):
    monkeypatch.setattr(splits, "MOST_TARGETS", 3)
    data = process(tiny, DataSettings(protocol="global_time"))
    monkeypatch.setattr(splits, "MOST_TARGETS", 10**6)
    everything = process(tiny, DataSettings(protocol="global_time"))
    requests, all_of_them = (
        data.split.requests["test"],
        everything.split.requests["test"],
    )
    for person in np.unique(all_of_them.users):
        rows, possible = (
            requests.ends[requests.users == person],
            all_of_them.ends[all_of_them.users == person],
        )
        assert (
            len(rows) == min(3, len(possible))
            and rows[0] == possible[0]
            and rows[-1] == possible[-1]
        )


def test_multi5_splits_people(tiny):
    data = process(tiny, DataSettings(protocol="multi5"))
    validation, test = (
        set(data.split.requests[until].users.tolist())
        for until in ("validation", "test")
    )
    trained = {
        int(np.searchsorted(data.offsets, row, side="right")) - 1
        for row in data.training_rows()
    }
    assert (
        len(validation) == len(test) == round(splits.HELD_OUT * data.num_users)
    )
    assert (
        not validation & test
        and trained
        == set(data.catalogue.users.rows.tolist()) - validation - test
    )
    person = min(test)
    assert (
        data.split.requests["test"].ends[sorted(test).index(person)]
        == data.offsets[person + 1] - MULTI_TARGETS
    )
    # A stranger to training has no token of their own.
    assert history_of(data, person).user == UNKNOWN and history_of(
        data, min(trained)
    ).user == min(trained)
    assert (data.train_lengths[data.split.requests["test"].users] == 0).all()


def test_filters_of_interactions_and_users(tiny):
    data = process(tiny, DataSettings(keep="rating>=4", min_user_count=9))
    assert data.columns["rating"].min() == 4
    assert np.diff(data.offsets)[1:].min() >= 9
    rows = tiny.interactions
    liked = rows[rows["rating"].astype(int) >= 4].groupby("user").size()
    assert set(data.catalogue.users.ids) == set(liked[liked >= 9].index)


@pytest.mark.parametrize(
    ("protocol", "rows"),
    [("leave_one_out", 2), ("global_time", 1), ("multi5", 4)],
)
def test_a_split_that_asks_nobody_is_refused(tiny, protocol, rows):
    few = tiny.replace(tiny.interactions.groupby("user").head(rows))
    with pytest.raises(UserError):
        process(few, DataSettings(protocol=protocol, min_user_count=1))


def test_a_part_of_the_requests_has_as_many_as_are_allowed(data):
    requests = data.split.requests["test"]
    number = len(requests)
    for most in (1, 7, number // 2 + 1, number - 1, number, 10 * number):
        part = requests.spread(most)
        assert len(part) == min(most, number)
        assert (np.diff(part.ends) > 0).all()
