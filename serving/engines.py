"""The models behind the service: the one served, those it is compared with, a newer checkpoint when there is one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.popularity import Popularity
from batches import Batch
from data_processor import FIRST_ITEM
from film_search import folded
from inference import RecommendationEngine
from support.checkpoint import INFO, WEIGHTS
from support.errors import UserError

SHOWN = 20  # films that a search lists


@dataclass(frozen=True)
class Engines:
    """`main` answers; `others` by name, for comparison. has_data: whether people of the data can be asked for."""

    main: RecommendationEngine
    others: dict[str, RecommendationEngine]
    has_data: bool
    titles: tuple[tuple[int, str], ...]  # item_index and folded title, the most popular first where that is known

    def search(self, query: str) -> list[int]:
        """item_index of at most SHOWN films whose titles hold all words of a query."""
        words = folded(query).split()
        found = (index for index, title in self.titles if all(word in title for word in words))
        return [index for index, _ in zip(found, range(SHOWN), strict=False)] if words else []


class MostPopular(torch.nn.Module):
    """The most popular films of the training part, in the shape of a model."""

    starts, places_new_films = True, False

    def __init__(self, engine: RecommendationEngine) -> None:
        super().__init__()
        self.scores = Popularity(engine.data).scores  # (R,)

    def request_states(self, batch: Batch) -> Tensor:
        """(B, 1): nothing of the history matters."""
        return torch.zeros(len(batch.lengths), 1)

    def rank(self, states: Tensor, _batch: Batch) -> Tensor:
        """(B, R) counts."""
        return self.scores.repeat(len(states), 1)


def load_engines(model_path: Path, vanilla_path: Path | None, data_dir: str | None,
                 older: Engines | None = None) -> Engines:
    """Read the checkpoints and, where it is to be had, the data; what `older` has of the same is kept.

    Raises `UserError` if the served checkpoint cannot be used. Without data there are no people and no popularity, and
    without its titles or with those of another data set no vanilla model: said in a line each.
    """
    main = RecommendationEngine(model_path, data_dir=data_dir, mapped=True)
    has_data, others = True, {}
    if older is not None and older.has_data and older.main.info["split_hash"] == main.info["split_hash"]:
        main.data = older.main.data
    try:
        popular = copy.copy(main)
        popular.model = MostPopular(main)
        others["popularity"] = popular
    except (UserError, OSError) as error:
        has_data = False
        print(f"without people and popularity: {error}", flush=True)
    if older is not None and "vanilla" in older.others:
        others["vanilla"] = older.others["vanilla"]
    elif vanilla_path is not None:
        try:
            vanilla = RecommendationEngine(vanilla_path, data_dir=data_dir, mapped=True)
            if vanilla.info["dataset"] != main.info["dataset"]:
                raise UserError(f"{vanilla_path} was trained on {vanilla.info['dataset']}, where ids are other films'")
            others["vanilla"] = vanilla
        except UserError as error:
            print(f"without vanilla: {error}", flush=True)
    counts = others["popularity"].model.scores.numpy() if has_data else np.zeros(main.catalogue.num_rows)
    order = FIRST_ITEM + np.argsort(-counts[FIRST_ITEM:], kind="stable")
    return Engines(main, others, has_data, tuple(
        (int(index), folded(main.catalogue.titles[index - FIRST_ITEM])) for index in order))


def version_of(model_path: Path) -> tuple[tuple[int, int, int], ...] | None:
    """What changes when a checkpoint folder is replaced, or a file in it; None while a part is missing."""
    try:
        found = [(model_path / name).stat() for name in (INFO, WEIGHTS)]
    except OSError:
        return None
    return tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in found)
