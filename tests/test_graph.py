"""The graph of items: its edges by hand, its convolution by dense matrices, its rules of growth."""

import dataclasses

import numpy as np
import pytest
import torch

from data_processor import process
from graph import (
    FEWEST_TOGETHER,
    NEIGHBOURS,
    SESSION,
    TOGETHER,
    WORDS,
    attribute_edges,
    item_neighbours,
)
from growth import for_catalogue
from settings import DataSettings
from tests.conftest import VARIANTS, fresh_model, other_data

pytest.importorskip("torch_geometric")


@pytest.mark.parametrize("shape", ["films", "shop"])
def test_attribute_edges_are_the_values_of_the_items(data, shape):
    items = (data if shape == "films" else other_data(shape)).catalogue.items
    everything, nodes = attribute_edges(items)
    relations = [
        everything[:2, everything[2] == number]
        for number in range(len(items.fields))
    ]
    assert everything[2].max() < len(items.fields) and nodes > 0
    first, seen = len(items.ids), 0
    for edges, (name, entry) in zip(
        relations, items.fields.items(), strict=True
    ):
        values = items.data[name][items.first :]
        if entry.column.kind in ("category", "tags"):
            wanted = {
                (first + seen + code - 1, row)
                for row, codes in enumerate(values.reshape(len(values), -1))
                for code in codes
                if code
            }
            assert set(zip(*edges.tolist(), strict=True)) == wanted
            seen += len(entry.values)
        elif entry.column.kind == "number":
            assert (
                sorted(edges[1]) == np.flatnonzero(~np.isnan(values)).tolist()
            )
            seen += len(entry.knots)
        elif entry.column.kind == "text":
            seen += WORDS
    assert all((edges[1] < first).all() for edges in relations)


def test_neighbours_are_those_of_the_training_part_by_hand(data):
    rows, first = data.training_rows(), data.catalogue.items.first
    found, count = item_neighbours(data), len(data.catalogue.items.ids)
    pairs = {name: np.zeros((count, count)) for name in TOGETHER}
    users, items, times = (
        data.user_of[rows],
        data.items[rows] - first,
        data.times[rows],
    )
    for place in range(1, len(rows)):
        same = users[place] == users[place - 1]
        if same and times[place] - times[place - 1] <= SESSION:
            before, after = items[place - 1], items[place]
            pairs["follows"][after, before] += 1
            pairs["followed_by"][before, after] += 1
    for user in np.unique(users):
        own = np.unique(items[users == user])
        pairs["had_with"][np.ix_(own, own)] += 1
    weight = np.sqrt(np.bincount(items, minlength=count))
    for name, matrix in pairs.items():
        np.fill_diagonal(matrix, 0)
        for item in range(count):
            enough = np.flatnonzero(matrix[item] >= FEWEST_TOGETHER)
            near = sorted(
                enough,
                key=lambda other: (
                    -matrix[item, other] / weight[other],
                    other,
                ),
            )
            chosen = found[name][item]
            assert chosen[chosen >= 0].tolist() == near[:NEIGHBOURS]


def test_the_convolution_by_dense_matrices(data):
    """Two layers, each the sum over relations of the mean over neighbours, by torch alone."""
    graph = fresh_model(data, VARIANTS["enhanced-graph"]).graph
    with torch.no_grad():
        count, known = graph.count, graph.attributes.weight
        attributes = [
            graph.edges[:2, graph.edges[2] == number]
            for number in range(graph.columns)
        ]
        nodes = torch.cat([torch.zeros(count, known.shape[1]), known])
        hidden = _layer(graph.first, nodes, attributes)[:count].relu()
        nodes = torch.cat([hidden, known])
        together = []
        for name in TOGETHER:
            near = getattr(graph, name)
            item, place = (near >= 0).nonzero(as_tuple=True)
            together.append(torch.stack([near[item, place].long(), item]))
        expected = _layer(graph.second, nodes, [*attributes, *together])[
            :count
        ]
        torch.testing.assert_close(graph(), expected, rtol=1e-4, atol=1e-5)


def _layer(layer, nodes, relations):
    weights = torch.einsum("rb,bio->rio", layer.comp, layer.weight)
    total = torch.zeros(len(nodes), weights.shape[2])
    for edges, weight in zip(relations, weights, strict=False):
        adjacency = torch.zeros(len(nodes), len(nodes))
        adjacency[edges[1], edges[0]] = 1.0
        mean = adjacency / adjacency.sum(1, keepdim=True).clamp_min(1)
        total = total + mean @ nodes @ weight
    if layer.root is not None:
        total = total + nodes @ layer.root
    return total + layer.bias


def test_a_larger_catalogue_changes_nothing_for_old_items(tiny):
    """A new item joins the columns' nodes and has no other neighbours."""
    kept = tiny.interactions[tiny.interactions["item"] != 7]
    whole = process(tiny, DataSettings(dataset="synthetic"))
    small = process(
        tiny.replace(kept), DataSettings(dataset="synthetic"), whole.catalogue
    )
    model = fresh_model(small, VARIANTS["enhanced-graph"])
    larger = dataclasses.replace(whole.catalogue, users=small.catalogue.users)
    grown = for_catalogue(model, larger)
    with torch.no_grad():
        before, after = model.graph(), grown.graph()
    place = small.catalogue.items.rows_in(larger.items) - larger.items.first
    torch.testing.assert_close(
        before, after[torch.from_numpy(place)], rtol=1e-5, atol=1e-6
    )
    new = np.setdiff1d(np.arange(len(larger.items.ids)), place)
    assert len(new) and all(
        (getattr(grown.graph, name)[new] == -1).all() for name in TOGETHER
    )
    assert after[torch.from_numpy(new)].abs().sum() > 0
