"""A trained model for a catalogue with further items and users.

A new item gets what the encoders say of its columns. Its id vector and its odds are the weighted
mean of those of similar known items: those with the nearest column vectors, weighted by how often
training saw them. A model without column encoders takes those that share most categories and tags.
A new user starts as unknown.

Axes: R rows of the item table, V known items, n new ones, D width.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bert4rec import BERT4Rec
from dataset import ITEM_ROWS, UNKNOWN, Catalogue, Table
from enhanced_model import EnhancedBERT4Rec

NEAREST = 5  # known items that a new one is like, and those that tie (ablations/LOG.md)
MOST_VALUES = 1000  # of a column that similarity is measured by
Model = EnhancedBERT4Rec | BERT4Rec


@torch.no_grad()
def for_catalogue(model: Model, larger: Catalogue) -> Model:
    """The same model, in evaluation mode, for a larger catalogue. Raises `UserError` where items
    are missing there."""
    device = next(model.parameters()).device
    older = copy.deepcopy(model).cpu()
    place = older.catalogue.items.rows_in(larger.items) - ITEM_ROWS
    new = np.setdiff1d(np.arange(len(larger.items.ids)), place)
    grow = _enhanced if isinstance(model, EnhancedBERT4Rec) else _vanilla
    grown = grow(older, larger, torch.from_numpy(place), torch.from_numpy(new))
    return grown.to(device).eval()


def _enhanced(
    older: EnhancedBERT4Rec, larger: Catalogue, place: Tensor, new: Tensor
) -> EnhancedBERT4Rec:
    model = EnhancedBERT4Rec(larger, older.settings).eval()
    model.item_columns.take_over(older.item_columns, place, larger.items)
    if model.graph is not None:
        model.graph.take_over(older.graph, place)
    weights = _similar_items(model, older, place, new)
    # What does not depend on the catalogue stays; rows of items and users are added.
    state = model.state_dict()
    for name, value in older.state_dict().items():
        if not name.startswith(("item_columns.", "graph.")):
            state[name] = value
    state["counts"] = model.counts
    state["counts"][ITEM_ROWS + place] = older.counts[ITEM_ROWS:]
    for name in ("next_bias", "masked_bias"):
        if name in state:
            state[name] = grown_rows(state[name], place, new, weights)
    if older.start_bias is not None:
        # Odds belong to the sum of both biases.
        both = older.next_bias[:, None] + older.start_bias  # (R, 2)
        grown = grown_rows(both, place, new, weights)
        state["start_bias"] = grown - state["next_bias"][:, None]
    if older.item_ids is not None:
        vectors = older.item_ids.weight
        state["item_ids.weight"] = _grown_vectors(vectors, place, new, weights)
    if "user_tokens.ids.weight" in state:
        rows = older.catalogue.users.index(larger.users.ids)
        rows = np.append(UNKNOWN, rows)
        vectors = state["user_tokens.ids.weight"]
        state["user_tokens.ids.weight"] = vectors[rows]
    model.load_state_dict(state)
    return model


def _similar_items(
    model: EnhancedBERT4Rec,
    older: EnhancedBERT4Rec,
    place: Tensor,
    new: Tensor,
) -> Tensor:
    """Weights (n, V) of known items for new ones, by the encoders of columns if there are any."""
    columns = model.item_columns()
    if not columns:
        return alike(model.catalogue.items, new, place)
    vectors = sum(columns)  # (V + n, D)
    counts = older.counts[ITEM_ROWS:]
    return nearest_items(vectors[new], vectors[place], counts)


def _vanilla(
    older: BERT4Rec, larger: Catalogue, place: Tensor, new: Tensor
) -> BERT4Rec:
    weights = alike(larger.items, new, place)
    special, vectors = older.items.weight.split([ITEM_ROWS, len(place)])
    grown = _grown_vectors(vectors, place, new, weights)
    bias = grown_rows(older.item_bias, place, new, weights)
    changed = {"items.weight": torch.cat([special, grown]), "item_bias": bias}
    model = BERT4Rec.from_settings(larger, older.settings)
    model.load_state_dict({**older.state_dict(), **changed})
    return model


def _grown_vectors(
    vectors: Tensor, place: Tensor, new: Tensor, weights: Tensor
) -> Tensor:
    """(V, D) to (V + n, D): a new item has the weighted mean vector of known ones."""
    table = vectors.new_zeros(len(place) + len(new), vectors.shape[1])
    table[place], table[new] = vectors, weights @ vectors
    return table


def grown_rows(
    bias: Tensor, place: Tensor, new: Tensor, weights: Tensor
) -> Tensor:
    """Biases (R, ...) for more items: a new one has the weighted mean odds exp(b) of known ones.

    place, new: where known and new items stand among all; weights (n, V).
    """
    table = bias.new_zeros(len(bias) + len(new), *bias.shape[1:])
    table[:ITEM_ROWS] = bias[:ITEM_ROWS]
    items = table[ITEM_ROWS:]
    items[place] = bias[ITEM_ROWS:]
    items[new] = (weights @ bias[ITEM_ROWS:].exp()).log()
    return table


def nearest_items(new: Tensor, known: Tensor, counts: Tensor) -> Tensor:
    """Weights (n, V) of known items for new ones, rows summing to 1.

    The NEAREST known items by cosine similarity of their column vectors have a weight, with those
    that tie with the last of them: their training interactions plus one. new (n, D), known (V, D),
    counts (V,).
    """
    similar = F.normalize(new, dim=1) @ F.normalize(known, dim=1).T  # (n, V)
    last = similar.topk(min(NEAREST, len(known)), dim=1).values[:, -1:]
    weights = (similar >= last - 1e-6) * (counts + 1)
    return weights / weights.sum(1, keepdim=True)


def alike(items: Table, new: Tensor, place: Tensor) -> Tensor:
    """Weights (n, V) of known items for new ones, rows summing to 1: equal ones for those that
    share most of their categories and tags. new, place: where they stand among the items."""
    shares = [np.zeros((len(items), 1), dtype=np.float32)]
    for name, entry in items.fields.items():
        if (
            entry.column.kind in ("category", "tags")
            and len(entry.values) <= MOST_VALUES
        ):
            shares.append(items.shares(name))
    vectors = torch.from_numpy(np.concatenate(shares, axis=1)[ITEM_ROWS:])
    vectors = F.normalize(vectors, dim=1)
    similar = vectors[new] @ vectors[place].T  # (n, V)
    nearest = (similar >= similar.amax(1, keepdim=True) - 1e-6).float()
    return nearest / nearest.sum(1, keepdim=True)
