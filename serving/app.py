"""The HTTP service: /recommend, /explain, /profile, /items, /health, /metrics, and the page at /.

Requests are JSON of serving/schemas.py and nothing else: no file, pickle or address that a
request names is ever opened. Every refusal is {"error": "one line"} with a 4xx code, 503 when too
many wait.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import engine as engines_of
from answers import Profile, to_json
from batches import History
from dataset import Field, Table
from engine import RecommendationEngine
from serving.batching import Batcher, Busy
from serving.engines import Engines, load_engines, version_of
from serving.guards import Guard, Metrics
from serving.schemas import Error, Explanations, Items, Recommendations, User, Why, Wish
from support.errors import UserError

STATIC = Path(__file__).parent / "static"
M_ARENA_MAX = -8  # malloc.h
LONGEST = 500  # characters of a refusal
SOME_USERS = 200  # at least, that /health names where there are so many
MOST_VALUES = 1000  # of a column, that /health names
EXACT = 2**53  # beyond, JSON rounds whole numbers
ENVIRONMENT = "ENHANCED_BERT4REC_SERVICE"  # how the configuration reaches workers
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Error} for code in (400, 413, 422, 503)
}


@dataclass(frozen=True)
class Config:
    """What a service serves."""

    model_path: str = "checkpoints/best"
    vanilla_path: str | None = "models/vanilla"
    data_dir: str | None = None
    # names by which it may be asked for
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    look_every: float = 2.0  # seconds between looks for a newer checkpoint


class Service:
    """The state of one worker."""

    def __init__(self, config: Config) -> None:
        self.config, self.metrics = config, Metrics()
        self.batcher = Batcher(self.metrics.batch_size.observe)
        self.version = version_of(Path(config.model_path))
        self.engines = self._load(None)

    def _load(self, older: Engines | None) -> Engines:
        vanilla = Path(self.config.vanilla_path) if self.config.vanilla_path else None
        return load_engines(
            Path(self.config.model_path), vanilla, self.config.data_dir, older
        )

    async def look_for_newer(self) -> None:
        """Serve a checkpoint that takes the place of the old one as soon as it is read. One that
        cannot be read is reported and looked at again when it changes; the old one stays."""
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
                print(
                    f"the newer checkpoint in {self.config.model_path} is not served: {error}",
                    flush=True,
                )

    def engine(self, name: str) -> RecommendationEngine:
        """By its name in requests. Raises `UserError` if it is not served."""
        if name == "main":
            return self.engines.main
        if name not in self.engines.others:
            raise UserError(
                f"model {name!r} is not served here: it needs its checkpoint and the data "
                f"set's files"
            )
        return self.engines.others[name]

    def must_have(self, user: User) -> None:
        """Raises `UserError` for a user of data that are not here."""
        if user.user_id is not None and not self.engines.has_data:
            raise UserError(
                "users of the data cannot be asked for here: its files are absent, or are not "
                "those that the model was trained on; give a history"
            )

    def history(self, user: User, engine: RecommendationEngine) -> tuple[History, str]:
        """What is known of a user, for an engine, and what must be said of it.

        A history speaks of the main model's items; those that another one does not know are left
        out.
        """
        self.must_have(user)
        main, items, columns, note = self.engines.main, user.history, user.columns, ""
        at = user.at if engine.knows_request_time or engine is main else None
        if engine.catalogue.items is main.catalogue.items:
            history = engine.history(user.user_id, items, at, columns)
            return history, engine.request_time_note(
                user.user_id if items is None else None, at
            )
        if items is None and user.user_id is not None:
            rows = main.history(user.user_id).items
            items = main.catalogue.items.id_array(rows).tolist()
        if items is not None:
            known = [one for one in items if engine.catalogue.items.index([one])[0]]
            if len(known) < len(items):
                note = (
                    f"without {len(items) - len(known)} {main.schema.nouns} that this model "
                    f"does not "
                    f"know"
                )
            items = known
        return engine.history(
            None, items, at, columns or ({} if not items else None)
        ), note


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
    )
    app.state.service = service
    _add_refusals(app)
    _add_questions(app, service)
    _add_surroundings(app, service)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(config.hosts))
    app.add_middleware(Guard, metrics=service.metrics)
    return app


def from_environment() -> FastAPI:
    """The application of a worker process."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # Else each thread keeps memory of its own, and a worker grows for minutes.
        libc.mallopt(M_ARENA_MAX, 1)
    values = json.loads(os.environ[ENVIRONMENT])
    return create_app(Config(**{**values, "hosts": tuple(values["hosts"])}))


def to_environment(config: Config) -> None:
    """Leave the configuration for worker processes."""
    os.environ[ENVIRONMENT] = json.dumps(asdict(config))


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=Recommendations, responses=REFUSALS)
    async def recommend(wish: Wish) -> Response:
        """The k best items for a user, fewer if fewer are left."""
        engine = service.engine(wish.model)
        history, note = service.history(wish, engine)
        query = engines_of.Query(
            history, wish.k, wish.filter_seen, wish.where, or_fewer=True
        )
        rows = await service.batcher.rank(engine, query)
        return answer({"recommendations": rows, "note": note})

    @app.post("/explain", response_model=Explanations, responses=REFUSALS)
    async def explain(why: Why) -> Response:
        """What of a user's history, and what else, speaks for items or against them."""
        engine = service.engines.main
        history, _ = service.history(why, engine)
        query = engines_of.Query(history, why.k or 10, why.filter_seen, why.where)
        found = await service.batcher.compute(
            "explain",
            lambda: engine.explain(query, why.item_ids, in_full=why.k is not None),
        )
        return answer({"explanations": found})

    @app.post("/profile", response_model=Profile, responses=REFUSALS)
    async def profile(user: User) -> Response:
        """What is known of a user, what the history says, and what the model expects."""
        engine = service.engines.main
        service.must_have(user)
        return answer(
            await service.batcher.compute(
                "rank",
                lambda: engine.get_user_profile(
                    user.user_id, user.history, at=user.at, user_columns=user.columns
                ),
            )
        )

    @app.get("/items", response_model=Items, responses=REFUSALS)
    async def items(
        query: Annotated[
            str, Query(min_length=1, max_length=100, description="words of a name")
        ],
    ) -> Response:
        """Items whose names hold all words of a query, the most popular first."""
        engines = service.engines
        return answer(
            {"items": [engines.main.item(row) for row in engines.search(query)]}
        )


def answer(content: Any) -> Response:
    """JSON of an answer; whole numbers that JSON would round travel as text."""
    return JSONResponse(_exact(to_json(content)))


def _exact(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _exact(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_exact(value) for value in content]
    if isinstance(content, int) and abs(content) > EXACT:
        return str(content)
    return content


def health_of(engines: Engines) -> dict[str, Any]:
    """Which model is served, its data's words and columns, and what it can be asked."""
    main = engines.main
    catalogue, schema = main.catalogue, main.schema
    users = catalogue.users
    ids = users.ids.tolist() if engines.has_data else []
    return {
        "status": "ok",
        "dataset": schema.name,
        "data_note": schema.note,
        "noun": schema.noun,
        "nouns": schema.nouns,
        "verb": schema.verb,
        "repeats": schema.repeats,
        "items": len(catalogue.items.ids),
        "validation": main.info["validation"],
        "git_commit": main.info["git_commit"],
        "models": ["main", *sorted(engines.others)],
        "users": len(ids),
        "numeric_ids": users.numeric,
        "some_users": ids[:: max(1, len(ids) // SOME_USERS)],
        "serves_empty_histories": main.scorer.starts,
        "knows_request_time": main.knows_request_time,
        "item_columns": _described(catalogue.items.fields, catalogue.items),
        "user_columns": _described(users.fields, users if engines.has_data else None),
        "interaction_columns": _described(catalogue.interaction_fields, None),
    }


def _described(fields: dict[str, Field], table: Table | None) -> list[dict[str, Any]]:
    """Columns as the page needs them for its widgets."""
    columns = []
    for name, entry in fields.items():
        column = {
            "name": name,
            "label": entry.column.title,
            "kind": entry.column.kind,
            "ordered": entry.column.ordered,
        }
        if entry.values:
            pairs = list(zip(entry.values, entry.titles, strict=True))
            column["values"] = [
                list(pairs[code]) for code in _most_common(entry, table)
            ]
        if entry.column.kind == "number" and table is not None:
            known = table.data[name][~np.isnan(table.data[name])]
            if len(known):
                column["range"] = [float(known.min()), float(known.max())]
        columns.append(column)
    return columns


def _most_common(entry: Field, table: Table | None) -> list[int]:
    """Places of a column's MOST_VALUES most common values, in the order of the schema."""
    count = len(entry.values)
    if table is None or count <= MOST_VALUES:
        return list(range(count))
    occurrences = np.bincount(table.data[entry.name].ravel(), minlength=count + 1)[1:]
    return sorted(np.argsort(-occurrences, kind="stable")[:MOST_VALUES].tolist())


def _add_surroundings(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=dict[str, Any])
    async def health() -> Response:
        """Which model is served, and what it can be asked."""
        return answer(health_of(service.engines))

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        content, kind = service.metrics.exposition()
        return Response(content, media_type=kind)

    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html")


def _add_refusals(app: FastAPI) -> None:
    def refusal(code: int) -> Callable[[Request, Exception], Any]:
        async def refuse(_request: Request, error: Exception) -> Response:
            return JSONResponse({"error": _plain(error)}, code)

        return refuse

    app.exception_handler(UserError)(refusal(400))
    app.exception_handler(RequestValidationError)(refusal(422))

    @app.exception_handler(Busy)
    async def busy(_request: Request, _error: Busy) -> Response:
        return JSONResponse(
            {"error": "too many requests wait; try again in a moment"},
            503,
            {"retry-after": "1"},
        )

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> Response:
        return JSONResponse(
            {"error": str(error.detail)}, error.status_code, error.headers
        )


def _plain(error: Exception) -> str:
    """One short line, without the dashes of command-line flags and without the values of the
    request.
    """
    if isinstance(error, RequestValidationError):
        faults = []
        for fault in error.errors()[:3]:
            place = ".".join(str(part) for part in fault["loc"] if part != "body")
            faults.append(f"{place or 'body'}: {fault['msg']}")
        text = "; ".join(faults).encode("ascii", "replace").decode()
    else:
        text = re.sub(r"--(?=\w)", "", str(error)).encode("utf-8", "replace").decode()
    return " ".join(text.split())[:LONGEST]
