"""Item vectors from a graph: items are linked by their columns and by the users who had them.

    h_v = ReLU(b + sum_r mean_{n in N_r(v)} W_r x_n)
    e_v = b' + W'_0 h_v + sum_r mean_{n in N_r(v)} W'_r (h_n of items, x_n of attributes)

Schlichtkrull et al., arXiv:1703.06103, eq. 2, by torch-geometric's `RGCNConv`. An item has no
vector of its own here. All that it gets comes from its neighbours, so an item without interactions
gets a vector too.

Relations r into an item: one for each of its columns that has values (numbers by their quantiles,
texts by words that other items have too); items that follow it, items that it follows, items that
the same users have. The last three come from the training part alone, as lists of fixed length in
the checkpoint. A training target may have contributed to such an edge, together with interactions
of other users (FEWEST_TOGETHER).

Axes: V items, K neighbours, D width, A attribute nodes, E edges.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from dataset import ITEM_ROWS, NO_TIME, Catalogue, Dataset, Table
from settings import ModelSettings
from support.errors import UserError
from transformer import full_precision

TOGETHER = ("follows", "followed_by", "had_with")
NEIGHBOURS = 8  # K, of each item by each of TOGETHER
SESSION = 3600  # seconds without an interaction that end a session
FEWEST_TOGETHER = 3  # users behind an edge between two items
# Hashed, so that nodes stay the same when items join the catalogue.
WORDS = 4096
BASES = 4  # matrices of which a layer mixes those of its relations


class ItemGraph(nn.Module):
    """See the module's head."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import RGCNConv
        except ImportError as error:
            raise UserError(
                "--graph needs torch-geometric: pip install torch-geometric"
            ) from error
        items, width = catalogue.items, settings.hidden_size
        self.count = len(items.ids)
        edges, nodes = attribute_edges(items)
        edges = torch.from_numpy(edges)
        self.register_buffer("edges", edges, persistent=False)
        self.columns = len(items.fields)
        for name in TOGETHER:
            nobody = torch.full(
                (self.count, NEIGHBOURS), -1, dtype=torch.int32
            )
            self.register_buffer(name, nobody)
        self.attributes = nn.Embedding(max(1, nodes), width)
        # Items have nothing to pass on in the first layer.
        self.first = RGCNConv(
            width, width, max(1, self.columns), BASES, root_weight=False
        )
        count = self.columns + len(TOGETHER)
        self.second = RGCNConv(width, width, count, BASES)

    def prepare(self, data: Dataset) -> None:
        """Take the edges from training interactions."""
        for name, neighbours in item_neighbours(data).items():
            getattr(self, name).copy_(torch.from_numpy(neighbours))

    def forward(self) -> Tensor:
        """(V, D)."""
        known = self.attributes.weight
        nobody = known.new_zeros(self.count, known.shape[1])
        near = torch.stack([getattr(self, name) for name in TOGETHER])
        kind, item, place = (near >= 0).nonzero(as_tuple=True)
        source = near[kind, item, place].long()
        together = torch.stack([source, item, self.columns + kind])  # (3, E)
        edges = torch.cat([self.edges, together], dim=1)
        with full_precision(known.device):
            nodes = torch.cat([nobody, known])
            hidden = self.first(nodes, self.edges[:2], self.edges[2])
            nodes = torch.cat([hidden[: self.count].relu(), known])
            return self.second(nodes, edges[:2], edges[2])[: self.count]


def attribute_edges(items: Table) -> tuple[np.ndarray, int]:
    """((3, E): attribute, item and number of the column of each edge; how many attribute nodes
    there are).

    Nodes of items come first, those of attributes from V on.
    """
    found, nodes = [np.zeros((3, 0), dtype=np.int64)], 0
    for number, (name, entry) in enumerate(items.fields.items()):
        item, value, size = _attributes_of(
            entry, items.data[name][items.first :]
        )
        node = len(items.ids) + nodes + value
        found.append(np.stack([node, item, np.full_like(item, number)]))
        nodes += size
    return np.concatenate(found, axis=1), nodes


def _attributes_of(entry, values):
    """(items, their attributes, how many attributes there are) of one column."""
    kind = entry.column.kind
    if kind in ("category", "tags"):
        codes = values.reshape(len(values), -1)
        item, place = np.nonzero(codes)
        return item, codes[item, place] - 1, len(entry.values)
    if kind == "number":
        item = np.flatnonzero(~np.isnan(values))
        numbers = values[item]
        if entry.column.log:
            numbers = np.log1p(np.maximum(numbers, 0))
        return (
            item,
            np.searchsorted(entry.knots[1:], numbers),
            len(entry.knots),
        )
    if kind == "text":
        from sklearn.feature_extraction.text import HashingVectorizer

        words = HashingVectorizer(
            n_features=WORDS,
            stop_words="english",
            token_pattern=r"(?u)\b[^\W\d]{3,}\b",
        )
        item, word = words.transform(values.tolist()).nonzero()
        # in one text alone it joins nothing
        shared = np.bincount(word, minlength=WORDS) > 1
        several = shared[word]
        return item[several], word[several].astype(np.int64), WORDS
    nothing = np.zeros(0, dtype=np.int64)
    return nothing, nothing, 0


def item_neighbours(data: Dataset) -> dict[str, np.ndarray]:
    """(V, K) nearest items by each of TOGETHER, -1 where there are fewer.

    Nearest is j for which |i and j| / sqrt(|j|) is largest, |j| its training interactions.
    """
    rows = data.training_rows()
    users = data.user_of[rows]
    items = data.items[rows] - ITEM_ROWS
    times = data.times[rows]
    count = len(data.catalogue.items.ids)
    near = users[1:] == users[:-1]
    if data.has_times:
        gaps = times[1:] - times[:-1]
        near &= (times[1:] != NO_TIME) & (gaps <= SESSION)
    ones = np.ones(int(near.sum()))
    pairs = (items[:-1][near], items[1:][near])
    after = sparse.csr_matrix((ones, pairs), shape=(count, count))  # i, then j
    has = data.user_items()[:, ITEM_ROWS:]
    relations = {
        "follows": after.T,
        "followed_by": after,
        "had_with": has.T @ has,
    }
    weight = np.sqrt(np.bincount(items, minlength=count))
    return {
        name: _nearest(matrix.tocsr(), weight)
        for name, matrix in relations.items()
    }


def _nearest(matrix, weight):
    """(V, K) columns with the largest entries over their weight in each row, the row's own item
    left out, the lower item first at ties."""
    matrix = matrix - sparse.diags(matrix.diagonal(), format="csr")
    found = np.full((matrix.shape[0], NEIGHBOURS), -1, dtype=np.int32)
    for row in range(matrix.shape[0]):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        counts = matrix.data[entries]
        enough = counts >= FEWEST_TOGETHER
        counts = counts[enough]
        columns = matrix.indices[entries][enough]
        order = np.lexsort((columns, -counts / weight[columns]))
        order = order[:NEIGHBOURS]
        found[row, : len(order)] = columns[order]
    return found
