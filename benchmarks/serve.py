"""A worker of a benchmark: it does one thing at a time when told to, so that several can be timed
in turns.

Standard library only: it runs in the peers' environment as well. One request a line on standard
input, one JSON object a line on standard output; whatever else prints goes to standard error.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

REQUESTS = 500  # of single users, for the latency
USERS = 2000  # of the batch recommendation


class Side(Protocol):
    """A model that can be timed. users: all, in the same order on every side."""

    users: Sequence[Any]

    def epoch(self) -> dict[str, Any]:
        """Train one epoch more; its figures."""

    def prepare(self) -> None:
        """Have data and model in memory for `recommend`."""

    def recommend(self, users: Sequence[Any]) -> Sequence[Any]:
        """Ten items for each of these users, seen ones left out: the user of each item."""


def serve(build: Callable[..., Side]) -> None:
    """Build a side from the command line and answer requests until standard input ends; 'ready'
    as soon as everything has loaded."""
    answers = os.fdopen(os.dup(1), "w")
    # What anybody else prints goes to standard error.
    os.dup2(2, 1)
    side = build(*sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(_answer(side, line.strip())), file=answers, flush=True)


def _answer(side: Side, action: str) -> dict[str, Any]:
    if action == "epoch":
        return side.epoch()
    if action == "prepare":
        side.prepare()
    if action == "recommend":
        began = time.perf_counter()
        rows = side.recommend(side.users[:USERS])
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "users": len(set(rows)), "rows": len(rows)}
    if action == "latency":
        draw, times = random.Random(0), []
        for user in draw.choices(side.users, k=REQUESTS):
            began = time.perf_counter()
            side.recommend([user])
            times.append(1e3 * (time.perf_counter() - began))
        parts = statistics.quantiles(times, n=100)
        return {"p50_ms": parts[49], "p99_ms": parts[98], "requests": REQUESTS}
    return {}


class Worker:
    """The other end: a process that serves."""

    def __init__(self, python: str, arguments: list[str], log: Path) -> None:
        self.name, self.log = " ".join(arguments), log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parent.parent,
            )

    def ask(self, action: str) -> dict[str, Any]:
        """Have it do something and wait for the answer. Raises RuntimeError if it died."""
        try:
            print(action, file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            tail = "\n".join(self.log.read_text().splitlines()[-15:])
            raise RuntimeError(
                f"{self.name} died on {action!r}; its log ends:\n{tail}"
            ) from None

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=60)
        # still at work when the benchmark was interrupted
        except subprocess.TimeoutExpired:
            self.process.kill()
