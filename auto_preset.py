"""`--preset auto`: settings derived from the data, for a first model of any data set.

The rule reads three figures of the training part: interactions, how many there are of an item, how
long histories are. It was chosen on the validation items of several data sets (figures:
docs/your-own-data.md); no name of a data set plays a part. All other settings are those of the
preset `quick`.
"""

from typing import Any

import numpy as np

from dataset import Dataset

# Below either number little can be learned of each item: it is learned slowly, and held back.
FEW = 500_000  # interactions
SPARSE = 50  # interactions of an item
OF_FEW: dict[str, Any] = {
    "dropout": 0.3,
    "weight_decay": 1.0,
    "learning_rate": 0.002,
    "batch_tokens": 1024,
    "max_epochs": 25,
    "eval_every": 2,
    "user_ids": False,
    "late_start_share": 0.0,
}
MANY_ITEMS = 10_000  # of which a full softmax takes most of a step
OF_MANY_ITEMS: dict[str, Any] = {"loss": "sampled_softmax", "negatives": 2048}


def fitted(data: Dataset) -> tuple[dict[str, Any], str]:
    """(settings by name, a line with the figures that decided them)."""
    lengths = data.train_lengths
    lengths = lengths[lengths > 0]  # users who train
    interactions = int(lengths.sum())
    items = int((data.item_counts() > 0).sum())
    of_an_item = interactions / max(1, items)
    long = float(np.quantile(lengths, 0.95)) if len(lengths) else 0.0
    values: dict[str, Any] = {
        "seq_length": int(np.clip(8 * np.ceil(long / 8), 16, 200)),
    }
    if interactions < FEW or of_an_item < SPARSE:
        values |= OF_FEW
    if items > MANY_ITEMS:
        values |= OF_MANY_ITEMS
    shown = (
        f"{interactions:,} training interactions, {of_an_item:.0f} of an item, 95 % of the "
        f"histories up to {long:.0f}"
    )
    return values, shown


def as_flags(values: dict[str, Any]) -> str:
    """Settings as command-line flags."""
    flags = []
    for name, value in values.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        else:
            flags.append(f"--{name} {value}")
    return " ".join(flags)
