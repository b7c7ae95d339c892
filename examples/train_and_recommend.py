"""Train a model and recommend five films: `python -m examples.train_and_recommend`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data_processor import load
from inference import RecommendationEngine
from model_io import new_model, save_model
from presets import preset_settings
from support.errors import run_command
from training_loop import fit, seed_everything


def main(folder: str = "checkpoints/example", **changes: Any) -> None:
    """changes: settings by name, as in settings.py."""
    settings = preset_settings("quick").replace(**changes)
    data = load(settings.data)
    seed_everything(settings.train.seed)
    model = new_model(data, settings.model)
    progress = fit(model, data, settings)
    save_model(Path(folder), model, settings, data, progress.best)

    engine = RecommendationEngine(folder, data_dir=settings.data.data_dir)
    for film in engine.get_recommendations(int(engine.catalogue.user_ids[0]), k=5):
        print(f"{film['rank']}. {film['title']}")


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
