"""What stands around every request: a bound on its size, headers that keep browsers safe,
figures.
"""

import os
import time

from prometheus_client import (
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
    "/health",
    "/metrics",
    "/",
)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }.items()
]


class Metrics:
    """Counters of one worker; with PROMETHEUS_MULTIPROC_DIR set, /metrics adds up those of all
    workers.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "requests",
            "requests by path and status",
            ["path", "status"],
            registry=self.registry,
        )
        self.begun = Counter(
            "requests_begun",
            "requests by path, answered or not",
            ["path"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "request_seconds",
            "time to answer",
            ["path"],
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "batch_size",
            "queries ranked together",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )

    def exposition(self) -> tuple[bytes, str]:
        """(text, content type) for Prometheus."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(
            registry
        ), "text/plain; version=0.0.4; charset=utf-8"


class Guard:
    """Around every request: refuses a body of more than MOST_BYTES with 413, whether the request
    says how long it is or not, adds HEADERS to the answer, counts and times it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        began, status, size = time.perf_counter(), "gone", 0
        self.metrics.begun.labels(path).inc()

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
        except Exception:
            status = "500"
            raise
        finally:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(
                time.perf_counter() - began
            )
