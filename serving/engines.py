"""The models behind the service: the one served, those it is compared with."""

import copy
import re
from pathlib import Path

import numpy as np

from baselines.popularity import Popularity
from batches import History
from engine import RecommendationEngine
from item_search import folded
from serving.schemas import User
from support.checkpoint import INFO, read_json
from support.errors import UserError

SHOWN = 20  # items that a search lists
YEAR = re.compile(r" \d{4}$")


class Engines:
    """`main` answers; `others` by name, for comparison.

    Raises `UserError` if the served checkpoint cannot be used. Without data there are no users
    and no popularity, and without its checkpoint or with one of another data set no vanilla
    model: said in a line each.
    """

    def __init__(
        self,
        model_path: str,
        vanilla_path: str | None,
        data_dir: str | None,
        older: "Engines | None" = None,
    ) -> None:
        self.main = RecommendationEngine(model_path, data_dir, mapped=True)
        self.others: dict[str, RecommendationEngine] = {}
        if older is not None and older.has_data:
            # The same data are not read again.
            split = older.main.info["split_hash"]
            if self.main.info["split_hash"] == split:
                self.main.catalogue = older.main.catalogue
                self.main.data = older.main.data
        items = self.main.catalogue.items
        counts = np.zeros(len(items))
        try:
            popularity = Popularity(self.main.data)
            counts = popularity.counts.numpy()
            self.others["popularity"] = copy.copy(self.main)
            self.others["popularity"].scorer = popularity
        except (UserError, OSError) as error:
            print(f"without users and popularity: {error}", flush=True)
        try:
            if vanilla_path:
                self.others["vanilla"] = self._vanilla(
                    Path(vanilla_path), data_dir
                )
        except UserError as error:
            print(f"without vanilla: {error}", flush=True)
        # Rows and folded names, the most popular first where known.
        order = items.first + np.argsort(-counts[items.first :], kind="stable")
        self.names = [
            (row, folded(items.names[row])) for row in order.tolist()
        ]

    def _vanilla(
        self, path: Path, data_dir: str | None
    ) -> RecommendationEngine:
        own, other = (
            self.main.schema.name,
            read_json(path / INFO).get("schema", {}),
        )
        if other.get("name") != own:
            raise UserError(
                f"{path} was trained on {other.get('name')}, not on {own}"
            )
        return RecommendationEngine(path, data_dir, mapped=True)

    @property
    def has_data(self) -> bool:
        """Whether users of the data can be asked for."""
        return "popularity" in self.others

    def __getitem__(self, name: str) -> RecommendationEngine:
        """By its name in requests. Raises `UserError` if it is not served."""
        if name == "main":
            return self.main
        if name not in self.others:
            raise UserError(
                f"model {name!r} is not served here: it needs its checkpoint and the data "
                f"set's files"
            )
        return self.others[name]

    def check(self, user: User) -> None:
        """Raises `UserError` for a user of data that are not here."""
        if user.user_id is not None and not self.has_data:
            raise UserError(
                "users of the data cannot be asked for here: its files are absent, or are not "
                "those that the model was trained on; give a history"
            )

    def history(
        self, user: User, engine: RecommendationEngine
    ) -> tuple[History, str]:
        """What is known of a user, for an engine, and what must be said of it.

        A history speaks of the main model's items; those that another one does not know are left
        out.
        """
        self.check(user)
        main = self.main
        # What only the main model may be told is not told to others.
        told = engine is main or engine.knows_request_time
        at = user.at if told else None
        history = main.history(user.user_id, user.history, at, user.columns)
        if engine.catalogue.items is main.catalogue.items:
            return history, main.request_time_note(history, at)
        ids = main.catalogue.items.id_array(history.items)
        known = ids[engine.catalogue.items.index(ids) > 0]
        note = ""
        if len(known) < len(ids):
            left_out = len(ids) - len(known)
            note = f"without {left_out} {main.schema.nouns} that this model does not know"
        return engine.history(None, known.tolist(), at, user.columns), note

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
