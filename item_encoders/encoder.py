"""What every item encoder offers."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from data_processor import Catalogue, SequenceData


class ItemEncoder(nn.Module):
    """Films to vectors, from one side of what is known of them; built as `Encoder(catalogue, settings)`.

    What an encoder keeps of the data it keeps in its state, so that a checkpoint needs no data; a title encoder needs
    not even its text encoder again.
    """

    by_experience = False  # whether it knows a film by interactions alone, and nothing of one that has none

    def prepare(self, data: SequenceData, rows: np.ndarray) -> None:
        """Look at the data once, before training. rows: positions in the flat arrays that training may see."""

    def take_over(self, older: ItemEncoder, place: Tensor, larger: Catalogue) -> None:
        """Become what `older` was, for a catalogue with further films. place: (V,) where its films stand in `larger`.

        An encoder without anything of its own for each film takes the state as it is.
        """
        self.load_state_dict(older.state_dict())

    def stand_in(self, fresh: Tensor, known: Tensor, weights: Tensor) -> None:
        """Give films without interactions (n,) the means, by weights (n, m), of known ones (m,), if `by_experience`."""

    def forward(self, films: Tensor) -> Tensor:
        """(n,) positions in the catalogue to (n, D)."""
        raise NotImplementedError
