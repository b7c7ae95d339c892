"""A Ray cluster to run tasks on."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from support.errors import UserError

# Seconds that Ray Train waits for the workers of a dead one to part from it. They would wait for it
# themselves, and are killed then; Ray's own 30 are added to each restart.
SHORT_WAIT = {"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3"}
PATIENCE = 10  # seconds until an address does not answer


@contextlib.contextmanager
def cluster(address: str, jobs: int | None = None) -> Iterator[ModuleType]:
    """The module ray, connected. address: 'auto' or host:port; 'local' starts a cluster of `jobs`
    workers here. Raises `UserError`."""
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--ray needs the package ray: pip install -r requirements-ray.txt"
        ) from error
    try:
        _look_for(address)
        ray.init(
            address=address,
            num_cpus=jobs if address == "local" else None,
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.ERROR,
            runtime_env={
                "env_vars": {"PYTHONPATH": _search_path(), **SHORT_WAIT}
            },
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray {address}: {error}; start a cluster with `ray start --head`, or give "
            f"--ray local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _look_for(address):
    """Raise `OSError` or `ValueError` if host:port does not answer. Ray would try for a minute."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator:
        socket.create_connection((host, int(port)), PATIENCE).close()


def _search_path():
    """Where workers find the modules of this project, wherever the program was started."""
    project = str(Path(__file__).resolve().parents[1])
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([project, given] if given else [project])
