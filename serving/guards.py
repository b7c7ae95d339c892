"""What stands around every request: a bound on its size, headers that keep browsers safe,
figures.
"""

from __future__ import annotations

import os
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 64 * 1024
PATHS = ("/recommend", "/explain", "/profile", "/items", "/health", "/metrics", "/")
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
            buckets=(
                0.001,
                0.0025,
                0.005,
                0.01,
                0.025,
                0.05,
                0.1,
                0.25,
                0.5,
                1,
                2.5,
                5,
                10,
            ),
        )
        self.batch_size = Histogram(
            "batch_size",
            "queries ranked together",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self.reloads = Counter(
            "reloads",
            "newer checkpoints, loaded or refused",
            ["outcome"],
            registry=self.registry,
        )

    def exposition(self) -> tuple[bytes, str]:
        """(text, content type) for Prometheus."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8"


class Measured:
    """Counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        began, status = time.perf_counter(), "gone"
        self.metrics.begun.labels(path).inc()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            status = "500"
            raise
        finally:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)


class SecurityHeaders:
    """Adds headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def extended(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [*message.get("headers", []), *HEADERS],
                }
            await send(message)

        await self.app(scope, receive, extended if scope["type"] == "http" else send)


class BodyLimit:
    """Answers 413 to a body of more than MOST_BYTES, whether it says so or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        said = dict(scope["headers"]).get(b"content-length", b"0")
        more = not (said.isdigit() and int(said) > MOST_BYTES)
        refused = not more
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST_BYTES:
                refused, more = True, False
        if refused:
            content = b'{"error":"the body is longer than %d bytes"}' % MOST_BYTES
            await send(
                {
                    "type": "http.response.start",
                    "status": 413,
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"connection", b"close"),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": content})
            return
        given = False

        async def whole() -> dict[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole, send)
