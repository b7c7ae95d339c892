"""Guards around every request: a limit on its size, security headers, metrics."""

import os
import time

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 64 * 1024
PATHS = (
    "/recommend",
    "/explain",
    "/profile",
    "/items",
    "/similar",
    "/health",
    "/metrics",
    "/",
)
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; "
    b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# Of one worker; with PROMETHEUS_MULTIPROC_DIR set, `exposition` adds up those of all workers.
REQUESTS = Counter(
    "requests", "requests by path and status", ["path", "status"]
)
BEGUN = Counter("requests_begun", "requests, answered or not", ["path"])
SECONDS = Histogram("request_seconds", "time to answer", ["path"])
BATCH_SIZE = Histogram(
    "batch_size", "queries ranked together", buckets=(1, 2, 4, 8, 16, 32)
)


def exposition() -> bytes:
    """Figures for Prometheus."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry)


class Guard:
    """Around every request: refuses a body of more than MOST_BYTES with 413, whether the request
    says how long it is or not, adds HEADERS to the answer, counts and times it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        began, status, size = time.perf_counter(), "500", 0
        BEGUN.labels(path).inc()

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BYTES:
                raise HTTPException(
                    413,
                    f"the body is longer than {MOST_BYTES} bytes",
                    {"connection": "close"},
                )
            return message

        async def extended(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self.app(scope, bounded, extended)
        finally:
            REQUESTS.labels(path, status).inc()
            SECONDS.labels(path).observe(time.perf_counter() - began)
