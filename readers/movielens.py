"""MovieLens as GroupLens publishes it: 1M (`.dat`), 100K (`u.data`), and the CSV of all others.

Formats: the README files inside the archives at https://files.grouplens.org/datasets/movielens/.
"""

import hashlib
import io
from pathlib import Path

import pandas as pd

from readers.raw import File
from readers.tables import named_errors, read_file

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
ONE_MILLION = {
    "interactions": ("ratings.dat", "::", RATINGS),
    "items": ("movies.dat", "::", ["movie_id", "title", "genres"]),
    "users": (
        "users.dat",
        "::",
        ["user_id", "gender", "age", "occupation", "zip_code"],
    ),
}
HUNDRED_THOUSAND = {
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
    """(tables, note) of the MovieLens version in a folder.

    note: for every number measured on it. Raises `UserError` naming file and line.
    """
    ratings = folder / "ratings.dat"
    one_million = ratings.exists()
    smaller = (folder / "u.data").exists() and not one_million
    in_csv = (folder / "ratings.csv").exists()
    if in_csv and not one_million and not smaller:
        files = {
            "interactions": read_file(folder / "ratings.csv"),
            "items": read_file(folder / "movies.csv"),
        }
    else:
        layout = HUNDRED_THOUSAND if smaller else ONE_MILLION
        files = {
            table: _read_lines(folder / name, separator, fields)
            for table, (name, separator, fields) in layout.items()
        }
    films = files["items"].frame
    years = films["title"].str.extract(r"\((\d{4})\)\s*$")
    films["year"] = years[0].astype(float)
    if "genres" not in films:
        flags = films[list(GENRES)] == "1"
        films["genres"] = flags.dot(pd.Index(GENRES) + "|")
    if not one_million:
        return files, ""
    digest = hashlib.md5(ratings.read_bytes()).hexdigest()
    return files, ESTIMATED_COPY_NOTE if digest == ESTIMATED_COPY_MD5 else ""


def _read_lines(path, separator, fields):
    """Every line split into its fields; those of RATINGS are whole numbers."""
    import pyarrow as pa
    from pyarrow import csv

    # Arrow's own keeps what is freed
    pa.set_memory_pool(pa.system_memory_pool())
    kinds = {
        name: pa.int64() if name in RATINGS else pa.string() for name in fields
    }
    with named_errors(path):
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
    return File(table.to_pandas(), str(path))
