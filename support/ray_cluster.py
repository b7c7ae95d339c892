"""A Ray cluster to run tasks on."""

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType

from support.errors import UserError


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
        ray.init(
            address=address,
            num_cpus=jobs if address == "local" else None,
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--ray {address}: {error}; start a cluster with `ray start --head`, or give "
            f"--ray local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
