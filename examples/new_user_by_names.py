"""Recommend for a user who names a few films: `python -m examples.new_user_by_names`"""

from __future__ import annotations

import sys
from typing import Any

from engine import RecommendationEngine
from item_search import find_items
from support.errors import run_command


def main(
    folder: str = "checkpoints/best",
    names: str = "Alien (1979); Blade Runner (1982)",
    data_dir: str | None = None,
    **user_columns: Any,
) -> None:
    """names: separated by semicolons; user_columns: what else is known, {'gender': 'F', 'age':
    30} by default.
    """
    engine = RecommendationEngine(folder, data_dir=data_dir)
    watched = find_items(engine.catalogue.items, engine.schema, names)
    columns = user_columns or {"gender": "F", "age": 30}
    for item in engine.get_recommendations(None, watched, k=5, user_columns=columns):
        print(f"{item.rank}. {item.name}  {item.columns}")


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
