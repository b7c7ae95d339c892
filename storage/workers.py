"""Where the steps of a build run: here, or as tasks of a Ray cluster whose machines share the
folder."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from support.ray_cluster import cluster

Step = Callable[[int], None]
Map = Callable[[Step, Iterable[int]], Iterator[None]]


def here(step: Step, numbers: Iterable[int]) -> Iterator[None]:
    """Takes a step for each number; yields after each."""
    for number in numbers:
        step(number)
        yield


@contextlib.contextmanager
def on_ray(address: str) -> Iterator[Map]:
    """The same with a task for each number, in any order. A task whose worker dies is given to
    another one. address: as in `cluster`."""
    with cluster(address) as ray:

        def spread(step: Step, numbers: Iterable[int]) -> Iterator[None]:
            shared = ray.put(step)
            task = ray.remote(num_cpus=1, max_retries=3)(_take)
            pending = [task.remote(shared, number) for number in numbers]
            while pending:
                (done,), pending = ray.wait(pending, num_returns=1)
                ray.get(done)
                yield

        yield spread


def _take(step, number):
    """In a Ray worker."""
    step(number)
