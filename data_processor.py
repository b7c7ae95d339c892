"""Raw interactions -> ids, features, sequences, split. `python data_processor.py` prints the data card.

One chronological order: by user, then timestamp, then file order (half of ML-1M's neighbouring timestamps are equal, so
the rule matters). What trains and what is asked for
is in splits.py.

Raw ids (`user_id`, `movie_id`: what a user types) become indices (rows of a table): `user_index` counts from 1 with 0
for an unknown person; `item_index` has PAD and MASK first, then the films in order of their raw id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from readers import read_interactions
from readers.interactions import AGE_GROUPS, GENDERS, GENRES, Interactions
from settings import DataSettings
from splits import FEWEST, Split, split_interactions
from support.errors import UserError, run_command

PAD = 0
MASK = 1
FIRST_ITEM = 2
UNKNOWN = 0  # user_index of somebody not in the data; index of a gender, age group or occupation not known
NO_RATING = 0
NO_TIME = 0


@dataclass(frozen=True)
class Catalogue:
    """Films and the possible values of user metadata: what a model must know to size its tables.

    R = rows of the item table (PAD, MASK, then one row a film), F = genres.
    """

    movie_ids: np.ndarray  # (V,) raw ids; item_index = FIRST_ITEM + position
    titles: tuple[str, ...]  # (V,)
    genres: np.ndarray  # (R, F) multi-hot
    years: np.ndarray  # (R,) release year, 0 = unknown
    user_ids: np.ndarray  # (U,) raw ids; user_index = 1 + position
    occupations: dict[int, str]

    @property
    def num_rows(self) -> int:
        """Rows R of the item table."""
        return len(self.movie_ids) + FIRST_ITEM

    @property
    def genre_shares(self) -> np.ndarray:
        """(R, F) each film's genres in equal shares that sum to 1, or 0 where it has none."""
        return self.genres / np.maximum(self.genres.sum(1, keepdims=True), 1)

    def item_index(self, movie_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices of raw film ids; PAD for films that are not in the catalogue."""
        return _positions(self.movie_ids, movie_ids, FIRST_ITEM, PAD)

    def user_index(self, user_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices of raw user ids; UNKNOWN for people who are not in the data."""
        return _positions(self.user_ids, user_ids, 1, UNKNOWN)

    def movie_id(self, item_index: np.ndarray) -> np.ndarray:
        """Raw film ids of item indices."""
        return self.movie_ids[np.asarray(item_index) - FIRST_ITEM]

    def within(self, larger: Catalogue) -> np.ndarray:
        """(V,) where these films stand among those of `larger`. Raises `UserError` if some are missing there, or the
        occupations are not the same."""
        place = larger.item_index(self.movie_ids)
        if (place == PAD).any() or self.occupations != larger.occupations:
            raise UserError("the larger catalogue lacks films or occupations that the model was trained on; add them "
                            "to it")
        return place - FIRST_ITEM

    def with_film(self, movie_id: int, title: str, year: int, genres: Sequence[str]) -> Catalogue:
        """This catalogue with one more film, year 0 if unknown; the films stay in order of their raw ids, so some move
        by a row. Raises `UserError` for an id that is taken or a genre that is none of GENRES."""
        if not 0 < movie_id < 2**62 or movie_id in self.movie_ids:
            raise UserError(f"movie_id {movie_id} is taken or not a positive number; leave it out for the next free "
                            f"one")
        if strange := [name for name in genres if name not in GENRES]:
            raise UserError(f"genres: {strange[0]!r} is none of {', '.join(GENRES)}")
        place = int(np.searchsorted(self.movie_ids, movie_id))
        row = place + FIRST_ITEM
        return dataclasses.replace(
            self, movie_ids=np.insert(self.movie_ids, place, movie_id), years=np.insert(self.years, row, year),
            titles=(*self.titles[:place], title, *self.titles[place:]),
            genres=np.insert(self.genres, row, [float(name in genres) for name in GENRES], axis=0))


@dataclass(frozen=True)
class SequenceData:
    """Everyone's interactions in chronological order, end to end, and what is known beside them.

    N interactions, U people. People are rows 0 to U - 1 here; their `user_index` is row + 1.
    """

    name: str
    catalogue: Catalogue
    offsets: np.ndarray  # (U + 1,) person u's interactions are offsets[u]:offsets[u + 1]
    items: np.ndarray  # (N,) item_index
    ratings: np.ndarray  # (N,) 1-5, or NO_RATING
    timestamps: np.ndarray  # (N,) seconds, or NO_TIME
    demographics: np.ndarray  # (U, 3) indices of gender, age group, occupation; UNKNOWN = 0
    split: Split
    split_hash: str
    note: str  # what must stand beside every number measured on these data; '' if nothing
    dropped_users: int
    dropped_items: int

    @property
    def num_users(self) -> int:
        """People U."""
        return len(self.offsets) - 1

    @property
    def people(self) -> np.ndarray:
        """(N,) whose interaction each one is."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offsets))

    def training_ends(self, held_out: bool = True) -> np.ndarray:
        """(U,) where each person's training part ends in the flat arrays; held_out False = train on everything."""
        return self.split.train_ends if held_out else self.offsets[1:]

    @property
    def train_lengths(self) -> np.ndarray:
        """(U,) interactions in each person's training part."""
        return self.split.train_ends - self.offsets[:-1]

    def training_rows(self, held_out: bool = True) -> np.ndarray:
        """Positions in the flat arrays that training may see."""
        rows = np.arange(len(self.items))
        return rows[rows < np.repeat(self.training_ends(held_out), np.diff(self.offsets))]


def load(settings: DataSettings) -> SequenceData:
    """Read a data set and process it. Raises `UserError` for missing or bad files."""
    return process(read_interactions(settings.dataset, settings.data_dir), settings)


def process(interactions: Interactions, settings: DataSettings) -> SequenceData:
    """Order, filter, index and split validated interactions."""
    everything = interactions.ratings
    ratings = everything[everything["rating"] >= settings.min_rating]
    counts = ratings["movie_id"].map(ratings["movie_id"].value_counts())
    kept = ratings[counts >= settings.min_item_count]
    per_user = kept["user_id"].map(kept["user_id"].value_counts())
    fewest = max(settings.min_user_count, FEWEST[settings.protocol])
    kept = kept[per_user >= fewest]
    if kept.empty:
        raise UserError(f"--min_item_count {settings.min_item_count}, --min_rating {settings.min_rating} and "
                        f"--min_user_count {fewest} leave no interactions; choose smaller ones")
    movie_ids, user_ids = (np.sort(kept[name].unique()) for name in ("movie_id", "user_id"))
    catalogue = _catalogue(interactions, movie_ids, user_ids)

    user_ids_column, timestamps = kept["user_id"].to_numpy(), kept["timestamp"].to_numpy()
    order = np.lexsort((np.arange(len(kept)), timestamps, user_ids_column))
    items = catalogue.item_index(kept["movie_id"].to_numpy()[order])
    users = catalogue.user_index(user_ids_column[order])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(user_ids) + 1)[1:])])
    stars, timestamps = kept["rating"].to_numpy()[order], timestamps[order]

    split = split_interactions(settings, offsets, timestamps)
    digest = hashlib.sha256(b"\x03" if split.protocol == "leave_one_out" else split.description.encode())
    demographics = _demographics(interactions, user_ids)
    for array in (movie_ids, user_ids, offsets, items, stars, timestamps, demographics, catalogue.genres,
                  catalogue.years):
        digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return SequenceData(
        name=interactions.name, catalogue=catalogue, offsets=offsets, items=items, ratings=stars,
        timestamps=timestamps, demographics=demographics, split=split, split_hash=digest.hexdigest()[:16],
        note=interactions.note, dropped_users=everything["user_id"].nunique() - len(user_ids),
        dropped_items=everything["movie_id"].nunique() - len(movie_ids))


def _catalogue(interactions: Interactions, movie_ids: np.ndarray, user_ids: np.ndarray) -> Catalogue:
    films = interactions.movies.set_index("movie_id").loc[movie_ids]
    genres = np.zeros((len(movie_ids) + FIRST_ITEM, len(GENRES)), dtype=np.float32)
    for row, names in enumerate(films["genres"].str.split("|"), start=FIRST_ITEM):
        genres[row, [GENRES.index(name) for name in names if name]] = 1
    years = np.concatenate([np.zeros(FIRST_ITEM, dtype=np.int64), films["year"].to_numpy()])
    return Catalogue(movie_ids, tuple(films["title"]), genres, years, user_ids, interactions.occupations)


def _demographics(interactions: Interactions, user_ids: np.ndarray) -> np.ndarray:
    people = interactions.users.set_index("user_id").loc[user_ids]
    ages, occupations = list(AGE_GROUPS), sorted(interactions.occupations)
    return np.stack([people["gender"].map(lambda value: 1 + GENDERS.index(value)),
                     people["age"].map(lambda value: 1 + ages.index(value)),
                     people["occupation"].map(lambda value: 1 + occupations.index(value))], axis=1).astype(np.int64)


def _positions(sorted_ids: np.ndarray, wanted: Sequence[int] | np.ndarray, first: int, absent: int) -> np.ndarray:
    """Index (from `first`) of each wanted id in a sorted array, or `absent`."""
    if not isinstance(wanted, np.ndarray):  # typed by a person: any size of number
        wanted = np.array([value if abs(value) < 2**62 else -1 for value in wanted], dtype=np.int64)
    if not len(sorted_ids):
        return np.full(wanted.shape, absent)
    place = np.searchsorted(sorted_ids, wanted).clip(max=len(sorted_ids) - 1)
    return np.where(sorted_ids[place] == wanted, place + first, absent)


def from_sequences(user_sequences: Sequence[Sequence[int]], vocab_size: int) -> SequenceData:
    """`SequenceData` of bare item numbers 1 to vocab_size, without ratings, times or metadata.

    Raises `UserError` for an item number outside that range.
    """
    lengths = np.array([len(sequence) for sequence in user_sequences], dtype=np.int64)
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(sequence, dtype=np.int64)
                                                          for sequence in user_sequences)])
    if len(flat) == 0:
        raise UserError("user_sequences holds no interaction")
    if flat.min() < 1 or flat.max() > vocab_size:
        raise UserError(f"item numbers must lie in 1 to vocab_size = {vocab_size}; found {flat.min()} to {flat.max()}")
    films = np.arange(1, vocab_size + 1)
    catalogue = Catalogue(films, tuple(f"item {film}" for film in films),
                          np.zeros((vocab_size + FIRST_ITEM, len(GENRES)), dtype=np.float32),
                          np.zeros(vocab_size + FIRST_ITEM, dtype=np.int64), np.arange(1, len(lengths) + 1), {})
    nothing, offsets = np.zeros_like(flat), np.concatenate([[0], np.cumsum(lengths)])
    return SequenceData("sequences", catalogue, offsets, catalogue.item_index(flat), nothing, nothing,
                        np.zeros((len(lengths), 3), dtype=np.int64),
                        split_interactions(DataSettings(), offsets, nothing),
                        hashlib.sha256(flat.tobytes() + lengths.tobytes()).hexdigest()[:16], "", 0, 0)


def day_of_year(timestamps: torch.Tensor) -> torch.Tensor:
    """Day of the year, 0-365, UTC, of integer seconds of any shape.

    Integer arithmetic on the proleptic Gregorian calendar with years that begin in March (Howard Hinnant,
    'chrono-Compatible Low-Level Date Algorithms').
    """
    days = timestamps // 86_400  # div(rounding_mode="floor") would pass through fp32 where the model is exported
    since_era = days + 719_468  # days since 0000-03-01
    era = since_era // 146_097
    day_of_era = since_era - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    march_day = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    year = year_of_era + era * 400 + (march_day >= 306)
    leap = ((year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))).long()
    return torch.where(march_day >= 306, march_day - 306, march_day + 59 + leap)


def data_card(data: SequenceData) -> list[tuple[str, str]]:
    """What a reader must know of the data before believing a number: (name, value) rows."""
    lengths, films = np.diff(data.offsets), data.catalogue
    same_user = np.ones(max(len(data.items) - 1, 0), dtype=bool)
    same_user[data.offsets[1:-1] - 1] = False
    ties = (np.diff(data.timestamps) == 0) & same_user
    quantiles = ", ".join(f"{int(q * 100)} % {int(np.quantile(lengths, q))}" for q in (0, .25, .5, .75, .95, 1))
    rows = [
        ("data set", data.name),
        ("interactions", f"{len(data.items):,}"),
        ("people", f"{data.num_users:,} ({data.dropped_users} dropped: too few interactions)"),
        ("films", f"{len(films.movie_ids):,} ({data.dropped_items} dropped by --min_item_count and the like)"),
        ("sparsity", f"{1 - len(data.items) / (data.num_users * len(films.movie_ids)):.4f}"),
        ("neighbouring timestamps that are equal", f"{ties.sum() / max(same_user.sum(), 1):.1%}"),
        ("history length, quantiles", quantiles),
        ("films without a year / a genre", f"{int((films.years[FIRST_ITEM:] == 0).sum())} / "
                                           f"{int((films.genres[FIRST_ITEM:].sum(1) == 0).sum())}"),
        ("rating, mean", f"{data.ratings.mean():.3f}"),
        ("from / to (UTC)", f"{_date(data.timestamps.min())} / {_date(data.timestamps.max())}"),
        ("split", data.split.description),
        ("requests, validation / test", f"{len(data.split.requests['validation']):,} / "
                                        f"{len(data.split.requests['test']):,}"),
        ("hash of the split", data.split_hash),
    ]
    if data.note:
        rows.append(("note", data.note))
    return rows


def _date(timestamp: int) -> str:
    return str(np.datetime64(int(timestamp), "s").astype("datetime64[D]"))


def main(argv: list[str]) -> None:
    """Print the data card for the given data flags."""
    from command_line import parse_command_line
    from settings import section_fields

    flags = {f"--{name}" for name in section_fields(DataSettings)}
    for token in argv:
        name = token.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        if token.startswith("--") and name not in flags | {"--help"}:
            raise UserError(f"unknown flag {token!r}; data_processor.py takes {', '.join(sorted(flags))}")
    settings, _ = parse_command_line(argv, __doc__)
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Data card", show_header=False)
    for row in data_card(load(settings.data)):
        table.add_row(*row)
    Console().print(table)
    print("Settings:", ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(settings.data).items()))


if __name__ == "__main__":
    sys.exit(run_command(main))
