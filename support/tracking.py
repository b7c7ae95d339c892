"""The record of a run: a JSONL file, and Weights & Biases on request.

A dashboard that cannot be reached, or fails, causes one warning and is then no longer used. It
never stops a training.
"""

import functools
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.checkpoint import files_of
from support.errors import UserError

PROJECT = "enhanced-bert4rec"
# seconds that a dashboard may take to answer, and somebody at the terminal to log in
PATIENCE = 30
# seconds that it may take at the end to get what is still on its way
UPLOAD_PATIENCE = 300


class Tracker:
    """Writes one JSON object a line: the settings, then the records given to `log`, last the
    summary.

    path: None = no record (library use, secondary processes). settings: of the run, with those of
    W&B; WANDB_MODE in the environment overrides the mode 'online'. wandb: also on W&B. identity:
    the W&B run that a resumed run continues (WANDB_RUN_ID of a sweep overrides it).
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict[str, Any],
        wandb: bool = False,
        identity: str = "",
    ) -> None:
        self.path, self._started, self._library = path, time.time(), None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.log("settings", **settings)
        if not wandb:
            return
        try:
            import wandb as library
        except ImportError as error:
            raise UserError(
                "--use_wandb needs the package wandb: pip install wandb"
            ) from error
        self._library = library
        self._try(lambda: self._begin(settings, identity))

    def _begin(self, settings, identity):
        """Find the key, or ask for it at a terminal for some time; then start the run."""
        library, mode = self._library, settings.get("wandb_mode", "online")
        if mode == "online":
            mode = os.environ.get("WANDB_MODE", mode)
        if mode == "online" and not library.login(timeout=PATIENCE):
            raise RuntimeError("nobody is logged in")
        library.init(
            project=PROJECT,
            config=settings,
            name=settings.get("run_name") or self.path.stem,
            group=settings.get("run_group") or None,
            resume="allow",
            mode=mode,
            job_type="train",
            dir=str(self.path.parent),
            id=os.environ.get("WANDB_RUN_ID", identity) or None,
            settings=library.Settings(
                init_timeout=PATIENCE, finish_timeout=UPLOAD_PATIENCE
            ),
        )
        # Curves over training's steps, however often each run is evaluated.
        library.define_metric("epoch/*", step_metric="epoch/step")

    @property
    def shown(self) -> bool:
        """Whether a dashboard follows the run."""
        return self._library is not None

    def log(self, event: str, **values: Any) -> None:
        """Append one record."""
        if self.path is None:
            return
        record = {
            "event": event,
            "seconds": round(time.time() - self._started, 2),
            **values,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._try(lambda: self._library.log(_numbers(event, values)))

    def table(
        self, name: str, columns: list[str], rows: list[list[Any]]
    ) -> None:
        """Show a table on the dashboard."""
        self._try(
            lambda: self._library.log(
                {name: self._library.Table(columns, rows)}
            )
        )

    def artifact(self, folder: Path, name: str) -> None:
        """Keep the files of a checkpoint with the run."""

        def keep() -> None:
            artifact = self._library.Artifact(name, type="model")
            for path in files_of(folder):
                artifact.add_file(str(path))
            self._library.log_artifact(artifact)

        self._try(keep)

    def close(self, failed: bool = False) -> None:
        """Finish the run on the dashboard, if there is one."""
        self._try(lambda: self._library.finish(exit_code=int(failed)))

    def _try(self, action):
        """Call the dashboard; if that fails, it is no longer used."""
        if self._library is None:
            return
        try:
            action()
        except Exception as error:
            print(
                f"warning: wandb failed ({' '.join(str(error).split())[:200]}); the run goes on "
                f"and is recorded in {self.path} alone. For W&B: `wandb login`, or "
                f"--wandb_mode offline",
                file=sys.stderr,
            )
            self._library = None


def _numbers(name, value):
    """The numbers in nested dictionaries: {'test/ranking/enhanced/HR@10/mean': 0.3, ...}."""
    if isinstance(value, dict):
        return {
            key: number
            for part, inner in value.items()
            for key, number in _numbers(f"{name}/{part}", inner).items()
        }
    return {name: value} if isinstance(value, int | float) else {}


def run_path(folder: str, name: str) -> Path:
    """A file for a new run's record that no other run has."""
    return Path(folder) / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{name}.jsonl"


@functools.cache
def git_commit() -> str:
    """Commit of the running code, with '+changes' if the tree differs from it, 'unknown' outside a
    repository; as of the first call in this process."""
    root = Path(__file__).resolve().parent.parent
    try:
        describe = "git describe --always --exclude=* --abbrev=12"
        return subprocess.check_output(
            [*describe.split(), "--dirty=+changes"],
            cwd=root,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=10,
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
