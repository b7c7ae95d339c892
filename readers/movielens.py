"""MovieLens as GroupLens publishes it: 1M (`.dat`), 100K (`u.data`), and the CSV of all others.

Formats: the README files inside the archives at https://files.grouplens.org/datasets/movielens/.
"""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from readers.raw import File
from support.errors import UserError

ENCODING = "latin-1"
# A copy of ratings.dat in circulation whose timestamps are partly reconstructed; numbers from it
# must say so.
ESTIMATED_COPY_MD5 = "1853567acfd2080deafecd8b5380fd58"
ESTIMATED_COPY_NOTE = "timestamps of 12.4 % of the rows estimated, median bracket 113 s"
RATINGS = ["user_id", "movie_id", "rating", "timestamp"]
# In the order of the flags of u.item, which has one for 'unknown' before them.
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def read_movielens(folder: Path) -> tuple[dict[str, File], str]:
    """(tables, note) of whichever MovieLens lies in a folder.

    note: what must stand beside numbers measured on it. Raises `UserError` naming file and line.
    """
    if (folder / "ratings.dat").exists():
        return _read_1m(folder)
    if (folder / "u.data").exists():
        return _read_100k(folder), ""
    if (folder / "ratings.csv").exists():
        return _read_csv(folder), ""
    raise UserError(
        f"{folder} has no ratings.dat, u.data or ratings.csv; give --data_dir with the "
        f"folder that has the files of MovieLens"
    )


def _read_1m(folder: Path) -> tuple[dict[str, File], str]:
    ratings, movies, users = (
        folder / f"{name}.dat" for name in ("ratings", "movies", "users")
    )
    frames = {
        "interactions": _read_ratings(ratings, "::"),
        "items": _read_lines(movies, "::", ["movie_id", "title", "genres"]),
        "users": _read_lines(
            users, "::", ["user_id", "gender", "age", "occupation", "zip_code"]
        ),
    }
    frames["items"]["year"] = frames["items"]["title"].map(release_year)
    estimated = hashlib.md5(ratings.read_bytes()).hexdigest() == ESTIMATED_COPY_MD5
    files = {
        table: File(frame, str(path))
        for (table, frame), path in zip(
            frames.items(), (ratings, movies, users), strict=True
        )
    }
    return files, ESTIMATED_COPY_NOTE if estimated else ""


def _read_100k(folder: Path) -> dict[str, File]:
    ratings, movies, users = folder / "u.data", folder / "u.item", folder / "u.user"
    unnamed = [f"flag {number}" for number in range(19)]
    items = _read_lines(
        movies, "|", ["movie_id", "title", "date", "video", "url", *unnamed]
    )
    flags = items[unnamed[1:]].to_numpy() == "1"
    items["genres"] = ["|".join(np.array(GENRES)[row]) for row in flags]
    items["year"] = items["title"].map(release_year)
    people = _read_lines(
        users, "|", ["user_id", "age", "gender", "occupation", "zip_code"]
    )
    return {
        "interactions": File(_read_ratings(ratings, "\t"), str(ratings)),
        "items": File(items[["movie_id", "title", "genres", "year"]], str(movies)),
        "users": File(people, str(users)),
    }


def _read_csv(folder: Path) -> dict[str, File]:
    from readers.tables import read_file

    items = read_file(folder / "movies.csv")
    items.frame["year"] = items.frame["title"].map(release_year)
    return {"interactions": read_file(folder / "ratings.csv"), "items": items}


def release_year(title: str) -> float:
    """Year in the parentheses that end a title; NaN where there is none."""
    match = re.search(r"\((\d{4})\)\s*$", title)
    return float(match.group(1)) if match else np.nan


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; put the file in its place") from None
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; fetch the data set again, or give --data_dir with the "
            f"folder that has it"
        ) from None


def _read_ratings(path: Path, separator: str) -> pd.DataFrame:
    """Four whole numbers a line; the fast way where all is well, the slow one to name the line."""
    content = _read_bytes(path)
    single = content.replace(separator.encode(), b"\t")
    mixed = separator != "\t" and b"\t" in content
    try:
        frame = pd.read_csv(
            io.BytesIO(single),
            sep="\t",
            names=RATINGS,
            dtype=np.int64,
            encoding=ENCODING,
            on_bad_lines="error",
            index_col=False,
            skip_blank_lines=False,
        )
        if not mixed and not frame.empty and not frame.isna().to_numpy().any():
            return frame
    except (ValueError, OverflowError):
        pass
    rows = _read_lines(path, separator, RATINGS)
    for name in RATINGS:
        _whole_numbers(path, rows[name])
    return rows.astype(np.int64)


def _whole_numbers(path: Path, values: pd.Series) -> None:
    """Raise `UserError` naming the first line whose value is no whole number."""
    wrong = ~values.str.fullmatch(r"-?\d{1,18}")
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}:{row + 1}: {values.name} {values.iloc[row]!r} is not a whole number; "
            f"correct the line"
        )


def _read_lines(path: Path, separator: str, fields: list[str]) -> pd.DataFrame:
    """Every line split into its fields. Raises `UserError` naming the first that has others."""
    lines = _read_bytes(path).decode(ENCODING).splitlines()
    rows = [line.split(separator) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(fields):
            raise UserError(
                f"{path}:{number}: {len(row)} fields instead of {len(fields)}; correct "
                f"the line"
            )
    frame = pd.DataFrame(rows, columns=fields)
    _whole_numbers(path, frame[fields[0]])
    return frame
