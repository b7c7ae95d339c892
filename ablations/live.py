"""What a study's runs are doing, as a table that moves on a terminal."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.run import Run

METRIC = "NDCG@10"
REFRESH = 1.0  # seconds


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """What each evaluation of a run recorded, stopped and resumed or not; a line half-written is left out."""
    epochs = {}
    for path in sorted((folder / "log").glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            if text.endswith("}"):
                record = json.loads(text)
                if record["event"] == "epoch":
                    epochs[record["epoch"]] = record
    return [epochs[epoch] for epoch in sorted(epochs)]


def position(folder: Path) -> dict[str, Any] | None:
    """Where a run stands: what it said last between evaluations, or its last evaluation, whichever is further."""
    said = evaluations(folder)[-1:]
    for path in sorted((folder / "log").glob("*.now"))[-1:]:  # a killed process leaves its own, from before
        with contextlib.suppress(ValueError, OSError):  # half-written, or gone meanwhile
            said.append(json.loads(path.read_text(encoding="utf-8")))
    return max(said, key=lambda record: record["step"], default=None)


def share_done(run: Run, record: dict[str, Any]) -> float:
    """How much of its schedule a run has behind it at a `position`; it may stop earlier."""
    train = run.settings.train
    share = record["step"] / train.max_steps if train.max_steps else record["epoch"] / train.max_epochs
    if train.max_minutes:
        share = max(share, record["seconds"] / (60 * train.max_minutes))
    return min(1.0, share)


def rows(runs: Sequence[Run], active: Collection[Run]) -> list[list[str]]:
    """[variant, seed, state, share done, best validation, seconds, seconds left] of each run."""
    table = []
    for run in runs:
        last, best = position(run.folder), max((record[METRIC] for record in evaluations(run.folder)), default=None)
        cells = ["", "", "", ""]
        if last is not None and (share := share_done(run, last)):
            left = last["seconds"] * (1 - share) / share
            cells = [f"{share:.0%}", "" if best is None else f"{best:.4f}", f"{last['seconds']:.0f}",
                     f"{left:.0f}" if run in active else ""]
        state = "done" if run.results.exists() else "running" if run in active else \
            "failed" if run.error.exists() else "waiting"
        table.append([run.variant, str(run.seed), state, *cells])
    return table


def seconds_left(rows_: Sequence[Sequence[str]]) -> float | None:
    """Of the whole study, as the runs at work and those done take; None before any is known. rows_: of `rows`."""
    whole = [float(row[5]) / (1 if row[2] == "done" else float(row[3].rstrip("%")) / 100) for row in rows_
             if row[3] not in ("", "0%")]
    running = [row for row in rows_ if row[2] == "running"]
    if not whole or not running:
        return None
    waiting = sum(row[2] == "waiting" for row in rows_) + sum(not row[6] for row in running)
    return (sum(float(row[6] or 0) for row in running) + waiting * sum(whole) / len(whole)) / len(running)


class LiveTable:
    """Context in which `show` draws the table anew, at most once a REFRESH; nothing where there is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self.shown = 0.0

    def __enter__(self) -> LiveTable:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, runs: Sequence[Run], active: Collection[Run]) -> None:
        """Draw the runs that are not done, and a line that counts."""
        if self.live is None or time.monotonic() - self.shown < REFRESH:
            return
        from rich.markup import escape
        from rich.table import Table

        self.shown = time.monotonic()
        found = rows(runs, active)
        left = seconds_left(found)
        table = Table(caption=f"{sum(row[2] == 'done' for row in found)} of {len(found)} runs done"
                              + (f", about {left / 60:.0f} min left" if left is not None else ""))
        for name in ("variant", "seed", "state", "done", f"best {METRIC}", "seconds", "left"):
            table.add_column(name)
        for row in [row for row in found if row[2] == "running"] + [row for row in found if row[2] == "failed"] + \
                [row for row in found if row[2] == "waiting"][:10]:
            table.add_row(*map(escape, row))
        self.live.update(table, refresh=True)
