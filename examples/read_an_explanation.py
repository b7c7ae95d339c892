"""What an explanation says: `python -m examples.read_an_explanation`"""

import sys

from engine import Query, RecommendationEngine
from support.errors import run_command


def main(
    folder: str = "checkpoints/best",
    user_id: int = 123,
    data_dir: str | None = None,
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
    print(
        f"  not among the first ten without {', '.join(item.name for item in gone)}"
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda _: main()))
