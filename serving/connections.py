"""Connections with limits: on the time of a request and of its answer, and on their number a
client.

Under uvicorn's own protocol a connection that sends nothing, or half a request, stays open for
ever.
"""

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ASKING = 10.0  # seconds for a whole request to arrive
ANSWERING = 120.0  # seconds for its answer to be made and taken
MOST = 200  # connections of one client to one worker


class Connection(H11Protocol):
    """One connection. `--http` of uvicorn: pass the class."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock; refuse a client that holds too many connections."""
        super().connection_made(transport)
        self._end_in(ASKING)
        host = self.client and self.client[0]
        alike = [
            other
            for other in self.connections
            if other.client and other.client[0] == host
        ]
        if len(alike) > MOST:
            self._refuse(503, "too many connections of one client")

    def data_received(self, data: bytes) -> None:
        """Take part of a request."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self._idle():
            self._end_in(ASKING)
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._end_in(ANSWERING)

    def on_response_complete(self) -> None:
        """uvicorn's own clock for idle connections takes over, unless the next request came with
        this one."""
        self._end_in(None)
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._end_in(ASKING)
        elif self.conn.their_state is not h11.IDLE:
            self._end_in(ANSWERING)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, in the end even if the client does not read its answer."""
        super().timeout_keep_alive_handler()
        self._end_in(ASKING)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._end_in(None)
        super().connection_lost(exc)

    def _idle(self):
        """Whether no request is in progress; slow bytes do not extend the deadline."""
        return self.deadline is None

    def _end_in(self, seconds):
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = None
        if seconds is not None:
            self.deadline = self.loop.call_later(seconds, self._end)

    def _end(self):
        waiting = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if waiting and not self.transport.is_closing():
            self._refuse(408, "the request took too long to arrive")
        else:
            self.transport.abort()

    def _refuse(self, code, message):
        """Answer without asking the application, and close."""
        body = json.dumps({"error": message}).encode()
        self.transport.write(
            f"HTTP/1.1 {code} Refused\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()
        self._end_in(ASKING)
