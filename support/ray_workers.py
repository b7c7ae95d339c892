"""Work of several processes at once, on a Ray cluster, that outlives its workers.

Ray Train starts the workers, connects them (torch.distributed), and starts all of them again when
one dies. What they do must go on from what it left on disk.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from support.errors import UserError
from support.ray_cluster import cluster

LOG, REFUSED = "log.txt", "error.txt"
FAILURES = 30  # after so many restarts the work fails
SHOWN_EVERY = 0.5  # seconds
# Ray Train would print all that workers print once more.
QUIET = {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


def run_together(
    work: Callable[[], object], address: str, workers: int, folder: Path
) -> None:
    """Call `work` in this many workers, with the environment that torchrun gives. address: as in
    `cluster`.

    folder: for what they print, and for Ray's own records; all machines see it under this name.
    Raises `UserError` if the work did, or if the workers die again and again.
    """
    folder = folder.resolve()
    refused = folder / REFUSED
    refused.unlink(missing_ok=True)
    with cluster(address, workers) as ray, _shown(folder / LOG):
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
                f"--ray {address}: the workers failed ({reason}); see {folder / LOG}, and go on "
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
        try:
            settings["work"]()
        except UserError as error:
            # Starting again would not mend it.
            (folder / REFUSED).write_text(str(error), encoding="utf-8")


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
