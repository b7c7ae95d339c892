"""Finished runs of a study in one small file: it goes on where nothing else of it is left, and its page is drawn again.

`results/STUDY/finished.json.gz` holds of each run its settings, code, figures and evaluations, and the page's metric of
each request, no model. The requests are in an order that follows from the interactions: only who has the data set can
tell whose they are, or which belong to one person, and so draw the page again.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.live import METRIC, evaluations
from ablations.study import BESIDE
from data_processor import SequenceData, load
from settings import Settings
from support.checkpoint import INFO, read_json, write_json
from support.errors import UserError

if TYPE_CHECKING:
    from ablations.run import Run

NAME = "finished.json.gz"
CODE_FILE = "code"  # of a run's folder: the version of the code that trained
LOCK = "lock"  # of a run's folder: held by whoever trains it, there since training began
FIGURES = "figures without their model"  # format of a packed run's checkpoint.json


def pack(runs: Sequence[Run], place: Path) -> None:
    """Write the finished ones among the runs into a folder, to what it holds of the same variants besides."""
    import pandas as pd

    finished = {run.name for run in runs if run.results.exists()}
    variants = {run.variant for run in runs}
    content = {key: run for key, run in _read(place / NAME).items()
               if run["name"] not in finished and run["name"].rpartition(", seed ")[0] in variants}
    order = functools.cache(lambda data: mixed(load(data)))
    for run in runs:
        if run.name in finished:
            best = run.results.parent
            settings = read_json(best / INFO)["settings"]
            kept = {name: settings[name] for name in settings if name not in BESIDE}
            content[run.folder.name] = {
                "name": run.name, "settings": kept | {"teacher": ",".join(f"{key}/best" for key in followed(settings))},
                "code": code_of(run.folder), "results": read_json(run.results), "evaluations": evaluations(run.folder),
                f"mixed {METRIC}": pd.read_parquet(best / "test_users.parquet", columns=[METRIC])[METRIC].to_numpy()[
                    order(run.settings.data)].tolist()}
    text = json.dumps(content, ensure_ascii=False)
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / f".{NAME}.part"
    scratch.write_bytes(gzip.compress(text.encode(), mtime=0))  # without the time: the same bytes from the same runs
    scratch.replace(place / NAME)


def unpack(places: Sequence[Path], runs: Sequence[Run], work: Path, data_dir: str | None) -> dict[str, str]:
    """Put the runs packed in folders where they were, but for those whose models a run that is to be trained follows;
    where only the figures of such a one lie there already, they go, and it is trained. What is begun here stays.

    runs: what is to be trained where it is not finished. Returns the key of each packed run by its name.
    """
    packed = {key: run for place in places for key, run in _read(place / NAME).items()}
    of_results = {run.results: run for run in runs}
    unfinished = [run for run in runs if run.key not in packed and not run.results.exists()]
    needed: set[Path] = set()
    while unfinished:
        for teacher in unfinished.pop().teachers:
            if teacher not in needed and not _has_model(teacher):
                needed.add(teacher)
                unfinished.append(of_results[teacher])
                if teacher.exists():  # figures alone
                    shutil.rmtree(teacher.parent.parent)
    left_out: dict[str, list[str]] = {"with settings that are no longer": [], "on other data (another split)": []}
    data_here = functools.cache(load)
    for key, run in packed.items():
        results = work / key / "best" / "results.json"
        settings = stored_settings({**run["settings"], "data_dir": data_dir})
        if settings is None:
            left_out["with settings that are no longer"].append(key)
        elif not results.exists() and results not in needed and not (work / key / LOCK).exists() and \
                not _restore(run, results, data_here(settings.data)):
            left_out["on other data (another split)"].append(key)
    for reason, keys in left_out.items():
        if keys:
            print(f"left out: {len(keys)} packed runs {reason}")
    return {run["name"]: key for key, run in packed.items() if not any(key in keys for keys in left_out.values())}


def stored_settings(values: Mapping[str, Any]) -> Settings | None:
    """Settings from what a run stored; None where it has one that is no longer, or whose value is none any more."""
    try:
        return Settings().replace(**values)
    except (UserError, TypeError):
        return None


def followed(settings: Mapping[str, Any]) -> list[str]:
    """Keys of the runs whose models a run followed, by its stored settings."""
    return [Path(path).parent.name for path in settings.get("teacher", "").split(",") if path]


def mixed(data: SequenceData) -> np.ndarray:
    """An order of the test requests that nobody can tell who has not the interactions."""
    digest = hashlib.sha256(b"order of requests")
    for part in (data.items, data.timestamps, data.ratings):
        digest.update(np.ascontiguousarray(part).tobytes())
    return np.random.default_rng(list(digest.digest())).permutation(len(data.split.requests["test"].people))


def code_of(folder: Path) -> str:
    """The version of the code that a run's folder was trained by, '' if it was not written down."""
    path = folder / CODE_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _has_model(results: Path) -> bool:
    """Whether a run is finished and its model lies beside the results."""
    return results.exists() and read_json(results.parent / INFO).get("format") != FIGURES


def _read(path: Path) -> Mapping[str, Any]:
    """What is packed in a file, nothing where there is none."""
    if not path.exists():
        return {}
    try:
        packed = json.loads(gzip.decompress(path.read_bytes()))
        parts = {"name", "settings", "code", "results", "evaluations", f"mixed {METRIC}"}
        if not all(parts <= set(run) for run in packed.values()):
            raise ValueError("a part is missing")
        return packed
    except (OSError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); take it from the repository again, or delete it") from error


def _restore(run: Mapping[str, Any], results: Path, data: SequenceData) -> bool:
    """Whether the data here are those of the run, and so its folder could be put back: of others the order differs."""
    import pandas as pd

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
    (results.parent.parent / CODE_FILE).write_text(run["code"], encoding="utf-8")
    write_json(best / INFO, {"format": FIGURES, "settings": run["settings"]})
    write_json(results, run["results"])  # last: where it stands, all is done
    return True
