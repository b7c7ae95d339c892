"""A trained model for a catalogue with further items and users.

A new item gets what the encoders say of its columns. Its id vector, its output bias and its
transitions are the weighted mean of those of similar known items: those with the nearest column
vectors, weighted by how often training saw them. A model without column encoders takes those that
share most categories and tags. A new user starts as unknown.

Axes: R rows of the item table, V known items, n new ones, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from bert4rec import BERT4Rec
from dataset import ITEM_ROWS, Catalogue, Table
from enhanced_model import EnhancedBERT4Rec
from fields import UNKNOWN
from graph import TOGETHER

MOST_ALIKE = 100  # items whose transitions make those of a new one
NEAREST = 5  # known items that a new one is like, and those that tie (ablations/LOG.md)
# Tables with a row for each item: biases of heads, vectors.
ODDS = ("next_bias", "masked_bias", "item_bias", "start_bias")
VECTORS = ("item_ids.weight", "items.weight")
ITEMS = (*ODDS, *VECTORS)
USER_VECTORS = "user_tokens.ids.weight"
PAIRS = ("transitions.starts", "transitions.items", "transitions.values")
Model = EnhancedBERT4Rec | BERT4Rec
State = dict[str, Tensor]


@torch.no_grad()
def for_catalogue(model: Model, larger: Catalogue) -> Model:
    """The same model, in evaluation mode, for a larger catalogue. Raises `UserError` where items
    are missing there."""
    items = larger.items
    place = model.catalogue.items.rows_in(items) - ITEM_ROWS
    place = torch.from_numpy(place)
    new = np.setdiff1d(np.arange(len(items.ids)), place)
    vanilla = isinstance(model, BERT4Rec)
    build = BERT4Rec.from_settings if vanilla else EnhancedBERT4Rec
    grown = build(larger, model.settings).eval()
    known = {name: value.cpu() for name, value in model.state_dict().items()}
    state = grown.state_dict()
    _take_over(state, known, place)
    if USER_VECTORS in state:
        users = model.catalogue.users.index(larger.users.ids)
        users = np.append(UNKNOWN, users)  # unknown are new ones
        state[USER_VECTORS].copy_(known[USER_VECTORS][users])
    if not vanilla:
        grown.item_columns.prepare(items, new)
    weights = _similar_items(grown, known, place, new)
    _add_items(state, known, place, new, weights)
    if model.transitions is not None:
        grown.transitions.hold(
            _with_items(values, place, new, weights)
            for values in model.transitions.matrices()
        )
    device = next(model.parameters()).device
    return grown.to(device)


def _take_over(state, known, place):
    """Fill a grown model's tensors, in place, with what does not come from similar items, nor
    from users."""
    for name, value in known.items():
        last = name.rpartition(".")[2]
        if last == "vectors":  # of texts
            state[name][place] = value
        elif last in TOGETHER:
            # A new item has the neighbours that its columns give, and no others.
            moved = place[value.long()].int()
            state[name][place] = moved.where(value >= 0, -1)
        elif name == "counts":
            state[name][ITEM_ROWS + place] = value[ITEM_ROWS:]
        elif name not in (*ITEMS, *PAIRS, USER_VECTORS):
            state[name].copy_(value)


def _similar_items(grown, known, place, new):
    """Weights (n, V) of known items for new ones, by the encoders of columns if there are any."""
    columns = [] if isinstance(grown, BERT4Rec) else grown.item_columns()
    if not columns:
        return alike(grown.catalogue.items, new, place)
    vectors = sum(columns)  # (V + n, D)
    counts = known["counts"][ITEM_ROWS:]
    return nearest_items(vectors[new], vectors[place], counts)


def _add_items(state, known, place, new, weights):
    """Fill the tables of items, in place: a new one has the weighted mean vector and the weighted
    mean of exp(b), b being the biases of known ones."""
    known = dict(known)
    if "start_bias" in known:
        # exp(b) is of the sum of both biases.
        known["start_bias"] = known["next_bias"][:, None] + known["start_bias"]
    for name in state.keys() & set(ITEMS):
        first = len(known[name]) - len(place)  # rows that are no items
        special, rows = known[name].split([first, len(place)])
        if name in VECTORS:
            mean = weights @ rows
        else:
            mean = (weights @ rows.exp()).log()
        table = state[name]
        table[:first] = special
        items = table[first:]
        items[place] = rows
        items[new] = mean
    if "start_bias" in known:
        state["start_bias"] -= state["next_bias"][:, None]


def _with_items(values, place, new, weights):
    """The values of transitions (R, R) for a grown catalogue: those from and to a new item are the
    weighted means of known ones. It has none if it is like more than MOST_ALIKE, and so like none
    in particular."""
    size = ITEM_ROWS + len(place) + len(new)
    alike = (weights > 0).sum(1, keepdim=True)
    weights = weights * (alike <= MOST_ALIKE)
    item, similar = weights.nonzero(as_tuple=True)
    # Where known rows stand now; PAD and MASK stay.
    moved = np.append(np.arange(ITEM_ROWS), ITEM_ROWS + place.numpy())
    rows = np.append(moved, ITEM_ROWS + new[item.numpy()])
    columns = np.append(np.arange(len(moved)), ITEM_ROWS + similar.numpy())
    shares = np.append(np.ones(len(moved)), weights[item, similar].numpy())
    # (grown R, R) how much of each known row is in a grown one.
    mix = sparse.csr_matrix((shares, (rows, columns)), (size, len(moved)))
    return mix @ values @ mix.T


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


def alike(items: Table, new: np.ndarray, place: Tensor) -> Tensor:
    """Weights (n, V) of known items for new ones, rows summing to 1: equal ones for those that
    share most of their categories and tags. new, place: where they stand among the items."""
    vectors = torch.from_numpy(items.small_shares()[ITEM_ROWS:])
    vectors = F.normalize(vectors, dim=1)
    similar = vectors[new] @ vectors[place].T  # (n, V)
    nearest = (similar >= similar.amax(1, keepdim=True) - 1e-6).float()
    return nearest / nearest.sum(1, keepdim=True)
