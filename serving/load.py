"""Does the service hold? `python -m serving.load --seconds 60 --rate 50`

Starts the service, asks it at a steady rate for which nobody waits (a late answer delays no later question, and counts
as late from the moment the question was due), and ends in one JSON line. 90 % of the requests are /recommend, for
people of whom none comes back before all have been or for histories that nobody has had before, 5 % are /explain, the
rest /items, /profile and /health. Exit 1 unless every request was answered with 200, 99 % of /recommend within 100 ms,
and the memory of the service grew by less than 5 % after the first tenth of the time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from support.arguments import ArgumentParser
from support.errors import UserError, run_command

SHARES = {"/recommend": 0.9, "/explain": 0.05, "/items": 0.02, "/profile": 0.02, "/health": 0.01}
WORST, GROWTH = 0.1, 0.05  # seconds of the 99th percentile of /recommend; share of the memory
WORDS = ("star", "love", "night", "the man", "2", "of the", "war", "film", "alien")


def question(path: str, people: Iterator[int], films: list[int], draw: random.Random) -> tuple[str, str, Any]:
    """(method, path, body) of a request like no other."""
    if path in ("/health", "/items"):
        return "GET", path + (f"?query={draw.choice(WORDS)}" if path == "/items" else ""), None
    user_id = next(people, None) if draw.random() < 0.5 else None
    person: dict[str, Any] = {"user_id": user_id} if user_id is not None else {
        "history": draw.sample(films, draw.randint(1, min(100, len(films) // 2)))}
    if path == "/recommend":
        person |= {"k": 10}
    if path == "/explain":
        person |= {"movie_ids": [draw.choice(films)]}
    return "POST", path, person


async def ask_all(url: str, rate: float, seconds: float, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Ask for so long and measure."""
    import httpx

    draw, answers, memory = random.Random(0), [], []
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=64)) as client:
        first, last = (await client.get("/health")).json()["users"] or (1, 0)  # without data there are no people
        people = itertools.cycle(draw.sample(range(first, last + 1), last + 1 - first))
        listed = [(await client.get("/items", params={"query": word})).json()["films"] for word in WORDS]
        films = sorted({film["movie_id"] for part in listed for film in part})

        async def ask(due: float, method: str, path: str, body: Any) -> None:
            try:
                status = (await client.request(method, path, json=body)).status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            answers.append((path.partition("?")[0], status, time.perf_counter() - due))

        for _ in range(20):  # kernels and caches
            await ask(time.perf_counter(), *question("/recommend", people, films, draw))
        await asyncio.gather(*(ask(0.0, *question("/explain", people, films, draw)) for _ in range(4)))
        answers.clear()
        began, worked, tasks = time.perf_counter(), processor_seconds(process.pid), []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if number % max(1, int(rate)) == 0:
                memory.append(resident(process.pid))
            path = draw.choices(list(SHARES), list(SHARES.values()))[0]
            tasks.append(asyncio.create_task(ask(due, *question(path, people, films, draw))))
        await asyncio.gather(*tasks)
        worked = processor_seconds(process.pid) - worked
    settled = memory[len(memory) // 10:]
    times = {path: np.array([spent for one, _, spent in answers if one == path]) for path in SHARES}
    return {"requests": len(answers), "seconds": round(time.perf_counter() - began, 1),
            "processor_seconds": round(worked, 1),
            "errors": sorted(f"{path} {status}" for path, status, _ in answers if status != 200),
            "memory_mb": [round(settled[0] / 2**20), round(settled[-1] / 2**20)],
            "growth": round(settled[-1] / settled[0] - 1, 4),
            "milliseconds": {path: {name: round(1e3 * float(value), 1) for name, value in (
                ("p50", np.percentile(spent, 50)), ("p99", np.percentile(spent, 99)), ("max", spent.max()))}
                             for path, spent in times.items() if len(spent)}}


def resident(process: int) -> int:
    """Bytes of memory of a process and all its children (their proportional share of what they share)."""
    import psutil

    own = psutil.Process(process)
    return sum(one.memory_full_info().pss if sys.platform == "linux" else one.memory_info().rss
               for one in (own, *own.children(recursive=True)))


def processor_seconds(process: int) -> float:
    """Spent by a process and all its children: what the answers cost, whatever else the machine does."""
    import psutil

    own = psutil.Process(process)
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


def main(argv: list[str]) -> int:
    """See the module's head."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the figures there too")
    flags, rest = parser.parse_known_args(argv)
    if flags.seconds <= 0 or flags.rate <= 0:
        raise UserError("--seconds and --rate must be above 0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-m", "serving", "--port", str(port), *rest]) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}", process)
            found = asyncio.run(ask_all(f"http://127.0.0.1:{port}", flags.rate, flags.seconds, process))
        finally:
            process.terminate()
    print(json.dumps(found))
    if flags.output:
        flags.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    worst = found["milliseconds"]["/recommend"]["p99"]
    return int(bool(found["errors"]) or worst > 1e3 * WORST or found["growth"] >= GROWTH)


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
