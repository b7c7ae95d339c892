"""Finished runs of a study in one small file: it goes on where nothing else of it is left, and its page is drawn again.

`results/STUDY/finished.json.gz` holds of each run its settings, code, figures and evaluations, and the page's metric of
each request, no model. The requests are in an order that follows from the interactions: only who has the data set can
tell whose they are, or which belong to one person, and so draw the page again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.live import METRIC, evaluations
from ablations.study import BESIDE
from data_processor import SequenceData, load
from settings import DataSettings, Settings
from support.checkpoint import INFO, WEIGHTS, read_json, write_json
from support.errors import UserError

if TYPE_CHECKING:
    from ablations.run import Run

NAME = "finished.json.gz"
CODE = "code"  # file of a run's folder with the version of the code that trained


def pack(runs: Sequence[Run], place: Path) -> None:
    """Write the finished ones among the runs into a folder."""
    import pandas as pd

    content: dict[str, Any] = {}
    orders: dict[DataSettings, np.ndarray] = {}
    for run in runs:
        if run.results.exists():
            best = run.results.parent
            settings = read_json(best / INFO)["settings"]
            data = Settings().replace(**settings).data
            if data not in orders:
                orders[data] = mixed(load(data))
            content[run.folder.name] = {
                "name": run.name, "settings": {name: settings[name] for name in settings if name not in BESIDE},
                "code": code_of(run.folder), "results": read_json(run.results), "evaluations": evaluations(run.folder),
                f"mixed {METRIC}": pd.read_parquet(best / "test_users.parquet", columns=[METRIC])[METRIC].to_numpy()[
                    orders[data]].tolist()}
    text = json.dumps(content, ensure_ascii=False)
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / f".{NAME}.part"
    scratch.write_bytes(gzip.compress(text.encode(), mtime=0))  # without the time: the same bytes from the same runs
    scratch.replace(place / NAME)


def unpack(places: Sequence[Path], runs: Sequence[Run], work: Path) -> dict[str, str]:
    """Put the runs packed in folders where they were, but for those whose models a run that is to be trained follows;
    where only the figures of such a one lie there already, they go, and it is trained.

    runs: what is to be trained where it is not finished. Returns the key of each packed run by its name.
    """
    packed = {key: run for place in places if (place / NAME).exists() for key, run in _read(place / NAME).items()}
    of_results = {run.results: run for run in runs}
    unfinished = [run for run in runs if run.key not in packed and not run.results.exists()]
    needed: set[Path] = set()
    while unfinished:
        for teacher in unfinished.pop().teachers:
            if teacher not in needed and not (teacher.parent / WEIGHTS).exists():
                needed.add(teacher)
                unfinished.append(of_results[teacher])
                if teacher.exists():
                    teacher.unlink()
                    (teacher.parent / INFO).unlink(missing_ok=True)
    foreign = []
    for key, run in packed.items():
        results = work / key / "best" / "results.json"
        if not results.exists() and results not in needed and not _restore(run, results):
            foreign.append(key)
    if foreign:
        print(f"left out: {len(foreign)} packed runs on other data than those here (another split)")
    return {run["name"]: key for key, run in packed.items() if key not in foreign}


def mixed(data: SequenceData) -> np.ndarray:
    """An order of the test requests that nobody can tell who has not the interactions."""
    digest = hashlib.sha256(b"order of requests")
    for part in (data.items, data.timestamps, data.ratings):
        digest.update(np.ascontiguousarray(part).tobytes())
    return np.random.default_rng(list(digest.digest())).permutation(len(data.split.requests["test"].people))


def code_of(folder: Path) -> str:
    """The version of the code that a run's folder was trained by, '' if it was not written down."""
    path = folder / CODE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _read(path: Path) -> Mapping[str, Any]:
    try:
        packed = json.loads(gzip.decompress(path.read_bytes()))
        parts = {"name", "settings", "code", "results", "evaluations", f"mixed {METRIC}"}
        if not all(parts <= set(run) for run in packed.values()):
            raise ValueError("a part is missing")
        return packed
    except (OSError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); take it from the repository again, or delete it") from error


def _restore(run: Mapping[str, Any], results: Path) -> bool:
    """Whether the data here are those of the run, and so its folder could be put back: of others the order differs."""
    import pandas as pd

    data = load(Settings().replace(**run["settings"]).data)
    if data.split_hash != run["results"]["split_hash"]:
        return False
    people = data.catalogue.user_ids[data.split.requests["test"].people]
    values = np.empty(len(people))
    values[mixed(data)] = run[f"mixed {METRIC}"]
    best, log = results.parent, results.parent.parent / "log"
    best.mkdir(parents=True, exist_ok=True)
    log.mkdir(exist_ok=True)
    (log / "packed.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in run["evaluations"]), encoding="utf-8")
    pd.DataFrame({"user_id": people, METRIC: values}).to_parquet(best / "test_users.parquet", index=False)
    (results.parent.parent / CODE).write_text(run["code"], encoding="utf-8")
    write_json(best / INFO, {"format": "figures without their model", "settings": run["settings"]})
    write_json(results, run["results"])  # last: where it stands, all is done
    return True
