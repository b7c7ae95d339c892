"""Go on with a trained model when new items, users and interactions have come:
`python -m examples.fine_tune_on_new_data`

As `python trainer.py --start_from checkpoints/best --max_epochs 24`, with the settings of the
older training: the model keeps its weights, new items and users get a place in it, and it trains
for half of the epochs on what is known now, without the interactions that are held out to choose
and test it.
"""

import sys
from pathlib import Path
from typing import Any

import trainer
from model_io import load_model
from support.errors import run_command


def main(
    folder: str = "checkpoints/best",
    result: str = "checkpoints/fine_tuned",
    **changes: Any,
) -> None:
    """changes: settings by name; data_dir is the folder with the newer files."""
    settings = load_model(Path(folder), data_dir=changes.get("data_dir")).settings
    values = {
        "start_from": folder,
        "max_epochs": 24,
        "eval_every": 4,
        "checkpoint_dir": result,
        **changes,
    }
    trainer.train(settings.replace(**values))


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
