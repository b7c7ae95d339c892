"""One free vector a film: what collaborative filtering learns."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from data_processor import FIRST_ITEM, Catalogue, SequenceData
from item_encoders.encoder import ItemEncoder
from settings import ModelSettings
from support.errors import UserError


class IdEncoder(ItemEncoder):
    """V films to V vectors of width D.

    id_start 'svd': the vectors start as the films' directions in a truncated singular value decomposition of the matrix
    of who has which film in training, columns scaled by 1 / sqrt(people who have it); else at random.
    id_dropout: a film loses its vector in this share of training steps, so that the model learns to do with what else
    is known of it (Volkovs et al., DropoutNet, NIPS 2017).
    """

    by_experience = True

    def __init__(self, catalogue: Catalogue, settings: ModelSettings) -> None:
        super().__init__()
        self.table = nn.Embedding(len(catalogue.movie_ids), settings.hidden_size)
        self.start, self.dropout = settings.id_start, settings.id_dropout

    def prepare(self, data: SequenceData, rows: np.ndarray) -> None:
        """As in `ItemEncoder`."""
        if self.start == "svd":
            directions = torch.from_numpy(svd_directions(data, rows, self.table.embedding_dim)).float()
            with torch.no_grad():  # as long as the random vectors; films without training interactions keep those
                directions *= self.table.weight.std() / directions.std()
                self.table.weight.copy_(torch.where(directions.any(1, keepdim=True), directions, self.table.weight))

    def take_over(self, older: IdEncoder, place: Tensor, larger: Catalogue) -> None:
        """As in `ItemEncoder`; a new film's vector is 0 until others give it one."""
        with torch.no_grad():
            self.table.weight.zero_()[place] = older.table.weight

    @torch.no_grad()
    def stand_in(self, fresh: Tensor, known: Tensor, weights: Tensor) -> None:
        """As in `ItemEncoder`."""
        self.table.weight[fresh] = weights @ self.table.weight[known]

    def forward(self, films: Tensor) -> Tensor:
        """As in `ItemEncoder`."""
        vectors = self.table(films)  # (n, D)
        if not self.training or not self.dropout:
            return vectors
        return vectors * (torch.rand(len(films), 1, device=films.device) >= self.dropout)


def svd_directions(data: SequenceData, rows: np.ndarray, width: int) -> np.ndarray:
    """(V, D) films in the space of the `width` largest singular values, one direction a dimension; zeros for films that
    nobody has. Raises `UserError` where there are fewer people or films than dimensions."""
    from sklearn.utils.extmath import randomized_svd

    people = data.people[rows]
    films = data.items[rows] - FIRST_ITEM
    shape = (data.num_users, len(data.catalogue.movie_ids))
    counts = np.bincount(films, minlength=shape[1])
    matrix = sparse.csr_matrix((counts[films]**-0.5, (people, films)), shape=shape)
    if width > min(shape):
        raise UserError(f"--id_start svd: {shape[0]} people and {shape[1]} films have no {width} dimensions; "
                        f"use --id_start random or a smaller --hidden_size")
    _, sizes, directions = randomized_svd(matrix, width, random_state=0)
    return (directions * np.sqrt(sizes)[:, None]).T
