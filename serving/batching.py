"""Schedules requests: waiting queries are ranked in one batch; explanations never delay them."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException

from answers import Recommendation
from engine import RecommendationEngine
from queries import Query
from serving.guards import BATCH_SIZE

MOST = 32  # queries in a batch
WAITING = {"rank": 512, "explain": 32}  # at most; who comes then is sent away
Answer = TypeVar("Answer")
Waiting = tuple[RecommendationEngine, Query, asyncio.Future]


class Busy(HTTPException):
    """Too many requests wait."""

    def __init__(self) -> None:
        message = "too many requests wait; try again in a moment"
        super().__init__(503, message, {"retry-after": "1"})


class Batcher:
    """Ranks for many callers. While one batch is computed, the next one gathers.

    Explanations run in their own thread at a lower priority (on Linux), one at a time.
    """

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Waiting] = asyncio.Queue(WAITING["rank"])
        self.threads = {
            "rank": ThreadPoolExecutor(1, "rank"),
            "explain": ThreadPoolExecutor(1, "explain", _step_back),
        }
        self.room = {
            name: asyncio.Semaphore(most) for name, most in WAITING.items()
        }

    def start(self) -> None:
        """Start serving in the running event loop."""
        self.task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """End when all that waits has been answered."""
        await self.waiting.join()
        self.task.cancel()
        for thread in self.threads.values():
            thread.shutdown()

    async def rank(
        self, engine: RecommendationEngine, query: Query
    ) -> list[Recommendation]:
        """`engine.answer` of one query. Raises `Busy`, or what that raises."""
        future = asyncio.get_running_loop().create_future()
        try:
            self.waiting.put_nowait((engine, query, future))
        except asyncio.QueueFull:
            raise Busy from None
        return await future

    async def compute(self, thread: str, work: Callable[[], Answer]) -> Answer:
        """The result of something else, computed in the thread 'rank', if it is quick, or
        'explain'.

        Raises `Busy`, or what that raises.
        """
        if self.room[thread].locked():
            raise Busy
        async with self.room[thread]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.threads[thread], work)

    async def _serve(self):
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < MOST and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            BATCH_SIZE.observe(len(batch))
            for engine in {engine for engine, _, _ in batch}:
                part = [
                    (query, future)
                    for wanted, query, future in batch
                    if wanted is engine
                ]
                queries = [query for query, _ in part]
                answers = await loop.run_in_executor(
                    self.threads["rank"], answers_of, engine, queries
                )
                for (_, future), answer in zip(part, answers, strict=True):
                    _give(future, answer)
            for _ in batch:
                self.waiting.task_done()


def _give(future, answer):
    if future.cancelled():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def answers_of(
    engine: RecommendationEngine, queries: list[Query]
) -> list[list[Recommendation] | Exception]:
    """The answer to each query, or its error; a bad query does not affect the others."""
    try:
        return engine.answer(queries)
    except Exception as error:
        if len(queries) == 1:
            return [error]
        return [answers_of(engine, [query])[0] for query in queries]


def _step_back():
    """Lower the priority of the calling thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
