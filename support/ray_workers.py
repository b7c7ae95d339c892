"""Work in the processes of a Ray cluster that goes on when some of them die.

`run_together`: Ray Train starts the workers, connects them (torch.distributed), and starts all of
them again when one dies. What they do must go on from what it left on disk.
`spread_over`: a pool of actors of Ray Data takes one number after the other. What a dead one had
begun is begun again by another.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from support.errors import UserError, require
from support.ray_cluster import cluster

LOG, REFUSED = "log.txt", "error.txt"
FAILURES = 30  # after so many restarts the work fails
SHOWN_EVERY = 0.5  # seconds
# Ray Train would print all that workers print once more.
QUIET = {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


def run_together(
    ray: ModuleType, work: Callable[[], object], workers: int, folder: Path
) -> None:
    """Call `work` in this many workers, with the environment that torchrun gives. ray: of
    `cluster`.

    folder: for what they print, and for Ray's own records; all machines see it under this name.
    Raises `UserError` if the work did, or if the workers die again and again.
    """
    folder = folder.resolve()
    refused = folder / REFUSED
    refused.unlink(missing_ok=True)
    with _shown(folder / LOG):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        gpus = ray.cluster_resources().get("GPU", 0)
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "work": work,
                "place": os.getcwd(),
                "folder": str(folder),
            },
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus > 0
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder),
                worker_runtime_env={"env_vars": QUIET},
                failure_config=FailureConfig(max_failures=FAILURES),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"--ray: the workers failed ({reason}); see {folder / LOG}, and go on "
                f"with --resume"
            ) from error
    if refused.exists():
        raise UserError(refused.read_text(encoding="utf-8"))


def _work(settings):
    """In a worker."""
    from ray.train import get_context

    os.chdir(settings["place"])
    folder = Path(settings["folder"])
    with contextlib.ExitStack() as stack:
        first = get_context().get_world_rank() == 0
        log = folder / LOG if first else os.devnull
        file = stack.enter_context(open(log, "a", 1, encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        if (folder / REFUSED).exists():
            # Started again after an error that this does not mend.
            return
        try:
            settings["work"]()
        except UserError as error:
            (folder / REFUSED).write_text(str(error), encoding="utf-8")
            # So that Ray stops the other workers, which may wait for this one.
            raise


@contextlib.contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Print what is written to a file meanwhile."""
    path.touch()
    done = threading.Event()
    with path.open(encoding="utf-8") as file:
        file.seek(0, os.SEEK_END)

        def show() -> None:
            while not done.wait(SHOWN_EVERY):
                sys.stdout.write(file.read())
                sys.stdout.flush()

        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            sys.stdout.write(file.read())


def spread_over(
    work: Callable[[int], object], numbers: Sequence[int], address: str
) -> Iterator[None]:
    """Call `work` with each number, in any order; yields after each. address: as in `cluster`.

    Each actor has its own copy of `work`, which may keep what is slow to open. Raises `UserError`
    if it does.
    """
    if not numbers:
        return
    with cluster(address) as ray:
        from ray.data import ActorPoolStrategy, DataContext

        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        most = max(1, min(len(numbers), int(ray.cluster_resources()["CPU"])))
        done = ray.data.from_items(
            [{"number": number} for number in numbers],
            override_num_blocks=len(numbers),
        ).map_batches(
            _Actor,
            fn_constructor_args=(work, os.getcwd()),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
        )
        for row in done.iter_rows():
            require(not row["refused"], row["refused"])
            yield


class _Actor:
    """In a worker."""

    def __init__(self, work: Callable[[int], object], place: str) -> None:
        os.chdir(place)
        self.work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work on a batch of numbers; returns the errors of the user, or ''."""
        refused = []
        for number in batch["number"]:
            try:
                self.work(int(number))
                refused.append("")
            except UserError as error:
                refused.append(str(error))
        return {"refused": refused}
