"""The HTTP service: /recommend, /explain, /profile, /items, /health, /metrics, and the page at /.

Requests are JSON of serving/schemas.py and nothing else: no file, pickle or address that a request names is ever
opened. Every refusal is {"error": "one line"} with a 4xx code, 503 when too many wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import inference
from batches import History
from inference import RecommendationEngine
from readers.interactions import AGE_GROUPS, GENRES
from serving.batching import Batcher, Busy
from serving.engines import Engines, load_engines, version_of
from serving.guards import BodyLimit, Measured, Metrics, SecurityHeaders
from serving.schemas import Error, Explanations, Films, Person, Recommendations, Why, Wish
from support.errors import UserError

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
M_ARENA_MAX = -8  # malloc.h
LONGEST = 500  # characters of a refusal
SOME_USERS = 200  # at least, that /health names where there are so many
ENVIRONMENT = "ENHANCED_BERT4REC_SERVICE"  # how the configuration reaches workers
REFUSALS: dict[int | str, dict[str, Any]] = {code: {"model": Error} for code in (400, 413, 422, 503)}


@dataclass(frozen=True)
class Config:
    """What a service serves."""

    model_path: str = "checkpoints/best"
    vanilla_path: str | None = "models/vanilla"
    data_dir: str | None = None
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")  # names by which it may be asked for
    look_every: float = 2.0  # seconds between looks for a newer checkpoint


class Service:
    """The state of one worker."""

    def __init__(self, config: Config) -> None:
        self.config, self.metrics = config, Metrics()
        self.batcher = Batcher(self.metrics.batch_size.observe)
        self.version = version_of(Path(config.model_path))
        self.engines = self._load(None)

    def _load(self, older: Engines | None) -> Engines:
        vanilla = self.config.vanilla_path
        return load_engines(Path(self.config.model_path), Path(vanilla) if vanilla else None, self.config.data_dir,
                            older)

    async def look_for_newer(self) -> None:
        """Serve a checkpoint that takes the place of the old one as soon as it is read. One that cannot be read is
        reported and looked at again when it changes; the old one stays."""
        while True:
            await asyncio.sleep(self.config.look_every)
            version = version_of(Path(self.config.model_path))
            if version in (None, self.version):
                continue
            self.version = version
            try:
                self.engines = await asyncio.to_thread(self._load, self.engines)
                self.metrics.reloads.labels("loaded").inc()
            except Exception as error:
                self.metrics.reloads.labels("refused").inc()
                print(f"the newer checkpoint in {self.config.model_path} is not served: {error}", flush=True)

    def engine(self, name: str) -> RecommendationEngine:
        """By its name in requests. Raises `UserError` if it is not served."""
        if name == "main":
            return self.engines.main
        if name not in self.engines.others:
            raise UserError(f"model {name!r} is not served here: it needs its checkpoint and the data set's files")
        return self.engines.others[name]

    def must_have(self, person: Person) -> None:
        """Raises `UserError` for somebody in data that are not here."""
        if person.user_id is not None and not self.engines.has_data:
            raise UserError("people of the data cannot be asked for here: its files are absent, or are not those that "
                            "the model was trained on; give a history")

    def history(self, person: Person, engine: RecommendationEngine, main: RecommendationEngine) -> tuple[History, str]:
        """What is known of a person, for an engine, and what must be said of it. A history speaks of the main model's
        films; those that another one does not know are left out."""
        self.must_have(person)
        facts = person.facts
        at = person.at if engine.knows_request_time or engine is main else None
        films = person.history
        if engine is not main and films is None and person.user_id is not None:
            films = main.catalogue.movie_id(main.history(person.user_id).items).tolist()
        if engine is not main and films is not None:
            known = np.array(films)[engine.catalogue.item_index(films) > 0].tolist() if films else []
            note = f"without {len(films) - len(known)} films that this model does not know" \
                if len(known) < len(films) else ""
            return engine.history(None, known, at, facts if facts or known else {}), note
        return (engine.history(person.user_id, films, at, facts),
                engine.request_time_note(person.user_id if films is None else None, at))


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

    app = FastAPI(title="Enhanced BERT4Rec", version="1", docs_url=None, redoc_url=None, lifespan=lifespan,
                  description="Recommends films and says why. All ids are the data set's own.")
    app.state.service = service
    _add_refusals(app)
    _add_questions(app, service)
    _add_surroundings(app, service)
    for middleware, options in ((TrustedHostMiddleware, {"allowed_hosts": list(config.hosts)}), (BodyLimit, {}),
                                (Measured, {"metrics": service.metrics}), (SecurityHeaders, {})):
        app.add_middleware(middleware, **options)
    return app


def from_environment() -> FastAPI:
    """The application of a worker process."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)  # else each thread keeps memory of its own, and a worker grows for minutes
    values = json.loads(os.environ[ENVIRONMENT])
    return create_app(Config(**{**values, "hosts": tuple(values["hosts"])}))


def to_environment(config: Config) -> None:
    """Leave the configuration for worker processes."""
    os.environ[ENVIRONMENT] = json.dumps(asdict(config))


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=Recommendations, responses=REFUSALS)
    async def recommend(wish: Wish) -> Response:
        """The k best films for a person, fewer if fewer are left."""
        engine, main = service.engine(wish.model), service.engines.main
        history, note = service.history(wish, engine, main)
        rows = await service.batcher.rank(engine, inference.Query(
            history, wish.k, wish.filter_seen, wish.genres, wish.year_from, or_fewer=True))
        return JSONResponse({"recommendations": rows, "note": note})

    @app.post("/explain", response_model=Explanations, responses=REFUSALS)
    async def explain(why: Why, request: Request) -> Response:
        """What of a person's history, and what else, speaks for films or against them."""
        engine = service.engines.main
        history, _ = service.history(why, engine, engine)
        query = inference.Query(history, why.k or 10, why.filter_seen, why.genres, why.year_from)
        reasons = await _while_there(request, service.batcher.compute("explain", lambda: engine.explain(
            query, why.movie_ids, in_full=why.k is not None)))
        return JSONResponse({"explanations": reasons})

    @app.post("/profile", response_model=dict[str, Any], responses=REFUSALS)
    async def profile(person: Person) -> Response:
        """What is known of a person, the genres and years of the history, and the genres that the model expects."""
        engine = service.engines.main
        service.must_have(person)
        return JSONResponse(await service.batcher.compute("rank", lambda: engine.get_user_profile(
            person.user_id, person.history, at=person.at, demographics=person.facts)))

    @app.get("/items", response_model=Films, responses=REFUSALS)
    async def items(query: Annotated[str, Query(min_length=1, max_length=100, description="words of a title")],
                    ) -> Response:
        """Films whose titles hold all words of a query, the most popular first."""
        engines = service.engines
        return JSONResponse({"films": [engines.main.film(index) for index in engines.search(query)]})


async def _while_there(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of slow work, which is dropped, if it has not begun, when nobody waits for it any more."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.5)
        if not task.done() and await request.is_disconnected():
            task.cancel()
    if task.cancelled():
        raise HTTPException(499, "the client has gone")
    return task.result()


def _add_surroundings(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=dict[str, Any])
    async def health() -> Response:
        """Which model is served, and what it can be asked."""
        engines = service.engines
        main = engines.main
        people = main.catalogue.user_ids if engines.has_data else []
        return JSONResponse({
            "status": "ok", "dataset": main.info["dataset"], "data_note": main.info["data_note"],
            "films": len(main.catalogue.movie_ids), "validation": main.info["validation"],
            "git_commit": main.info["git_commit"], "models": ["main", *sorted(engines.others)],
            "users": [int(min(people)), int(max(people))] if len(people) else None,
            "some_users": sorted(map(int, people))[::max(1, len(people) // SOME_USERS)],
            "serves_empty_histories": main.model.starts, "knows_request_time": main.knows_request_time,
            "genres": list(GENRES), "ages": {str(code): name for code, name in AGE_GROUPS.items()},
            "occupations": {str(code): name for code, name in sorted(main.catalogue.occupations.items())}})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        content, kind = service.metrics.exposition()
        return Response(content, media_type=kind)

    files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in STATIC.rglob("*")
             if path.suffix in TYPES}

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=TYPES[Path(name).suffix], headers={"cache-control": "max-age=300"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(files["index.html"], media_type="text/html")


def _add_refusals(app: FastAPI) -> None:
    def refusal(code: int) -> Callable[[Request, Exception], Any]:
        async def refuse(_request: Request, error: Exception) -> Response:
            return JSONResponse({"error": _plain(error)}, code)
        return refuse

    for kind, code in ((UserError, 400), (RequestValidationError, 422)):
        app.exception_handler(kind)(refusal(code))

    @app.exception_handler(Busy)
    async def busy(_request: Request, _error: Busy) -> Response:
        return JSONResponse({"error": "too many requests wait; try again in a moment"}, 503, {"retry-after": "1"})

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def _plain(error: Exception) -> str:
    """One short line, without the dashes of command-line flags and without the values of the request."""
    if isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(str(part) for part in fault['loc'] if part != 'body') or 'body'}: {fault['msg']}"
                  for fault in error.errors()[:3]]
        return " ".join("; ".join(faults).encode("ascii", "replace").decode().split())[:LONGEST]
    return " ".join(re.sub(r"--(?=\w)", "", str(error)).encode("utf-8", "replace").decode().split())[:LONGEST]
