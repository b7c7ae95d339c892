"""Recommend for somebody who names a few films: `python -m examples.new_user_by_titles`"""

from __future__ import annotations

import sys

from film_search import find_films
from inference import RecommendationEngine
from support.errors import run_command


def main(folder: str = "checkpoints/best", titles: str = "Alien (1979); Blade Runner (1982)",
         data_dir: str | None = None) -> None:
    """titles: separated by semicolons; years may be left out."""
    engine = RecommendationEngine(folder, data_dir=data_dir)
    watched = find_films(engine.catalogue, titles)
    for film in engine.get_recommendations(None, watched, k=5, demographics={"gender": "F", "age": 30}):
        print(f"{film['rank']}. {film['title']}  {', '.join(film['genres'])}")


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
