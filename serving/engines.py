"""The models of the service: the served one and those for comparison."""

import contextlib
import copy
import dataclasses
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process

from answers import Chosen, exact
from baselines.popularity import Popularity
from batches import History
from engine import RecommendationEngine
from item_search import folded
from profiles import time_note
from queries import Query
from serving.schemas import User
from support.checkpoint import INFO, STALE, read_json
from support.errors import UserError, require

SHOWN = 20  # items that a search lists
FEW = 5  # with fewer matches names that are much like a query are listed
SHORTEST = 4  # letters of a query that may be misspelt
ALIKE = 72.0  # of 100, of two words
YEAR = re.compile(r" \d{4}$")


@dataclass(frozen=True)
class Config:
    """Configuration of a service."""

    model_path: str = "checkpoints/best"
    vanilla_path: str = "models/vanilla"  # '' for none
    data_dir: str | None = None
    # names by which it may be asked for
    hosts: Sequence[str] = ("localhost", "127.0.0.1")
    look_every: float = 2.0  # seconds between looks for a newer checkpoint
    # folder of the copies of weights that workers share
    copies: str | None = None
    parent: int = 0  # process with which a worker ends; 0 = none


class Engines:
    """`main` answers; those of `by_name` are for comparison.

    older: the engines before, whose data are reused if they are the same. Raises `UserError` if the
    served checkpoint cannot be used. Without data there are no users and no popularity. Without its
    checkpoint, or with one of another data set, there is no vanilla model. Each of these prints a
    line.
    """

    def __init__(self, config: Config, older: "Engines | None" = None) -> None:
        self.main = RecommendationEngine(
            config.model_path, config.data_dir, config.copies
        )
        self.by_name = {"main": self.main}
        # The hash of a split says nothing of the schema.
        same = older and self.split == older.split
        if same and older.has_data and self.main.schema == older.main.schema:
            self.main.catalogue = older.main.catalogue
            self.main.data = older.main.data
        items = self.main.catalogue.items
        counts = np.zeros(len(items))
        try:
            popularity = Popularity(self.main.data)
            counts = popularity.counts.numpy()
            self.by_name["popularity"] = copy.copy(self.main)
            self.by_name["popularity"].scorer = popularity
        except (UserError, OSError) as error:
            print(f"without users and popularity: {error}", flush=True)
        try:
            if config.vanilla_path:
                self.by_name["vanilla"] = self._vanilla(config)
        except UserError as error:
            print(f"without vanilla: {error}", flush=True)
        self._drop_old_copies(config)
        # Rows and folded names, the most popular first where known.
        order = items.first + np.argsort(-counts[items.first :], kind="stable")
        self.names = [
            (row, folded(items.names[row])) for row in order.tolist()
        ]
        # Word -> places in `names`.
        self.by_word = defaultdict(list)
        for place, (_, name) in enumerate(self.names):
            for word in set(name.split()):
                self.by_word[word].append(place)

    def _drop_old_copies(self, config):
        """Remove copies of weights that are no longer used."""
        if not config.copies:
            return
        used = {engine.info["weights"] for engine in self.by_name.values()}
        for path in Path(config.copies).glob("*.safetensors"):
            age = time.time() - path.stat().st_mtime
            if path.stem not in used and age > STALE:
                path.unlink(missing_ok=True)

    def _vanilla(self, config):
        path, ours = config.vanilla_path, self.main.schema.name
        theirs = read_json(Path(path) / INFO).get("schema", {}).get("name")
        require(
            ours == theirs, f"{path} was trained on {theirs}, not on {ours}"
        )
        return RecommendationEngine(path, config.data_dir, config.copies)

    @property
    def split(self) -> str:
        """Hash of the split that the served model was trained on."""
        return self.main.info["split_hash"]

    @property
    def has_data(self) -> bool:
        """Whether requests may name users of the data."""
        return "popularity" in self.by_name

    def __getitem__(self, name: str) -> RecommendationEngine:
        """The engine of this name in requests. Raises `UserError` if it is not served."""
        require(
            name in self.by_name,
            f"model {name!r} is not served here: it needs its checkpoint and the data set's files",
        )
        return self.by_name[name]

    @cached_property
    def until(self) -> list[str]:
        """Which histories of users may be asked for: whole ones, and those before a held-out
        interaction that the model could not know."""
        found = ["end"]
        for until in ("test", "validation"):
            with contextlib.suppress(UserError):
                require(self.has_data, "there are no users")
                self.main.requests(None, until)
                found.append(until)
        return found

    @property
    def some_items(self) -> list[dict[str, Any]]:
        """Id and name of the first items in the order of a search."""
        rows = [row for row, _ in self.names[:SHOWN]]
        found = map(self.main.item, rows)
        return [{"id": exact(one.id), "name": one.name} for one in found]

    def check(self, user: User) -> None:
        """Raises `UserError` for a user if there are no data."""
        require(
            user.user_id is None or self.has_data,
            "users of the data cannot be asked for here: its files are absent, or are not those "
            "that the model was trained on; give a history",
        )

    def history(
        self, user: User, engine: RecommendationEngine
    ) -> tuple[History, str]:
        """The history of a user for an engine, and a note about it.

        Ids are those of the main model; items unknown to another engine are left out.
        """
        self.check(user)
        main = self.main
        # What only the main model may be told is not told to others.
        sees_time = engine is main or engine.knows_request_time
        at = user.at if sees_time else None
        history = main.history(
            user.user_id,
            user.history,
            at,
            user.columns,
            user.until,
            user.history_columns,
        )
        if engine.catalogue.items is main.catalogue.items:
            knows = main.knows_request_time
            return history, time_note(knows, history.request_time, at)
        ids = main.catalogue.items.id_array(history.items)
        known = ids[engine.catalogue.items.index(ids) > 0]
        note = ""
        if len(known) < len(ids):
            left_out = len(ids) - len(known)
            note = f"without {left_out} {main.schema.nouns} that this model does not know"
        theirs = engine.history(None, known.tolist(), at, user.columns)
        if history.also_seen is not None:
            ids = main.catalogue.items.id_array(history.also_seen)
            seen = engine.catalogue.items.index(ids)
            theirs = dataclasses.replace(theirs, also_seen=seen[seen > 0])
        return theirs, note

    def chosen(
        self, user: User, engine: RecommendationEngine, query: Query
    ) -> Chosen | None:
        """What a user of the data chose next, as an engine places it; None if it does not know
        it."""
        item_id = self.main.held_out(user.user_id, user.until)
        if not engine.catalogue.items.index([item_id])[0]:
            return None
        return engine.place(query, item_id)

    def search(self, query: str) -> list[int]:
        """Rows of at most SHOWN items whose names contain all words of a query: an equal id or name
        first, then names that begin with it, then the most popular. If these are few, also names
        that are much like it."""
        wanted = folded(query)
        words = wanted.split()
        if not words:
            return []
        items = self.main.catalogue.items
        matches = []
        for row, name in self.names:
            own_id = str(items.id(row)).casefold() == query.strip().casefold()
            if own_id or all(word in name for word in words):
                equal = own_id or wanted in (name, YEAR.sub("", name))
                begins = f"{name} ".startswith(f"{wanted} ")
                # False sorts first.
                matches.append((not equal, not begins, len(matches), row))
        found = [row for *_, row in sorted(matches)[:SHOWN]]
        if len(found) < FEW and len(wanted) >= SHORTEST:
            found += [row for row in self._alike(words) if row not in found]
        return found[:SHOWN]

    def _alike(self, words):
        """Rows of the items whose names have a word much like each of these, the most alike
        first."""
        total: dict[int, float] = {}
        for number, word in enumerate(words):
            similar = process.extract(
                word,
                list(self.by_word),
                scorer=fuzz.ratio,
                score_cutoff=ALIKE,
                limit=FEW,
            )
            likeness: dict[int, float] = {}
            for other, score, _ in similar:
                for place in self.by_word[other]:
                    likeness[place] = max(score, likeness.get(place, 0.0))
            total = {
                place: score + total.get(place, 0.0)
                for place, score in likeness.items()
                if number == 0 or place in total
            }
        best = sorted(total, key=lambda place: (-total[place], place))
        return [self.names[place][0] for place in best[:FEW]]
