"""How far a training run is, on a terminal."""

import os
from typing import Any


class ProgressBar:
    """A bar on a terminal, a line an evaluation elsewhere."""

    def __init__(self, total: int, hidden: bool) -> None:
        self.total, self.hidden, self.progress = total, hidden, None

    def __enter__(self) -> None:
        if self.hidden:
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(width=None if os.isatty(1) else 120),
        )
        self.progress.start()
        self.task = self.progress.add_task("training", total=self.total)

    def __exit__(self, *_error: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def update(self, progress: Any, losses: dict[str, float]) -> None:
        """Move the bar."""
        if self.progress is None:
            return
        text = " ".join(f"{task} {value:.3f}" for task, value in losses.items())
        self.progress.update(
            self.task,
            completed=progress.step,
            description=f"epoch {progress.epoch + 1} {text}",
        )

    def report(
        self, record: dict[str, Any], losses: dict[str, float], best: dict[str, Any]
    ) -> None:
        """Print what an evaluation found."""
        if self.progress is None:
            return
        text = " ".join(f"{task} {value:.3f}" for task, value in losses.items())
        mark = " *" if best["epoch"] == record["epoch"] else ""
        self.progress.print(
            f"epoch {record['epoch']:3d}  {record['seconds']:6.0f} s  losses: {text}  validation: "
            f"HR@10 {record['HR@10']:.4f} NDCG@10 {record['NDCG@10']:.4f}{mark}"
        )
