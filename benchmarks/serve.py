"""A worker of a benchmark: it does one thing at a time when told to, so that several can be timed
in turns.

Standard library only: it runs in the peers' environment as well. One request a line on standard
input, one JSON object a line on standard output; whatever else prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REQUESTS = 500  # of single people, for the latency


def serve(actions: dict[str, Callable[[], dict[str, Any]]], answers: Any) -> None:
    """Answer requests until standard input ends; 'ready' is answered as soon as everything has
    loaded.
    """
    actions = {"ready": dict} | actions
    for line in sys.stdin:
        print(json.dumps(actions[line.strip()]()), file=answers, flush=True)


def claim_stdout() -> Any:
    """The real standard output as a file; from now on everybody else's prints go to standard
    error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def requests(people: Sequence[Any]) -> list[Any]:
    """Who asks, one at a time: the same for every side, as all have people in one order."""
    draw = random.Random(0)
    return [people[draw.randrange(len(people))] for _ in range(REQUESTS)]


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
