"""Train a model and recommend five items: `python -m examples.train_and_recommend`"""

import sys
from pathlib import Path
from typing import Any

import torch

from data_processor import load
from engine import RecommendationEngine
from model_io import new_model, save_model
from presets import preset_settings
from support.errors import run_command
from training_loop import fit


def main(folder: str = "checkpoints/example", **changes: Any) -> None:
    """changes: settings by name, as in settings.py; dataset may be a file of your own."""
    settings = preset_settings("quick").replace(**changes)
    data = load(settings.data)
    torch.manual_seed(settings.train.seed)
    model = new_model(data, settings.model)
    progress = fit(model, data, settings)
    save_model(Path(folder), model, settings, data, progress.best)

    engine = RecommendationEngine(folder, data_dir=settings.data.data_dir)
    first_user = data.catalogue.users.id(1)
    for item in engine.get_recommendations(first_user, k=5):
        print(f"{item.rank}. {item.name}")


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
