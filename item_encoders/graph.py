"""Films by their place in a graph of what is known of them and of who watched them.

    h_v = ReLU(b + sum_r mean_{n in N_r(v)} W_r x_n)
    e_v = b' + W'_0 h_v + sum_r mean_{n in N_r(v)} W'_r (h_n of films, x_n of others)

Schlichtkrull et al., arXiv:1703.06103, eq. 2; a film has no vector of its own here, so that all it gets comes from its
neighbours, and a film that nobody has seen gets its share too.

Relations r into a film: its genres, decade, title words that other titles have too; groups of people (gender x age) who
rate it highly; films that follow it, that it follows, that the same people like. The last four come from the training
part alone, as lists of fixed length that lie in the checkpoint; what a position predicts there may be an edge's reason,
together with other people's interactions (FEWEST_TOGETHER, FEWEST_IN_GROUP). The whole graph is convolved in each
step.

Axes: V films, K neighbours, D width, A attribute nodes, E edges.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from data_processor import FIRST_ITEM, Catalogue, SequenceData
from item_encoders.encoder import ItemEncoder
from readers.interactions import AGE_GROUPS, GENDERS, GENRES
from settings import ModelSettings
from transformer import full_precision

RELATIONS = ("genre", "decade", "word", "group", "follows", "followed_by", "liked_with")
OF_ATTRIBUTES = 4  # of them; the others are
CO_WATCH = RELATIONS[OF_ATTRIBUTES:]
NEIGHBOURS = 8  # K, of each film by each of the relations between films
SESSION = 3600  # seconds without an interaction that end a session
LIKED = 4  # stars
FEWEST_TOGETHER = 3  # people behind an edge between two films
FEWEST_IN_GROUP = 5  # ratings behind an edge between a film and a group
FEWEST_TITLES = 2  # of a word: in one title alone it joins nothing
BASES = 4  # matrices of which a layer mixes those of its relations
FIRST_DECADE, DECADES, WORDS, GROUPS = 1890, 16, 4096, len(GENDERS) * len(AGE_GROUPS)
OFFSETS = np.cumsum([0, len(GENRES), DECADES, WORDS, GROUPS])  # of the attribute nodes, kind by kind


class CoWatchGraph(ItemEncoder):
    """Keeps the edges that training interactions give, and all edges once they are put together."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        count = len(catalogue.movie_ids)
        self.register_buffer("groups", torch.zeros(count, GROUPS, dtype=torch.bool))
        for name in CO_WATCH:
            self.register_buffer(name, torch.full((count, NEIGHBOURS), -1, dtype=torch.int32))
        self.joined: tuple[Tensor, ...] = ()
        self.register_load_state_dict_post_hook(_forget_edges)

    def prepare(self, data: SequenceData, rows: np.ndarray) -> None:
        """As in `ItemEncoder`."""
        self.groups.copy_(torch.from_numpy(liking_groups(data, rows)))
        for name, neighbours in film_neighbours(data, rows).items():
            getattr(self, name).copy_(torch.from_numpy(neighbours))
        _forget_edges(self)

    def take_over(self, older: CoWatchGraph, place: Tensor, larger: Catalogue) -> None:
        """As in `ItemEncoder`; a new film has the neighbours that its entry in the catalogue gives, and no others; its
        free vector, where there is one, is 0 until others give it one."""
        state = older.state_dict()
        for name in {"groups", "table.weight", *CO_WATCH} & set(state):
            value = state[name]
            if name in CO_WATCH:
                value = torch.where(value >= 0, place[value.long()], -1)
            state[name] = torch.full((len(larger.movie_ids), value.shape[1]), -1 if name in CO_WATCH else 0,
                                     dtype=older.state_dict()[name].dtype)
            state[name][place] = value.to(state[name].dtype)
        self.load_state_dict(state)

    def edges(self) -> tuple[Tensor, ...]:
        """What the convolution needs to know of the edges."""
        if not self.joined or self.joined[0].device != self.groups.device:
            self.joined = self.join_edges()
        return self.joined

    def co_watch_edges(self) -> list[Tensor]:
        """(2, E) of each relation between films: from the neighbour to the film."""
        return [torch.stack([getattr(self, name)[film, place].long(), film]) for name in CO_WATCH
                for film, place in [(getattr(self, name) >= 0).nonzero(as_tuple=True)]]

    def __getstate__(self) -> dict[str, object]:
        """For copies: sparse edges cannot be copied, and are joined again."""
        return {**self.__dict__, "joined": ()}


def _forget_edges(graph: CoWatchGraph, _unused: object = None) -> None:
    graph.joined = ()


class RelationalGraph(CoWatchGraph):
    """See the module's head, rgcn."""

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__(catalogue, settings)
        width, self.count = settings.hidden_size, len(catalogue.movie_ids)
        self.attributes = nn.Embedding(int(OFFSETS[-1]), width)
        self.first = _Relations(width, OF_ATTRIBUTES, root=False)  # films have nothing to pass on in the first layer
        self.second = _Relations(width, len(RELATIONS), root=True)
        self.register_buffer("shared_words", torch.zeros(WORDS, dtype=torch.bool))
        for name, edges in attribute_edges(catalogue).items():
            self.register_buffer(name, torch.from_numpy(edges), persistent=False)

    def prepare(self, data: SequenceData, rows: np.ndarray) -> None:
        """As in `ItemEncoder`."""
        titles = torch.bincount(self.word[0] - self.count - int(OFFSETS[2]), minlength=WORDS)
        self.shared_words.copy_(titles >= FEWEST_TITLES)
        super().prepare(data, rows)

    def relation_edges(self) -> list[Tensor]:
        """(2, E) of each relation, from node to film, attribute nodes counted from V on."""
        film, group = self.groups.nonzero(as_tuple=True)
        shared = self.shared_words[self.word[0] - self.count - int(OFFSETS[2])]
        return [self.genre, self.decade, self.word[:, shared],
                torch.stack([group + self.count + int(OFFSETS[3]), film]), *self.co_watch_edges()]

    def join_edges(self) -> tuple[Tensor, Tensor]:
        """Sparse (4 V, A) and (3 V, V), one below the other for each relation: row v of each averages what its
        neighbours are, attributes in the one, films in the other."""
        edges = self.relation_edges()
        of_attributes = [part - part.new_tensor([[self.count], [0]]) for part in edges[:OF_ATTRIBUTES]]
        return (_averages(of_attributes, self.count, len(self.attributes.weight)),
                _averages(edges[OF_ATTRIBUTES:], self.count, self.count))

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        of_attributes, of_films = self.edges()
        with full_precision(films.device):  # sparse products know no bf16
            known = (of_attributes @ self.attributes.weight).unflatten(0, (-1, self.count))  # (4, V, D)
            hidden = self.first(known).relu()
            near = (of_films @ hidden).unflatten(0, (-1, self.count))
            return self.second(torch.cat([known, near]), hidden)[films]


class _Relations(nn.Module):
    """A layer of the relational convolution, its matrices mixed from a few (eq. 3 there). They are no `nn.Linear`, so
    weight decay spares them (training_loop.py)."""

    def __init__(self, width: int, relations: int, root: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(BASES, width, width))
        self.comp = nn.Parameter(torch.empty(relations, BASES))
        self.root = nn.Parameter(torch.empty(width, width)) if root else None
        self.bias = nn.Parameter(torch.zeros(width))
        for matrix in (self.weight, self.comp, self.root):
            if matrix is not None:
                bound = (6 / sum(matrix.shape[-2:]))**0.5  # Glorot's
                nn.init.uniform_(matrix, -bound, bound)

    def forward(self, averages: Tensor, own: Tensor | None = None) -> Tensor:
        """(V, D) from each relation's averages over neighbours (R, V, D) and what the films are themselves (V, D)."""
        matrices = (self.comp @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        out = torch.bmm(averages, matrices).sum(0) + self.bias
        return out if self.root is None else out + own @ self.root


def _averages(relations: list[Tensor], films: int, nodes: int) -> Tensor:
    """Sparse (R films, nodes): rows that average over the nodes from which a relation's edges (2, E) lead to a film."""
    edges = torch.cat([torch.stack([edges[1] + number * films, edges[0]]) for number, edges in enumerate(relations)],
                      dim=1)
    shape = (len(relations) * films, nodes)
    share = 1 / torch.bincount(edges[0], minlength=shape[0]).clamp_min(1)[edges[0]]
    return _sparse(edges, share, shape)


def _sparse(edges: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch calls this layout a beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_coo_tensor(edges, weight, shape, check_invariants=True).coalesce().to_sparse_csr()


def attribute_edges(catalogue: Catalogue) -> dict[str, np.ndarray]:
    """(2, E) from genres, decades and title words to films: what a film's entry in the catalogue says."""
    from sklearn.feature_extraction.text import HashingVectorizer

    count = len(catalogue.movie_ids)
    film, genre = np.nonzero(catalogue.genres[FIRST_ITEM:])
    years = catalogue.years[FIRST_ITEM:]
    dated = np.flatnonzero(years)
    decade = ((years[dated] - FIRST_DECADE) // 10).clip(0, DECADES - 1)
    # Hashed, so that the nodes stay the same ones when films join the catalogue; a year in a title is no word.
    words = HashingVectorizer(n_features=WORDS, stop_words="english", token_pattern=r"(?u)\b[^\W\d]{3,}\b")
    titled, word = words.transform(catalogue.titles).nonzero()
    return {"genre": np.stack([count + OFFSETS[0] + genre, film]),
            "decade": np.stack([count + OFFSETS[1] + decade, dated]),
            "word": np.stack([count + OFFSETS[2] + word, titled])}


def liking_groups(data: SequenceData, rows: np.ndarray) -> np.ndarray:
    """(V, GROUPS) True where a group of people gave a film LIKED stars on average in at least FEWEST_IN_GROUP training
    ratings."""
    people = data.people[rows]
    gender, age, _ = data.demographics[people].T
    told = (gender > 0) & (age > 0) & (data.ratings[rows] > 0)
    cell = (data.items[rows][told] - FIRST_ITEM) * GROUPS + (gender[told] - 1) * len(AGE_GROUPS) + age[told] - 1
    shape = (len(data.catalogue.movie_ids), GROUPS)
    size = shape[0] * shape[1]
    count = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=data.ratings[rows][told], minlength=size)
    return ((count >= FEWEST_IN_GROUP) & (total >= LIKED * count)).reshape(shape)


def film_neighbours(data: SequenceData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """(V, K) nearest films by each relation of CO_WATCH, -1 where there are fewer: j for which |i and j| / sqrt(|j|) is
    largest, |j| its training interactions."""
    people = data.people[rows]
    films, times = data.items[rows] - FIRST_ITEM, data.timestamps[rows]
    count = len(data.catalogue.movie_ids)
    together = (people[1:] == people[:-1]) & (times[1:] - times[:-1] <= SESSION)
    ones = np.ones(int(together.sum()))
    after = sparse.csr_matrix((ones, (films[:-1][together], films[1:][together])), shape=(count, count))  # i, then j
    liked = data.ratings[rows] >= LIKED
    has = sparse.csr_matrix((np.ones(int(liked.sum())), (people[liked], films[liked])), shape=(data.num_users, count))
    has.data[:] = 1.0  # a film twice is a film once
    relations = {"follows": after.T, "followed_by": after, "liked_with": has.T @ has}
    weight = np.sqrt(np.bincount(films, minlength=count))
    return {name: _nearest(matrix.tocsr(), weight) for name, matrix in relations.items()}


def _nearest(matrix: sparse.csr_matrix, weight: np.ndarray) -> np.ndarray:
    """(V, K) columns with the largest entries over their weight in each row, the row's own film left out, the lower
    film first at ties."""
    matrix = matrix - sparse.diags(matrix.diagonal(), format="csr")
    found = np.full((matrix.shape[0], NEIGHBOURS), -1, dtype=np.int32)
    for row in range(matrix.shape[0]):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, counts = matrix.indices[entries], matrix.data[entries]
        enough = counts >= FEWEST_TOGETHER
        columns, counts = columns[enough], counts[enough]
        order = np.lexsort((columns, -counts / weight[columns]))[:NEIGHBOURS]
        found[row, :len(order)] = columns[order]
    return found
