"""What an explanation says, and how to check it: `python -m examples.read_an_explanation`"""

import dataclasses
import sys

import numpy as np

from engine import Query, RecommendationEngine
from support.errors import run_command


def main(
    folder: str = "checkpoints/best", user_id: int = 123, data_dir: str | None = None
) -> None:
    """Explain the first item that is recommended to a user."""
    engine = RecommendationEngine(folder, data_dir=data_dir)
    query = Query(engine.history(user_id), k=10)
    first = engine.answer([query])[0][0]
    (why,) = engine.explain(query, [first.id], in_full=True)
    print(f"{first.name}: {why.sentence}")
    for item in why.history[:3]:
        print(
            f"  {item.effect:+.2f} of its log-probability is due to {item.name}; without "
            f"that it stands {item.places} "
            f"places lower"
        )
    for feature in why.features:
        print(f"  {feature.effect:+.2f} is lost without {feature.label}")
    gone = why.what_if.without
    if gone is None:
        print("  it stays whatever is left out")
        return
    print(f"  not among the first ten without {', '.join(item.name for item in gone)}")

    # Is it true? Leave out what it names, and ask again.
    if gone:
        rows = engine.catalogue.items.index([item.id for item in gone])
        history = query.history
        kept = ~np.isin(history.items, rows)
        kept[: -engine.seq_length] = False  # what the model had not read stays unread
        whole = history.whole and len(history.items) <= engine.seq_length
        shorter = dataclasses.replace(history.select(kept), whole=whole)
        again = engine.answer(
            [dataclasses.replace(query, k=10 + len(gone), history=shorter)]
        )[0]
        left_out = {item.id for item in gone}
        names = [item.name for item in again if item.id not in left_out][:10]
        print(
            f"  asked again without them, "
            f"{'it is still there' if first.name in names else 'it is gone'}"
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
