"""`Interactions`: the validated table that every reader returns and everything downstream starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import UserError

GENRES = ("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
          "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
AGE_GROUPS = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
GENDERS = ("F", "M")


@dataclass(frozen=True)
class Interactions:
    """Ratings with what is known of films and people, all under raw ids, rows in file order.

    ratings: user_id, movie_id, rating (1-5), timestamp (seconds since 1970); synthetic data adds cause and
        cause_movie_id
    movies: movie_id, title, year (0 = unknown), genres ('Comedy|Drama', '' = none)
    users: user_id, gender ('F' or 'M'), age (lower bound of the group, a key of AGE_GROUPS), occupation (code)
    note: what must stand beside every number measured on these data
    """

    name: str
    ratings: pd.DataFrame
    movies: pd.DataFrame
    users: pd.DataFrame
    occupations: dict[int, str]
    note: str = ""


def validate(interactions: Interactions, files: dict[str, str]) -> Interactions:
    """Check ranges, references and duplicates; returns its argument.

    files: what the user knows the three tables as, e.g. {'ratings': 'ml-1m/ratings.dat', ...}; row i of a table is
    line i + 1 there. Raises `UserError` naming file, line and value.
    """
    ratings, movies, users = interactions.ratings, interactions.movies, interactions.users
    for table, frame in (("ratings", ratings), ("movies", movies), ("users", users)):
        if frame.empty:
            raise UserError(f"{files[table]} is empty; fetch the data set again")
    _reject(movies["movie_id"].duplicated(), files["movies"], "film {} is listed twice", movies["movie_id"])
    _reject(users["user_id"].duplicated(), files["users"], "user {} is listed twice", users["user_id"])
    _reject(~users["gender"].isin(GENDERS), files["users"], "gender {!r} is neither F nor M", users["gender"])
    _reject(~users["age"].isin(AGE_GROUPS), files["users"], f"age {{}} is none of {list(AGE_GROUPS)}", users["age"])
    _reject(~users["occupation"].isin(interactions.occupations), files["users"],
            "occupation {} is not a known code", users["occupation"])
    genre_lists = movies["genres"].str.split("|")
    unknown = genre_lists.map(lambda names: next((name for name in names if name and name not in GENRES), None))
    _reject(unknown.notna(), files["movies"], "genre {!r} is not one of the 18", unknown)
    _reject(~ratings["rating"].between(1, 5), files["ratings"], "rating {} is outside 1 to 5", ratings["rating"])
    _reject(ratings["timestamp"] <= 0, files["ratings"], "timestamp {} is not a time", ratings["timestamp"])
    _reject(~np.isin(ratings["user_id"], users["user_id"]), files["ratings"],
            f"user {{}} is not in {files['users']}", ratings["user_id"])
    _reject(~np.isin(ratings["movie_id"], movies["movie_id"]), files["ratings"],
            f"film {{}} is not in {files['movies']}", ratings["movie_id"])
    pair = ratings["user_id"].to_numpy() * (int(movies["movie_id"].max()) + 1) + ratings["movie_id"].to_numpy()
    _reject(pd.Series(pair).duplicated(), files["ratings"], "a second rating of film {} by the same user",
            ratings["movie_id"])
    return interactions


def _reject(bad: pd.Series | np.ndarray, file: str, message: str, values: pd.Series) -> None:
    rows = np.flatnonzero(np.asarray(bad))
    if len(rows):
        raise UserError(f"{file}:{rows[0] + 1}: {message.format(values.iloc[rows[0]])}; "
                        f"correct the line or fetch the data set again")
