"""One side of a benchmark: a model is trained for an epoch, then recommends, in a process of its
own that prints its figures as one JSON line.

Standard library only: it runs in the peers' environment as well.
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

REQUESTS = 500  # of single users, for the latency
USERS = 2000  # of the batch recommendation


class Side(Protocol):
    """A model that can be timed. users: all, in the same order on every side."""

    users: Sequence[Any]

    def epoch(self) -> dict[str, Any]:
        """Train one epoch; its figures."""

    def recommend(self, users: Sequence[Any]) -> Sequence[Any]:
        """Ten items for each of these users, seen ones left out: the user of each item."""


def run(build: Callable[..., Side]) -> None:
    """Build a side from the command line and print its figures."""
    answers = os.fdopen(os.dup(1), "w")
    # What anybody else prints goes to standard error.
    os.dup2(2, 1)
    side = build(*sys.argv[1:])
    busy = time.process_time()
    figures = side.epoch()
    figures["training_cpu"] = time.process_time() - busy
    users = side.users[:USERS]
    side.recommend(users)  # with data and model in memory
    began, busy = time.perf_counter(), time.process_time()
    rows = side.recommend(users)
    figures["users_per_second"] = len(users) / (time.perf_counter() - began)
    figures["batch_cpu"] = time.process_time() - busy
    if len(rows) != 10 * len(users):
        raise RuntimeError(f"{len(rows)} rows for {len(users)} users")
    times, busy = [], time.process_time()
    for user in random.Random(0).choices(side.users, k=REQUESTS):
        began = time.perf_counter()
        side.recommend([user])
        times.append(1e3 * (time.perf_counter() - began))
    figures["single_cpu"] = time.process_time() - busy
    parts = statistics.quantiles(times, n=100)
    print(
        json.dumps(figures | {"p50_ms": parts[49], "p99_ms": parts[98]}),
        file=answers,
    )
