"""The models behind the service: the one served, those it is compared with, a newer checkpoint
when there is one."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines.popularity import Popularity
from engine import RecommendationEngine
from item_search import folded
from support.checkpoint import INFO, WEIGHTS, read_json
from support.errors import UserError

SHOWN = 20  # items that a search lists
YEAR = re.compile(r" \d{4}$")


@dataclass(frozen=True)
class Engines:
    """`main` answers; `others` by name, for comparison. has_data: whether users of the data can
    be asked for."""

    main: RecommendationEngine
    others: dict[str, RecommendationEngine]
    has_data: bool
    # row and folded name, the most popular first where known
    names: tuple[tuple[int, str], ...]

    def search(self, query: str) -> list[int]:
        """Rows of at most SHOWN items whose names hold all words of a query: the id or name
        itself first, then names that begin so, then the most popular."""
        wanted = folded(query)
        words = wanted.split()
        items = self.main.catalogue.items
        found = []
        for row, name in self.names if words else ():
            own_id = str(items.id(row)).casefold() == query.strip().casefold()
            if own_id or all(word in name for word in words):
                exact = own_id or wanted in (name, YEAR.sub("", name))
                begins = f"{name} ".startswith(f"{wanted} ")
                found.append((not exact, not begins, len(found), row))
        return [row for *_, row in sorted(found)[:SHOWN]]


def load_engines(
    model_path: Path,
    vanilla_path: Path | None,
    data_dir: str | None,
    older: Engines | None = None,
) -> Engines:
    """Read the checkpoints and, where it is to be had, the data; what `older` has of the same is
    kept.

    Raises `UserError` if the served checkpoint cannot be used. Without data there are no users
    and no popularity, and without its names or with those of another data set no vanilla model:
    said in a line each.
    """
    main = RecommendationEngine(model_path, data_dir=data_dir, mapped=True)
    items = main.catalogue.items
    counts, others, has_data = np.zeros(len(items)), {}, True
    if (
        older
        and older.has_data
        and older.main.info["split_hash"] == main.info["split_hash"]
    ):
        main.catalogue, main.data = older.main.catalogue, older.main.data
    try:
        popularity = Popularity(main.data)
        others["popularity"] = main.with_scorer(popularity)
        counts = popularity.counts.numpy()
    except (UserError, OSError) as error:
        has_data = False
        print(f"without users and popularity: {error}", flush=True)
    if older is not None and "vanilla" in older.others:
        others["vanilla"] = older.others["vanilla"]
    elif vanilla_path is not None:
        vanilla = _vanilla(vanilla_path, data_dir, main)
        if vanilla is not None:
            others["vanilla"] = vanilla
    order = items.first + np.argsort(-counts[items.first :], kind="stable")
    names = tuple((int(row), folded(items.names[row])) for row in order)
    return Engines(main, others, has_data, names)


def _vanilla(
    path: Path, data_dir: str | None, main: RecommendationEngine
) -> RecommendationEngine | None:
    """The model to compare with, None with a line that says why not."""
    try:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        other = read_json(path / INFO).get("schema", {}).get("name")
        if other != main.schema.name:
            raise UserError(f"{path} was trained on {other}, where ids are others")
        return RecommendationEngine(path, data_dir=data_dir, mapped=True)
    except UserError as error:
        print(f"without vanilla: {error}", flush=True)
        return None


def version_of(model_path: Path) -> tuple[tuple[int, int, int], ...] | None:
    """What changes when a checkpoint folder is replaced, or a file in it; None while a part is
    missing.
    """
    try:
        found = [(model_path / name).stat() for name in (INFO, WEIGHTS)]
    except OSError:
        return None
    return tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in found)
