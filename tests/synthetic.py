"""A synthetic data set like MovieLens in which the cause of every interaction is known.

The truth it is built on (all draws from one seeded stream of uniform numbers):

- 400 films. Each has one to three genres, a year, a popularity, and exactly one *sequel*: another
  film that people tend to watch soon after it. The sequels form one cycle through a random order
  of the films.
- 1,000 people with gender, age group and occupation; each has two favourite genres.
- Each age group has 25 favourite films of its own, and each of the four seasons of the year 30.
- A person's next film is chosen by one of five causes, tried with the probabilities in CAUSES:
    earlier_film  the sequel of one of the last three films watched (cause_movie_id holds it)
    age_group     a favourite film of the person's age group
    season        a favourite film of the season in which the moment falls
    genre_taste   a film with one of the person's favourite genres, drawn by popularity
    chance        any film, drawn by popularity
  Nobody watches a film twice; a cause that has nothing unseen to offer gives way to `chance`.
- The rating depends on taste: 3 for a film without a favourite genre, 4 for one with, plus 1 for
  the cause `earlier_film`, plus noise of -1, 0 or +1, kept within 1 to 5.
- Sessions: two of three gaps between interactions are under ten minutes, the others one to sixty
  days.

Columns `cause` and `cause_movie_id` (0 = none) of `ratings` hold the truth. `datasets/synthetic/`
is what it writes: `python -m tests.synthetic`. It is frozen: a test holds the hash of its output,
so that numbers measured on it stay comparable.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from readers.movielens import GENRES
from readers.raw import File

CAUSES = {
    "earlier_film": 0.35,
    "age_group": 0.15,
    "season": 0.15,
    "genre_taste": 0.25,
    "chance": 0.10,
}
# What an explanation should name: 'history' for an item of it, else the family of features.
FAMILY_OF_CAUSE = {
    "earlier_film": "history",
    "age_group": "users.age",
    "season": "times",
}
FOLDER = Path(__file__).parent.parent / "datasets" / "synthetic"
FIRST_TIME = 946_684_800  # 2000-01-01
DAY = 86_400
SEQUEL_MEMORY = 3
AGES = (1, 18, 25, 35, 45, 50, 56)  # lower bounds of age groups
RATINGS = [
    "user_id",
    "movie_id",
    "rating",
    "timestamp",
    "cause",
    "cause_movie_id",
]


class _World:
    """What holds before anybody watches anything."""

    def __init__(self, draw: np.random.Generator, films: int) -> None:
        # Only `draw.random` is used: its stream is the part of numpy that stays the same across
        # versions.
        self.genres = np.zeros((films, len(GENRES)), dtype=bool)
        for film in range(films):
            chosen = (
                draw.random(1 + int(draw.random() * 3)) * len(GENRES)
            ).astype(int)
            self.genres[film, chosen] = True
        self.year = 1940 + (60 * np.sqrt(draw.random(films))).astype(int)
        self.popularity = 1.0 / (1.0 + np.argsort(draw.random(films))) ** 0.6
        order = np.argsort(draw.random(films))
        self.sequel = np.empty(films, dtype=int)
        self.sequel[order] = np.roll(order, -1)
        self.age_films = [np.argsort(draw.random(films))[:25] for _ in AGES]
        self.season_films = [
            np.argsort(draw.random(films))[:30] for _ in range(4)
        ]


def generate(
    seed: int = 7, people: int = 1000, films: int = 400
) -> dict[str, File]:
    """The tables; about 45 interactions a user. The defaults are the frozen data set."""
    draw = np.random.Generator(np.random.PCG64(seed))
    world = _World(draw, films)
    rows: list[tuple] = []
    users = []
    for person in range(people):
        age = int(draw.random() * len(AGES))
        gender = "FM"[int(draw.random() * 2)]
        users.append((person + 1, gender, AGES[age], int(draw.random() * 5)))
        taste = (draw.random(2) * len(GENRES)).astype(int)
        tasty = world.genres[:, taste].any(axis=1)
        rows += _one_user(draw, world, person + 1, age, tasty)
    movies = {
        "movie_id": np.arange(1, films + 1),
        "title": [
            f"Synthetic Film {film + 1:03d} ({year})"
            for film, year in enumerate(world.year)
        ],
        "year": world.year.astype(np.int64),
        "genres": [
            "|".join(np.array(GENRES)[flags]) for flags in world.genres
        ],
    }
    frames = {
        "interactions": pd.DataFrame(rows, columns=RATINGS),
        "items": pd.DataFrame(movies),
        "users": pd.DataFrame(
            users, columns=["user_id", "gender", "age", "occupation"]
        ),
    }
    return {
        table: File(frame, f"synthetic {table}")
        for table, frame in frames.items()
    }


def shipped() -> dict[str, pd.DataFrame]:
    """The frozen data set as `datasets/synthetic/` has it: file -> table."""
    tables = {name: file.frame for name, file in generate().items()}
    rows = tables["interactions"]
    causes = rows[["user_id", "movie_id", "cause", "cause_movie_id"]]
    causes = causes.set_axis(["user", "item", "cause", "source"], axis=1)
    return {
        **tables,
        "interactions": rows[RATINGS[:4]],
        "causes": causes.assign(
            family=causes["cause"].map(FAMILY_OF_CAUSE).fillna("")
        ),
    }


def season_of(timestamp: int) -> int:
    """0 = December to February, 1 = March to May, 2 = June to August, 3 = September to November
    (UTC).
    """
    return pd.Timestamp(timestamp, unit="s").month % 12 // 3


def _one_user(
    draw: np.random.Generator,
    world: _World,
    user_id: int,
    age: int,
    tasty: np.ndarray,
) -> list[tuple]:
    seen: list[int] = []
    unseen = np.ones(len(world.year), dtype=bool)
    time = FIRST_TIME + int(draw.random() * 365 * DAY)
    rows = []
    for _ in range(min(20 + int(draw.random() ** 2 * 75), len(unseen) // 2)):
        name = list(CAUSES)[_pick(draw, np.array(list(CAUSES.values())))]
        led_to = {
            "earlier_film": world.sequel[seen[-SEQUEL_MEMORY:]],
            "age_group": world.age_films[age],
            "season": world.season_films[season_of(time)],
            "genre_taste": np.flatnonzero(tasty),
        }
        possible = np.zeros_like(unseen)
        possible[led_to.get(name, [])] = True
        possible &= unseen
        if not possible.any():
            name, possible = "chance", unseen
        by_popularity = name in ("genre_taste", "chance")
        weight = world.popularity if by_popularity else 1.0
        film = _pick(draw, possible * weight)
        cause = 0
        if name == "earlier_film":
            recent = reversed(seen[-SEQUEL_MEMORY:])
            sources = (old for old in recent if world.sequel[old] == film)
            cause = next(sources) + 1
        rating = 2 + int(tasty[film]) + bool(cause) + int(draw.random() * 3)
        rows.append(
            (user_id, film + 1, min(max(rating, 1), 5), time, name, cause)
        )
        seen.append(film)
        unseen[film] = False
        if draw.random() < 2 / 3:
            time += int(10 + draw.random() * 590)
        else:
            time += int(DAY * (1 + 59 * draw.random()))
    return rows


def _pick(draw: np.random.Generator, weight: np.ndarray) -> int:
    """Index drawn in proportion to weight."""
    total = np.cumsum(weight)
    return int(np.searchsorted(total, draw.random() * total[-1], side="right"))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    # The same bytes whenever it is written.
    zipped = {"method": "gzip", "mtime": 0}
    for name, table in shipped().items():
        path = FOLDER / f"{name}.csv.gz"
        table.to_csv(path, index=False, compression=zipped)
