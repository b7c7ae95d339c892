"""The folders of runs, and the link to the model to use.

    checkpoints/
      20261128-151822-031337/    a run: settings (run.json), state (last), model and results (best)
      best -> .../best           the model to use, which every program takes by default

Each run has its own folder, so runs never mix, even if they are killed or run at once. `best` is a
link to the folder of one run. A run that ends moves the link to its own model, unless the linked
model was measured on the same split and has a higher validation score. `publish` says which.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.metrics import METRIC
from settings import Settings
from support.checkpoint import (
    INFO,
    WEIGHTS,
    file_digest,
    read_json,
)
from support.errors import require
from support.files import write_json
from support.processes import wait_for_lock

BEST, LAST, RESULTS, RUN = "best", "last", "results.json", "run.json"


def new_run(place: Path, settings: Settings) -> Path:
    """A new folder for a run, with its settings in it."""
    folder = _new_folder(place)
    write_json(folder / RUN, {"settings": settings.to_dict()})
    return folder


def _new_folder(place):
    folder = place / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    return folder


def newest_run(place: Path) -> Path | None:
    """The folder of the newest run."""
    runs = sorted(place.glob(f"*/{RUN}"))
    return runs[-1].parent if runs else None


def is_finished(run: Path) -> bool:
    """Whether a run has been measured."""
    return (run / BEST / RESULTS).exists()


def stopped_run(place: Path) -> Path | None:
    """The folder of the newest run if it has not ended."""
    run = newest_run(place)
    return None if run is None or is_finished(run) else run


def read_results(folder: Path) -> dict[str, Any]:
    """The results beside a model. Raises `UserError` if they were measured of other weights."""
    results = read_json(folder / RESULTS)
    require(
        results.get("weights") == file_digest(folder / WEIGHTS),
        f"{folder / RESULTS} was measured of other weights than lie beside it; measure again by "
        f"trainer.py --resume, or train again",
    )
    return results


def publish(run: Path) -> str:
    """Let `best` point to the model of a run, by the rule above; returns a line about it."""
    # Another run may end at the same time.
    with wait_for_lock(run.parent / ".best.lock"):
        return _published(run)


def _published(run):
    link = run.parent / BEST
    if link.is_dir() and not link.is_symlink():
        # A model of an older version of this program: it is kept as a run of its own.
        older = _new_folder(run.parent)
        os.replace(link, older / BEST)
        return (
            _point(link, run) + f"; the model that lay there is {older / BEST}"
        )
    if not link.exists():
        return _point(link, run)
    before, after = read_json(link / INFO), read_json(run / BEST / INFO)
    theirs, ours = (
        info.get("validation", {}).get(METRIC, -1.0)
        for info in (before, after)
    )
    if before.get("split_hash") == after["split_hash"] and theirs > ours:
        return (
            f"{link} stays the better model {link.resolve().parent.name} (validation "
            f"{METRIC} {theirs:.4f}, here {ours:.4f}); this one is {run / BEST}"
        )
    return _point(link, run)


def _point(link, run):
    """Replace the link in one step, so that it always exists."""
    scratch = link.with_name(f".{link.name}-{run.name}")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(Path(run.name) / BEST)
    os.replace(scratch, link)
    return f"{link} is now this model, {run / BEST}"
