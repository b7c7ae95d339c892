"""Train a model and recommend five items: `python -m examples.train_and_recommend`

In the folder of the project, or anywhere after `pip install -e .` there.
"""

import sys
from pathlib import Path
from typing import Any

from engine import RecommendationEngine
from presets import preset_settings
from support.arguments import ArgumentParser
from support.errors import run_command
from training_run import train


def main(folder: str = "checkpoints/example", **changes: Any) -> None:
    """changes: settings by name, as in settings.py; dataset may be a file of your own."""
    settings = preset_settings("quick")
    settings = settings.replace(checkpoint_dir=folder, **changes)
    train(settings)
    best = Path(folder) / "best"
    engine = RecommendationEngine(best, settings.data.data_dir)
    first_user = engine.data.catalogue.users.id(1)
    for item in engine.get_recommendations(first_user, k=5):
        print(f"{item.rank}. {item.name}")


def command(argv: list[str]) -> None:
    """The example from the command line, without flags."""
    ArgumentParser(__doc__).parse_args(argv)
    main()


if __name__ == "__main__":
    sys.exit(run_command(command))
