"""MovieLens 1M and 100K from their original files. Both readers return `Interactions`.

Formats: the README files inside https://files.grouplens.org/datasets/movielens/ml-1m.zip and ml-100k.zip.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from readers.interactions import AGE_GROUPS, GENRES, Interactions, validate
from support.errors import UserError

ENCODING = "latin-1"
# A copy of ratings.dat in circulation whose timestamps are partly reconstructed; numbers from it must say so.
ESTIMATED_COPY_MD5 = "1853567acfd2080deafecd8b5380fd58"
ESTIMATED_COPY_NOTE = "timestamps of 12.4 % of the rows estimated, median bracket 113 s"
RATING_COLUMNS = ["user_id", "movie_id", "rating", "timestamp"]
ML_1M_OCCUPATIONS = dict(enumerate((
    "other or not specified", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer",
    "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
    "tradesman/craftsman", "unemployed", "writer")))


def read_ml_1m(folder: Path) -> Interactions:
    """MovieLens 1M from `ratings.dat`, `movies.dat`, `users.dat`. Raises `UserError` naming file and line."""
    files = {table: folder / f"{table}.dat" for table in ("ratings", "movies", "users")}
    ratings = _read_ratings(files["ratings"], "::")
    movies = pd.DataFrame(_read_fields(files["movies"], "::", 3), columns=["movie_id", "title", "genres"])
    movies["movie_id"] = _integers(movies["movie_id"], files["movies"], "film id")
    movies["year"] = movies["title"].map(release_year)
    users = pd.DataFrame(_read_fields(files["users"], "::", 5),
                         columns=["user_id", "gender", "age", "occupation", "zip_code"]).drop(columns="zip_code")
    for name in ("user_id", "age", "occupation"):
        users[name] = _integers(users[name], files["users"], name)
    estimated = hashlib.md5(files["ratings"].read_bytes()).hexdigest() == ESTIMATED_COPY_MD5
    return validate(Interactions("ml-1m", ratings, movies, users, ML_1M_OCCUPATIONS,
                                 ESTIMATED_COPY_NOTE if estimated else ""),
                    {table: str(path) for table, path in files.items()})


def read_ml_100k(folder: Path) -> Interactions:
    """MovieLens 100K from `u.data`, `u.item`, `u.user`, `u.occupation`; ages become the age groups of ML-1M."""
    files = {"ratings": folder / "u.data", "movies": folder / "u.item", "users": folder / "u.user"}
    ratings = _read_ratings(files["ratings"], "\t")
    rows = _read_fields(files["movies"], "|", 24)
    # Columns 5 to 23 are the genres; the first of them, 'unknown', means none.
    genres = ["|".join(name for name, flag in zip(GENRES, row[6:], strict=True) if flag == "1") for row in rows]
    movies = pd.DataFrame({"movie_id": [row[0] for row in rows], "title": [row[1] for row in rows], "genres": genres})
    movies["movie_id"] = _integers(movies["movie_id"], files["movies"], "film id")
    movies["year"] = movies["title"].map(release_year)
    users = pd.DataFrame(_read_fields(files["users"], "|", 5),
                         columns=["user_id", "age", "gender", "occupation", "zip_code"]).drop(columns="zip_code")
    for name in ("user_id", "age"):
        users[name] = _integers(users[name], files["users"], name)
    lower_bounds = np.array(list(AGE_GROUPS))
    users["age"] = lower_bounds[np.maximum(np.searchsorted(lower_bounds, users["age"], side="right") - 1, 0)]
    names = [name for (name,) in _read_fields(folder / "u.occupation", "|", 1)]
    code = {name: index for index, name in enumerate(names)}
    users["occupation"] = users["occupation"].map(lambda name: code.get(name, -1)).astype("int64")
    return validate(Interactions("ml-100k", ratings, movies, users, dict(enumerate(names))),
                    {table: str(path) for table, path in files.items()})


def release_year(title: str) -> int:
    """Year in the parentheses that end a title; 0 where there is none."""
    match = re.search(r"\((\d{4})\)\s*$", title)
    return int(match.group(1)) if match else 0


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; the folder must hold the data set's original files") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, expected a file") from None
    if not content.strip():
        raise UserError(f"{path} is empty; fetch the data set again")
    return content


def _read_ratings(path: Path, separator: str) -> pd.DataFrame:
    """Four integers a line. The C parser reads a million lines in a fraction of a second; if it stumbles, a slow
    second look finds the line."""
    content = _read_bytes(path)
    if separator != "\t" and b"\t" not in content and content.count(b":") == 6 * _line_count(content):
        content, tidy = content.replace(separator.encode(), b"\t"), True
    else:
        tidy = separator == "\t"
    if tidy and b'"' not in content and b" " not in content:
        try:
            return pd.read_csv(io.BytesIO(content), sep="\t", header=None, names=RATING_COLUMNS, dtype=np.int64,
                               index_col=False, skip_blank_lines=False, quoting=3, encoding=ENCODING,
                               on_bad_lines="error", na_filter=False)
        except (ValueError, OverflowError):
            pass  # pandas' ParserError is a ValueError; its message does not name the line
    for number, line in enumerate(_read_bytes(path).decode(ENCODING).splitlines(), start=1):
        fields = line.split(separator)
        if len(fields) != 4 or not all(re.fullmatch(r"-?\d{1,18}", text) for text in fields):
            raise UserError(f"{path}:{number}: expected user{separator!s}movie{separator!s}rating{separator!s}timestamp"
                            f" in whole numbers, found {line[:60]!r}; correct the line or fetch the data set again")
    raise UserError(f"{path}: not a ratings file; fetch the data set again")


def _line_count(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n"))


def _read_fields(path: Path, separator: str, count: int) -> list[list[str]]:
    """Fields of each line, checked for number and encoding."""
    rows = []
    for number, line in enumerate(_read_bytes(path).splitlines(), start=1):
        if not line.isascii() and (_is_utf8(line) or re.search(rb"[\x80-\x9f]", line)):
            raise UserError(f"{path}:{number}: not {ENCODING} text, {line[:60]!r}; "
                            f"convert the file: iconv -f UTF-8 -t ISO-8859-1")
        fields = line.decode(ENCODING).split(separator)
        if len(fields) != count or "\0" in fields[0]:
            raise UserError(f"{path}:{number}: expected {count} fields separated by {separator!r}, found "
                            f"{line[:60].decode(ENCODING)!r}; correct the line or fetch the data set again")
        rows.append(fields)
    return rows


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _integers(column: pd.Series, path: Path, what: str) -> pd.Series:
    bad = ~column.str.fullmatch(r"\d{1,18}")
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}:{row + 1}: {what} {column.iloc[row]!r} is not a whole number; correct the line")
    return column.astype("int64")
