"""The record of a run: always a JSONL file, Weights & Biases besides on request."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.errors import UserError


class Tracker:
    """Writes one JSON object a line: first the settings, then whatever `log` is given, last the summary.

    path None = keep no record (library use, secondary processes).
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], use_wandb: bool = False,
                 wandb_mode: str = "online") -> None:
        self.path, self._started, self._wandb = path, time.time(), None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if use_wandb:
            try:
                import wandb
            except ImportError as error:
                raise UserError("--use_wandb needs the package wandb: pip install -r requirements.txt") from error
            try:
                self._wandb = wandb.init(project="enhanced-bert4rec", mode=wandb_mode, config=settings, name=path.stem,
                                         dir=str(path.parent))
            except (wandb.errors.UsageError, wandb.errors.CommError) as error:
                raise UserError(f"--use_wandb: {error}; log in with `wandb login` or give --wandb_mode offline"
                                ) from error
        self._write("settings", settings)

    def log(self, event: str, **values: Any) -> None:
        """Append one record."""
        if self.path is None:
            return
        self._write(event, values)
        if self._wandb is not None:
            self._wandb.log(_numbers(event, values))

    def close(self) -> None:
        """Finish the W&B run, if there is one."""
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, event: str, values: dict[str, Any]) -> None:
        record = {"event": event, "seconds": round(time.time() - self._started, 2), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _numbers(name: str, value: Any) -> dict[str, float]:
    """The numbers in nested dictionaries: {'test/ranking/enhanced/HR@10/mean': 0.3, ...}."""
    if isinstance(value, dict):
        return {key: number for part, inner in value.items()
                for key, number in _numbers(f"{name}/{part}", inner).items()}
    return {name: value} if isinstance(value, int | float) else {}


def run_path(folder: str, name: str) -> Path:
    """A file for a new run's record that no other run has."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path, number = Path(folder) / f"{stamp}-{name}.jsonl", 1
    while path.exists():
        number += 1
        path = Path(folder) / f"{stamp}-{name}-{number}.jsonl"
    return path


def git_commit() -> str:
    """Commit of the code that runs, '+changes' where the tree differs from it, 'unknown' outside a repository."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True,
                                check=True, timeout=10).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=root,
                                 capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changes else "")
