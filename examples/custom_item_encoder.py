"""An encoder of your own for a kind of column: numbers by their decades.

`python -m examples.custom_item_encoder`. An encoder turns a column's values into vectors;
whatever is registered in `features.KINDS` is built, trained and saved like the others, and
explained under the names of its columns.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

import features
from examples import train_and_recommend
from fields import Field
from support.arguments import ArgumentParser
from support.errors import run_command


class DecadeEncoder(nn.Module):
    """One vector per ten, the first for unknown."""

    def __init__(self, entry: Field, width: int) -> None:
        super().__init__()
        self.oldest = entry.knots[0]
        count = int((entry.knots[-1] - self.oldest) // 10) + 2
        self.table = nn.Embedding(count, width)

    def forward(self, values: Tensor) -> Tensor:
        """(n,) numbers, NaN where unknown, to (n, D)."""
        decade = 1 + ((values - self.oldest) // 10).nan_to_num(-1.0)
        return self.table(
            decade.clamp(0, self.table.num_embeddings - 1).to(torch.int64)
        )


def main(folder: str = "checkpoints/decades", **changes: Any) -> None:
    """changes: settings by name, as in settings.py."""
    features.KINDS["number"] = DecadeEncoder
    train_and_recommend.main(folder, **changes)


def command(argv: list[str]) -> None:
    """The example from the command line, without flags."""
    ArgumentParser(__doc__).parse_args(argv)
    main()


if __name__ == "__main__":
    sys.exit(run_command(command))
