"""Does the service hold? `python -m serving.load --seconds 60 --rate 50`

Starts the service, asks it at a steady rate for which nobody waits (a late answer delays no later
question, and counts as late from the moment the question was due), and ends in one JSON line. 90
% of the requests are /recommend, for users of the data or for histories that nobody has had
before, 5 % are /explain, the rest /items, /profile and /health. Exit 1 unless every request was
answered with 200, 99 % of /recommend within 100 ms, and the memory of the service grew by less
than 5 % after the first tenth of the time.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from support.arguments import ArgumentParser
from support.errors import UserError, run_command

SHARES = {
    "/recommend": 0.9,
    "/explain": 0.05,
    "/items": 0.02,
    "/profile": 0.02,
    "/health": 0.01,
}
# seconds of the 99th percentile of /recommend; share of the memory
WORST, GROWTH = 0.1, 0.05
WORDS = ("a", "e", "i", "o", "an", "er", "the")


def question(
    path: str, users: list[Any], items: list[Any], draw: random.Random
) -> tuple[str, str, Any]:
    """(method, path, body) of a request."""
    if path == "/health":
        return "GET", path, None
    if path == "/items":
        return "GET", f"{path}?query={draw.choice(WORDS)}", None
    body: dict[str, Any] = {
        "history": draw.sample(items, draw.randint(1, min(100, len(items) // 2)))
    }
    if users and draw.random() < 0.5:
        body = {"user_id": draw.choice(users)}
    if path == "/explain":
        body["item_ids"] = [draw.choice(items)]
    return "POST", path, body


async def ask_all(
    url: str, rate: float, seconds: float, process: int
) -> dict[str, Any]:
    """Ask for so long and measure."""
    import httpx

    draw, answers, memory = random.Random(0), [], []
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        users = (await client.get("/health")).json()["some_users"]
        items = []
        for word in WORDS:
            found = (await client.get("/items", params={"query": word})).json()["items"]
            items += [item["id"] for item in found if item["id"] not in items]

        async def ask(due: float, path: str) -> None:
            method, place, body = question(path, users, items, draw)
            try:
                status = (await client.request(method, place, json=body)).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            answers.append((path, status, time.perf_counter() - due))

        for _ in range(20):  # kernels and caches
            await ask(0.0, "/recommend")
        await asyncio.gather(*(ask(0.0, "/explain") for _ in range(4)))
        answers.clear()
        began, tasks = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if number % max(1, int(rate)) == 0:
                memory.append(resident(process))
            path = draw.choices(list(SHARES), list(SHARES.values()))[0]
            tasks.append(asyncio.create_task(ask(due, path)))
        await asyncio.gather(*tasks)
    settled = memory[len(memory) // 10 :]
    return {
        "requests": len(answers),
        "seconds": round(time.perf_counter() - began, 1),
        "errors": sorted(
            f"{path} {status}" for path, status, _ in answers if status != 200
        ),
        "memory_mb": [round(settled[0] / 2**20), round(settled[-1] / 2**20)],
        "growth": round(settled[-1] / settled[0] - 1, 4),
        "milliseconds": times_of(answers),
    }


def times_of(answers: list[tuple[str, Any, float]]) -> dict[str, dict[str, float]]:
    """Median, 99th percentile and largest time of each path, in milliseconds."""
    found = {}
    for path in SHARES:
        spent = [1e3 * seconds for one, _, seconds in answers if one == path]
        if spent:
            low, high = np.percentile(spent, [50, 99])
            found[path] = {
                "p50": round(float(low), 1),
                "p99": round(float(high), 1),
                "max": round(max(spent), 1),
            }
    return found


def resident(process: int) -> int:
    """Bytes of memory of a process and all its children (their proportional share of what they
    share).
    """
    import psutil

    own = psutil.Process(process)
    family = (own, *own.children(recursive=True))
    if sys.platform == "linux":
        return sum(one.memory_full_info().pss for one in family)
    return sum(one.memory_info().rss for one in family)


def main(argv: list[str]) -> int:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=50.0,
        help="requests a second (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, help="write the figures there too")
    flags, rest = parser.parse_known_args(argv)
    if flags.seconds <= 0 or flags.rate <= 0:
        raise UserError("--seconds and --rate must be above 0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving", "--port", str(port), *rest]
    with subprocess.Popen(command) as process:
        try:
            wait_for(url, process)
            found = asyncio.run(ask_all(url, flags.rate, flags.seconds, process.pid))
        finally:
            process.terminate()
    print(json.dumps(found))
    if flags.output:
        flags.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    slow = found["milliseconds"]["/recommend"]["p99"] > 1e3 * WORST
    return int(bool(found["errors"]) or slow or found["growth"] >= GROWTH)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until it answers. Raises `UserError` if it ends instead."""
    import httpx

    while True:
        if process.poll() is not None:
            raise UserError("the service did not start; its own message stands above")
        try:
            httpx.get(f"{url}/health", timeout=5)
            return
        except httpx.HTTPError:
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(run_command(main))
