"""What an explanation says, and how to check it: `python -m examples.read_an_explanation`"""

from __future__ import annotations

from inference import RecommendationEngine


def main(folder: str = "checkpoints/best", user_id: int = 123, data_dir: str | None = None) -> None:
    """Explain the first film that is recommended to somebody."""
    engine = RecommendationEngine(folder, data_dir=data_dir)
    history = engine.history(user_id)
    first = engine.get_recommendations(user_id, k=1)[0]
    (why,) = engine.explain(history, [first["movie_id"]], k=10)
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
        left = [movie for movie in engine.catalogue.movie_id(history.items).tolist()
                if movie not in {film["movie_id"] for film in gone}]
        again = engine.get_recommendations(user_id, left[-engine.seq_length:], k=10)
        print(f"  asked again without them: {[film['title'] for film in again][:3]} ...")


if __name__ == "__main__":
    main()
