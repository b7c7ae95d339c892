"""What an explanation says, and how to check it: `python -m examples.read_an_explanation`"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from inference import Query, RecommendationEngine
from support.errors import run_command


def main(folder: str = "checkpoints/best", user_id: int = 123, data_dir: str | None = None) -> None:
    """Explain the first film that is recommended to somebody."""
    engine = RecommendationEngine(folder, data_dir=data_dir)
    query = Query(engine.history(user_id), k=10)
    first = engine.answer([query])[0][0]
    (why,) = engine.explain(query, [first["movie_id"]], in_full=True)
    print(f"{first['title']}: {why['sentence']}")
    for film in why["history"][:3]:
        print(f"  {film['effect']:+.2f} of its log-probability is due to {film['title']}; without it it stands "
              f"{film['places']} places lower")
    for family, lost in why["features"].items():
        print(f"  {lost:+.2f} is lost without {family}")
    gone = why["what_if"]["without"]
    print("  it stays whatever is left out" if gone is None else
          f"  not among the first ten without {', '.join(film['title'] for film in gone)}")

    # Is it true? Leave out what it names, and ask again.
    if gone:
        history = query.history
        kept = ~np.isin(history.items, engine.catalogue.item_index([film["movie_id"] for film in gone]))
        kept[:-engine.seq_length] = False  # what the model had not read stays unread
        again = engine.answer([dataclasses.replace(query, k=10 + len(gone), history=dataclasses.replace(
            history, items=history.items[kept], ratings=history.ratings[kept], timestamps=history.timestamps[kept],
            whole=history.whole and len(history.items) <= engine.seq_length))])[0]
        films = [film["title"] for film in again if film["movie_id"] not in {other["movie_id"] for other in gone}][:10]
        print(f"  asked again without them, {'it is still there' if first['title'] in films else 'it is gone'}")


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
