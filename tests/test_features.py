"""Encoders of columns and times, the graph, and views of a history, each against something
independent.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from batches import history_batch, history_of
from dataset import ITEM_ROWS
from enhanced_model import EnhancedBERT4Rec
from features import NumberEncoder, TagsEncoder, tag_shares
from fields import Field
from growth import nearest_items
from losses import CONTRASTIVE_TEMPERATURE, contrastive_loss
from schema import Column
from settings import ModelSettings, TrainSettings
from support.errors import UserError
from tests.conftest import (
    TINY_MODEL,
    VARIANTS,
    fresh_model,
    other_data,
    whole,
)
from text_vectors import text_vectors as vectors_of
from training_batches import TrainingBatches
from views import two_views
from vocabulary import field_of, stored


def test_tags_are_the_mean_of_their_vectors():
    entry = Field(Column("tags", "tags"), values=("a", "b", "c"))
    encoder = TagsEncoder(entry, 4)
    torch.nn.init.normal_(encoder.table.weight)
    table = encoder.table.weight
    found = encoder(torch.tensor([[1, 3], [2, 0], [0, 0]]))
    torch.testing.assert_close(found[0], (table[1] + table[3]) / 2)
    torch.testing.assert_close(found[1], table[2])
    assert tag_shares(torch.tensor([[1, 3], [0, 0]]), 3).tolist() == [
        [0, 0.5, 0, 0.5],
        [1, 0, 0, 0],
    ]


def test_numbers_near_each_other_are_alike_and_unknown_is_finite():
    entry = Field(
        Column("price", "number"), knots=tuple(np.linspace(0, 10, 9).tolist())
    )
    torch.manual_seed(0)
    encoder = NumberEncoder(entry, 8)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    found = encoder(torch.tensor([4.0, 4.1, 9.0, float("nan"), 1e9]))
    assert found.isfinite().all()
    assert (found[0] - found[1]).norm() < 0.2 * (found[0] - found[2]).norm()


def test_a_new_item_stands_where_the_most_alike_are():
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    weights = nearest_items(
        torch.tensor([[2.0, 0.1]]), known, torch.tensor([5.0, 5.0, 5.0])
    )
    assert weights.argmax() == 0
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_no_edge_comes_from_what_is_held_out(data):
    """Other items in validation and test: the same graph."""
    from ablations.audit import swapped
    from model_io import new_model

    settings = ModelSettings(graph=True, **TINY_MODEL)
    hidden = np.setdiff1d(np.arange(len(data.items)), data.training_rows())
    graphs = []
    for which in (data, swapped(data, hidden)):
        torch.manual_seed(0)
        graphs.append(new_model(which, settings).graph.state_dict())
    assert all(
        torch.equal(value, graphs[1][name])
        for name, value in graphs[0].items()
    )
    torch.manual_seed(0)
    everything = new_model(
        whole(swapped(data, hidden)), settings
    ).graph.state_dict()
    assert any(
        value.shape != everything[name].shape
        or not torch.equal(value, everything[name])
        for name, value in graphs[0].items()
    )


def test_texts_alike_have_vectors_alike():
    one, other, far = vectors_of(
        ["The Matrix", "The Matrix Reloaded", "Bambi"], "ngrams"
    )
    assert one @ other > one @ far


@pytest.mark.parametrize("start", [False, True])
def test_the_start_says_whether_earlier_interactions_are_lost(data, start):
    variant = dataclasses.replace(VARIANTS["enhanced"], start_token=start)
    scorer = fresh_model(data, variant).frozen()
    history = history_of(data, 3).select(np.arange(4))
    whole, lost = (
        scorer.score(
            history_batch(
                [dataclasses.replace(history, whole=known)], data.catalogue, 12
            )
        )
        for known in (True, False)
    )
    assert torch.equal(whole, lost) != start
    assert scorer.starts == start


def test_contrastive_loss_is_cross_entropy_of_cosines():
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    cosines = (
        torch.cosine_similarity(first[:, None], second[None], dim=-1)
        / CONTRASTIVE_TEMPERATURE
    )
    own = torch.arange(5)
    expected = (
        F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)
    ) / 2
    torch.testing.assert_close(contrastive_loss(first, second, own), expected)
    # Sequences that end in the same item are not told apart.
    groups = torch.tensor([0, 0, 2, 3, 4])
    alike = cosines.clone()
    alike[0, 1] = alike[1, 0] = -torch.inf
    expected = (
        F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)
    ) / 2
    torch.testing.assert_close(
        contrastive_loss(first, second, groups), expected
    )


def test_views_hold_the_same_interactions_in_another_order(data):
    batch = next(
        TrainingBatches(data, 12, TrainSettings(batch_size=16), 0.0).epoch(0)
    )
    views = two_views(batch, np.random.default_rng(0))
    assert not torch.equal(views[0].items, views[1].items)
    for view in views:
        assert not view.users.any() and torch.equal(view.times, batch.times)
        assert not any(values.any() for values in view.user_columns.values())
        assert (
            view.items.sort(1).values.tolist()
            == batch.items.sort(1).values.tolist()
        )


def test_items_without_any_column_still_have_rows():
    data = other_data("ids")
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    assert model.item_table().shape == (len(data.catalogue.items), 16)
    assert (data.items >= ITEM_ROWS).all()


def number_field(values):
    column = Column("size", "number")
    return field_of(column, pd.Series(values))


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 50 + [1e-9 * n for n in range(50)],
        [1_700_000_000.0 + n for n in range(100)],
    ],
)
def test_quantiles_that_are_equal_in_fp32_are_one(values):
    """The encoder divides by their distances."""
    field = number_field(values)
    assert len(set(np.float32(field.knots))) == len(field.knots)
    encoder = NumberEncoder(field, 8)
    coded = torch.from_numpy(stored(field, pd.Series([*values, np.nan])))
    assert encoder(coded).isfinite().all()


def test_numbers_beyond_fp32_are_unknown():
    field = number_field([1.0, 2.0])
    coded = stored(field, pd.Series([1.0, 1e300, -1e300]))
    assert np.isnan(coded).tolist() == [False, True, True]


def test_a_vector_of_another_length_is_refused():
    column = Column("vector", "vector")
    field = field_of(column, pd.Series([[1.0, 2.0]]))
    with pytest.raises(UserError, match=r"'vector'.*3 numbers, where 2"):
        stored(field, pd.Series([[1.0, 2.0], [1.0, 2.0, 3.0]]))


def test_a_text_that_nothing_reads_is_refused_by_name(data):
    for flags in ({"item_features": "title"}, {"user_features": "title"}):
        with pytest.raises(UserError, match="title"):
            fresh_model(data, ModelSettings(**flags))


def test_items_that_nothing_tells_apart_are_refused(data):
    items = data.catalogue.items
    bare = dataclasses.replace(items, fields={}, data={})
    catalogue = dataclasses.replace(data.catalogue, items=bare)
    settings = ModelSettings(item_ids=False)
    with pytest.raises(UserError, match="all would be alike"):
        EnhancedBERT4Rec(catalogue, settings)
