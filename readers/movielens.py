"""MovieLens as GroupLens publishes it: 1M (`.dat`), 100K (`u.data`), and the CSV of all others.

Formats: the README files inside the archives at https://files.grouplens.org/datasets/movielens/.
"""

import hashlib
import io
import re
from pathlib import Path

import numpy as np

from readers.raw import File
from readers.tables import read_file
from support.errors import UserError

# A copy of ratings.dat in circulation whose timestamps are partly reconstructed; numbers from it
# must say so.
ESTIMATED_COPY_MD5 = "1853567acfd2080deafecd8b5380fd58"
ESTIMATED_COPY_NOTE = (
    "timestamps of 12.4 % of the rows estimated, median bracket 113 s"
)
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


ITEMS = ["movie_id", "title", "date", "video", "url", "unknown", *GENRES]
# table -> file, separator, fields
Layout = dict[str, tuple[str, str, list[str]]]
ONE_MILLION: Layout = {
    "interactions": ("ratings.dat", "::", RATINGS),
    "items": ("movies.dat", "::", ["movie_id", "title", "genres"]),
    "users": (
        "users.dat",
        "::",
        ["user_id", "gender", "age", "occupation", "zip_code"],
    ),
}
HUNDRED_THOUSAND: Layout = {
    "interactions": ("u.data", "\t", RATINGS),
    "items": ("u.item", "|", ITEMS),
    "users": (
        "u.user",
        "|",
        ["user_id", "age", "gender", "occupation", "zip_code"],
    ),
}
# No text holds it; several characters between fields are one of these for the reader.
FIELD_END = b"\x1f"


def read_movielens(folder: Path) -> tuple[dict[str, File], str]:
    """(tables, note) of whichever MovieLens lies in a folder.

    note: what must stand beside numbers measured on it. Raises `UserError` naming file and line.
    """
    one_million = (folder / "ratings.dat").exists()
    smaller = (folder / "u.data").exists()
    in_csv = (folder / "ratings.csv").exists()
    if in_csv and not one_million and not smaller:
        files = {
            "interactions": read_file(folder / "ratings.csv"),
            "items": read_file(folder / "movies.csv"),
        }
    else:
        layout = ONE_MILLION
        if smaller and not one_million:
            layout = HUNDRED_THOUSAND
        files = {
            table: _read_lines(folder / name, separator, fields)
            for table, (name, separator, fields) in layout.items()
        }
    films = files["items"].frame
    films["year"] = films["title"].map(release_year)
    if "genres" not in films:
        flags = films[list(GENRES)].to_numpy() == "1"
        films["genres"] = ["|".join(np.array(GENRES)[row]) for row in flags]
    note = ""
    if one_million:
        content = (folder / "ratings.dat").read_bytes()
        if hashlib.md5(content).hexdigest() == ESTIMATED_COPY_MD5:
            note = ESTIMATED_COPY_NOTE
    return files, note


def release_year(title: str) -> float:
    """Year in the parentheses that end a title; NaN where there is none."""
    match = re.search(r"\((\d{4})\)\s*$", title)
    return float(match.group(1)) if match else np.nan


def _read_lines(path: Path, separator: str, fields: list[str]) -> File:
    """Every line split into its fields; those of RATINGS are whole numbers."""
    import pyarrow as pa
    from pyarrow import csv

    # Arrow's own keeps what is freed
    pa.set_memory_pool(pa.system_memory_pool())
    kinds = {
        name: pa.int64() if name in RATINGS else pa.string() for name in fields
    }
    try:
        content = path.read_bytes().replace(separator.encode(), FIELD_END)
        table = csv.read_csv(
            io.BytesIO(content),
            # In one thread errors name the row.
            csv.ReadOptions(
                use_threads=False, column_names=fields, encoding="latin-1"
            ),
            csv.ParseOptions(
                delimiter=FIELD_END.decode(),
                quote_char=False,
                ignore_empty_lines=False,
            ),
            csv.ConvertOptions(column_types=kinds, null_values=[]),
        )
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; fetch the data set again, or give --data_dir with the "
            f"folder that has it"
        ) from None
    except pa.ArrowInvalid as error:
        row = re.search(r"Row #(\d+)", str(error))
        line = f":{row[1]}" if row else ""
        reason = str(error).replace(FIELD_END.decode(), separator)
        raise UserError(f"{path}{line}: {reason}; correct the line") from None
    return File(table.to_pandas(), str(path))
