"""The HTTP service: /recommend, /explain, /profile, /items, /health, /metrics, and the page at /.

Requests are JSON of serving/schemas.py: no file, pickle or address in a request is ever opened.
Every refusal is {"error": "one line"} with a 4xx code, 503 when too many wait.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import queries
from answers import Profile
from serving.batching import Batcher
from serving.engines import Config, Engines
from serving.guards import Guard, exposition
from serving.health import health_of
from serving.schemas import (
    Error,
    Explanations,
    Items,
    Recommendations,
    User,
    Why,
    Wish,
)
from support.checkpoint import INFO, WEIGHTS
from support.errors import UserError
from support.processes import die_with

STATIC = Path(__file__).parent / "static"
M_ARENA_MAX = -8  # malloc.h
LONGEST = 500  # characters of a refusal
LEAST_PACKED = 1000  # bytes of an answer that is worth compressing
# How the configuration reaches workers.
ENVIRONMENT = "ENHANCED_BERT4REC_SERVICE"
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Error} for code in (400, 413, 422, 503)
}


class Service:
    """The state of one worker."""

    def __init__(self, config: Config) -> None:
        self.config, self.batcher = config, Batcher()
        self.engines: Engines | None = None
        self.read()

    def read(self) -> None:
        """Serve the checkpoint that is now in the folder."""
        self.version = self.found()
        self.engines = Engines(self.config, self.engines)
        self.health = health_of(self.engines)

    def found(self) -> list[tuple[int, int, int]] | None:
        """A value that changes when a checkpoint or a file in it is replaced; None while a part is
        missing."""
        folder = Path(self.config.model_path)
        try:
            files = [(folder / name).stat() for name in (INFO, WEIGHTS)]
        except OSError:
            return None
        return [
            (file.st_ino, file.st_mtime_ns, file.st_size) for file in files
        ]

    async def look_for_newer(self) -> None:
        """Serve a checkpoint that takes the place of the old one as soon as it is read. One that
        cannot be read is reported and looked at again when it changes; the old one stays."""
        while True:
            await asyncio.sleep(self.config.look_every)
            if self.found() in (None, self.version):
                continue
            try:
                await asyncio.to_thread(self.read)
            except Exception as error:
                place = self.config.model_path
                print(
                    f"the newer checkpoint in {place} is not served: {error}",
                    flush=True,
                )


def create_app(config: Config) -> FastAPI:
    """The application; reads the checkpoint at once. Raises `UserError` if it cannot be used."""
    service = Service(config)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        looking = asyncio.create_task(service.look_for_newer())
        yield
        looking.cancel()
        await service.batcher.stop()

    app = FastAPI(
        title="Enhanced BERT4Rec",
        version="2",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        description="Recommends items and says why. All ids are the data set's own.",
        responses=REFUSALS,
        exception_handlers=dict.fromkeys(
            (UserError, RequestValidationError, HTTPException), refuse
        ),
    )
    app.state.service = service
    _add_questions(app, service)
    _add_surroundings(app, service)
    app.add_middleware(GZipMiddleware, minimum_size=LEAST_PACKED)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=config.hosts)
    app.add_middleware(Guard)
    return app


def from_environment() -> FastAPI:
    """The application of a worker process."""
    if sys.platform == "linux" and hasattr(
        libc := ctypes.CDLL(None), "mallopt"
    ):
        # Else each thread keeps memory of its own, and a worker grows for minutes.
        libc.mallopt(M_ARENA_MAX, 1)
    config = Config(**json.loads(os.environ[ENVIRONMENT]))
    if config.parent not in (0, os.getpid()):
        # A worker that outlived its parent would hold the port.
        die_with(config.parent)
    return create_app(config)


def _add_questions(app, service):
    @app.post("/recommend", response_model_exclude_none=True)
    async def recommend(wish: Wish) -> Recommendations:
        """The k best items for a user, fewer if fewer are left."""
        # Others may be served before this answer is done.
        engines = service.engines
        engine = engines[wish.model]
        history, note = engines.history(wish, engine)
        query = queries.Query(
            history,
            wish.k,
            *_allowed(wish),
            wish.rank_by,
            wish.diversity,
            wish.prefer_expected,
        )
        rows = await service.batcher.rank(engine, query)
        chosen = None
        if wish.user_id is not None and wish.until != "end":
            chosen = await service.batcher.compute(
                "rank", lambda: engines.chosen(wish, engine, query)
            )
        return Recommendations(recommendations=rows, note=note, chosen=chosen)

    @app.post("/explain", response_model_exclude_none=True)
    async def explain(why: Why, request: Request) -> Explanations:
        """What of a user's history, and what else, speaks for items or against them."""
        engine = service.engines.main
        history, _ = service.engines.history(why, engine)
        query = queries.Query(history, why.k or 10, *_allowed(why))
        work = service.batcher.compute(
            "explain",
            lambda: engine.explain(
                query, why.item_ids, in_full=why.k is not None
            ),
        )
        found = await _while_there(request, work)
        return Explanations(explanations=found)

    @app.post("/profile", response_model_exclude_none=True)
    async def profile(user: User) -> Profile:
        """What is known of a user, what the history says, and what the model expects."""
        engine = service.engines.main
        history, _ = service.engines.history(user, engine)
        return await service.batcher.compute(
            "rank", lambda: engine.profile_of(history, user.user_id)
        )


def _allowed(choice):
    """In the order of `Query`: which items may be on the list."""
    return choice.filter_seen, choice.where, choice.only, choice.without


async def _while_there(request, work):
    """The result of slow work, which is dropped, if it has not begun, when nobody waits for it
    any more.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.5)
        if not task.done() and await request.is_disconnected():
            task.cancel()
    if task.cancelled():
        raise HTTPException(499, "the client has gone")
    return task.result()


def _add_surroundings(app, service):
    @app.get("/items", response_model_exclude_none=True)
    async def items(
        query: Annotated[
            str,
            Query(min_length=1, max_length=100, description="words of a name"),
        ],
    ) -> Items:
        """Items whose names hold all words of a query, the most popular first; then items with
        names much like it."""
        engines = service.engines
        rows = await asyncio.to_thread(engines.search, query)
        return Items(items=[engines.main.item(row) for row in rows])

    @app.get("/similar", response_model_exclude_none=True)
    async def similar(
        item_id: Annotated[str, Query(min_length=1, max_length=200)],
        k: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> Recommendations:
        """The k items whose vectors are most like that of an item; the score is the cosine."""
        engine = service.engines.main
        one = engine.catalogue.items.parse_id(item_id)
        rows = await service.batcher.compute(
            "rank", lambda: engine.similar_items(one, k)
        )
        return Recommendations(recommendations=rows, note="")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Which model is served, and what it can be asked."""
        return service.health

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(exposition(), media_type=kind)

    # A browser keeps the files, so those of another version have another address.
    place = f"static/{version_of(STATIC)}/"
    app.mount(f"/{place[:-1]}", _Kept(directory=STATIC))
    content = (STATIC / "index.html").read_text(encoding="utf-8")
    content = content.replace('"static/', f'"{place}')

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(content, headers={"cache-control": "no-cache"})


def version_of(folder: Path) -> str:
    """A name that changes when a file in a folder does."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class _Kept(StaticFiles):
    """Files that a browser keeps."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "max-age=31536000, immutable"
        return response


async def refuse(_request: Request, error: Exception) -> Response:
    """One short line, without the dashes of command-line flags and without the values of the
    request."""
    code, text, headers = 400, re.sub(r"--(?=\w)", "", str(error)), None
    if isinstance(error, HTTPException):
        code, text, headers = (
            error.status_code,
            str(error.detail),
            error.headers,
        )
    if isinstance(error, RequestValidationError):
        faults = []
        for fault in error.errors()[:3]:
            place = ".".join(
                str(part) for part in fault["loc"] if part != "body"
            )
            faults.append(f"{place or 'body'}: {fault['msg']}")
        code, text = 422, "; ".join(faults).encode("ascii", "replace").decode()
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return JSONResponse({"error": line[:LONGEST]}, code, headers)
