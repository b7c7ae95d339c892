"""What a study's runs are doing, as a table that moves on a terminal."""

from __future__ import annotations

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


def share_done(run: Run, record: dict[str, Any]) -> float:
    """How much of its schedule a run has behind it after an evaluation; it may stop earlier."""
    train = run.settings.train
    share = record["step"] / train.max_steps if train.max_steps else record["epoch"] / train.max_epochs
    if train.max_minutes:
        share = max(share, record["seconds"] / (60 * train.max_minutes))
    return min(1.0, share)


def rows(runs: Sequence[Run], active: Collection[Run]) -> list[list[str]]:
    """[variant, seed, state, share done, best validation, seconds, seconds left] of each run."""
    table = []
    for run in runs:
        records = evaluations(run.folder)
        cells = ["", "", "", ""]
        if records:
            last, share = records[-1], share_done(run, records[-1])
            left = last["seconds"] * (1 - share) / share
            cells = [f"{share:.0%}", f"{max(record[METRIC] for record in records):.4f}", f"{last['seconds']:.0f}",
                     f"{left:.0f}" if run in active else ""]
        state = "done" if run.results.exists() else "running" if run in active else \
            "failed" if run.error.exists() else "waiting"
        table.append([run.variant, str(run.seed), state, *cells])
    return table


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
        table = Table(caption=f"{sum(row[2] == 'done' for row in found)} of {len(found)} runs done")
        for name in ("variant", "seed", "state", "done", f"best {METRIC}", "seconds", "left"):
            table.add_column(name)
        for row in [row for row in found if row[2] == "running"] + [row for row in found if row[2] == "failed"] + \
                [row for row in found if row[2] == "waiting"][:10]:
            table.add_row(*map(escape, row))
        self.live.update(table, refresh=True)
