"""Finished runs of a study in one small file: it goes on where nothing else of it is left, and its page is drawn again.

`results/STUDY/finished.json.gz` holds of each run its settings, figures and evaluations, and the page's metric of each
request in the order of the split, without ids; no model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.live import METRIC, evaluations
from ablations.study import BESIDE
from data_processor import load
from settings import Settings
from support.checkpoint import INFO, read_json, write_json
from support.errors import UserError

if TYPE_CHECKING:
    from ablations.run import Run

NAME = "finished.json.gz"


def pack(runs: Sequence[Run], place: Path) -> None:
    """Write the finished ones among the runs into a folder."""
    import pandas as pd

    content = {}
    for run in runs:
        if run.results.exists():
            best = run.results.parent
            settings = read_json(best / INFO)["settings"]
            content[run.folder.name] = {
                "name": run.name, "settings": {name: settings[name] for name in settings if name not in BESIDE},
                "results": read_json(run.results), "evaluations": evaluations(run.folder),
                METRIC: pd.read_parquet(best / "test_users.parquet", columns=[METRIC])[METRIC].tolist()}
    text = json.dumps(content, ensure_ascii=False)
    place.mkdir(parents=True, exist_ok=True)
    scratch = place / f".{NAME}.part"
    scratch.write_bytes(gzip.compress(text.encode(), mtime=0))  # without the time: the same bytes from the same runs
    scratch.replace(place / NAME)


def unpack(places: Sequence[Path], runs: Sequence[Run], work: Path) -> dict[str, str]:
    """Put the runs packed in folders where they were, but for those whose models a run that is not finished follows.

    runs: all of the study. Returns the key of each packed run by its name.
    """
    packed = {key: run for place in places if (place / NAME).exists() for key, run in _read(place / NAME).items()}
    unfinished = [run for run in runs if run.key not in packed and not run.results.exists()]
    needed = {teacher for run in unfinished for teacher in run.teachers}
    for key, run in packed.items():
        results = work / key / "best" / "results.json"
        if not results.exists() and results not in needed:
            _restore(run, results)
    return {run["name"]: key for key, run in packed.items()}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        packed = json.loads(gzip.decompress(path.read_bytes()))
        if not all({"name", "settings", "results", "evaluations", METRIC} <= set(run) for run in packed.values()):
            raise ValueError("a part is missing")
        return packed
    except (OSError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); take it from the repository again, or delete it") from error


def _restore(run: Mapping[str, Any], results: Path) -> None:
    import pandas as pd

    data = load(Settings().replace(**run["settings"]).data)
    people = data.catalogue.user_ids[data.split.requests["test"].people]
    best, log = results.parent, results.parent.parent / "log"
    best.mkdir(parents=True, exist_ok=True)
    log.mkdir(exist_ok=True)
    (log / "packed.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in run["evaluations"]), encoding="utf-8")
    pd.DataFrame({"user_id": people, METRIC: run[METRIC]}).to_parquet(best / "test_users.parquet", index=False)
    write_json(best / INFO, {"format": "figures without their model", "settings": run["settings"]})
    write_json(results, run["results"])  # last: where it stands, all is done
