"""The client's side of the gateway: one asyncio Protocol a connection, answers in order, nothing polled and no task an event.

Reading from a client is never switched off, so that its leaving is seen in every phase: what it sends ahead of its answers is kept up to
a bound, and beyond that dropped and the connection closed after the present answer (a client must expect that of pipelining).
While a client does not read its answers, none of its further requests is begun.
End of file while an answer is due means that the client is gone, as nginx reads it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

import structlog

from weir.gateway.errors import RefusedError
from weir.gateway.http1 import Limits, Phase, Refusal, Request, RequestReader

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.25
MAX_AHEAD_BYTES = 1024 * 1024
"""Pipelined bytes kept while an answer is in the making, or one not read."""
PARSE_BYTES = 64 * 1024
"""Of these so many are parsed at a time: small requests take twenty times their bytes once they are objects."""
WRITE_BUFFER_BYTES = 32 * 1024
JSON_TYPE = b"application/json"

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status  # engines may have their own


@dataclass(frozen=True)
class Patience:
    """How long a client may take, seconds."""

    head: float = 10.0
    body_gap: float = 30.0
    """Between two reads of a body."""
    body: float = 300.0
    idle: float = 75.0
    """Between two requests."""
    stalled: float = 60.0
    """While it reads nothing of what is written to it: its slot is wanted."""
    linger: float = 2.0
    """After a last answer, for what was still under way from the client: closing at once would reset that answer away."""


class Exchange:
    """One request and its answer, given once: `respond`, or `begin`, `write` any number of times, `finish` (or `abort`)."""

    __slots__ = ("_chunked", "_connection", "arrived", "begun", "finished", "on_pause", "request", "task")

    def __init__(self, connection: ClientConnection, request: Request, arrived: float) -> None:
        self._connection = connection
        self._chunked = False
        self.request = request
        self.arrived = arrived
        """Loop time at which the request was whole."""
        self.begun = False
        self.finished = False
        self.task: asyncio.Task[None] | None = None
        """Cancelled when the client goes away."""
        self.on_pause: Callable[[bool], None] | None = None
        """Told True when the client does not keep up with what is written, False when it does again."""

    @property
    def paused(self) -> bool:
        """The client does not keep up."""
        return self._connection.paused

    def respond(self, status: int, body: bytes, headers: bytes = b"", content_type: bytes = JSON_TYPE) -> None:
        """The whole answer. `headers` are whole lines, each with its line end."""
        if self.begun:
            raise RuntimeError("an answer was already begun")
        if self.finished:
            return  # the client is gone
        head = b"%bdate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            _status_line(status),
            self._connection.server.date,
            content_type,
            len(body),
            headers,
            self._connection.connection_header(),
        )
        self.begun = True
        self._connection.send(head if self.request.method == b"HEAD" else head + body)
        self.finish()

    def refuse(self, problem: RefusedError, headers: bytes = b"") -> None:
        """The whole answer is an error; inside a stream that began, its last event."""
        if self.begun:
            self.write(problem.event())
            self.finish()
        else:
            lines = b"".join(b"%b: %b\r\n" % pair for pair in problem.headers())
            self.respond(problem.status, problem.body(), headers + lines)

    def begin(self, status: int, headers: bytes, content_type: bytes) -> None:
        """The head of an answer whose length is not known."""
        self._chunked = not self.request.http10
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if not self._chunked:
            self._connection.close_after_answer()  # the end of the connection is the end of the answer
        self._connection.send(
            b"%bdate: %b\r\ncontent-type: %b\r\n%b%b%b\r\n"
            % (
                _status_line(status),
                self._connection.server.date,
                content_type,
                framing,
                headers,
                self._connection.connection_header(),
            )
        )
        self.begun = True

    def write(self, data: bytes) -> None:
        """The next bytes of the answer; never empty. They go nowhere after `gone`."""
        if not self.finished:
            self._connection.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """The answer is whole."""
        if self.finished:
            return
        self.finished = True
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
        self._connection.answered(self)

    def abort(self) -> None:
        """The answer cannot become whole: the client sees the connection break, which no client takes for an end."""
        if not self.finished:
            self.finished = True
            self._connection.abort()

    def gone(self) -> None:
        """Called by the connection: the client left."""
        self.finished = True
        if self.task is not None:
            self.task.cancel()


Handler = Callable[[Exchange], Coroutine[Any, Any, None] | None]
"""Answers at once and returns None, or returns a coroutine that will; the coroutine is cancelled when the client leaves."""


class ClientConnection(asyncio.Protocol):
    """One connection. The state is `_exchange` (an answer is due), else what the reader's phase says."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.paused = False
        self.deadline = math.inf
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(server.limits)
        self._exchange: Exchange | None = None
        self._ahead = bytearray()
        self._close_after = False
        self._closing = False
        self._pumping = False
        self._timed = Phase.IDLE  # what `_until` bounds
        self._until = math.inf
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.server.connections.add(self)
        self.deadline = self.server.loop.time() + self.server.patience.idle

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client_gone()
        self.server.forget(self)

    def eof_received(self) -> bool:
        if self._exchange is not None:
            self.abort()
        return False  # close once what was written has left

    def data_received(self, data: bytes) -> None:
        if self._closing or self._reader.done:
            return
        if self._exchange is None and not self.paused:
            self._reader.feed(data)
            self._pump()
        elif len(self._ahead) + len(data) <= MAX_AHEAD_BYTES:
            self._ahead += data
        else:
            self._ahead.clear()
            self._reader.done = True
            self.close_after_answer()
            if self._exchange is None:
                self._close(linger=True)

    def pause_writing(self) -> None:
        self.paused = True
        self._check_progress()
        if self._exchange is not None and self._exchange.on_pause is not None:
            self._exchange.on_pause(True)

    def resume_writing(self) -> None:
        self.paused = False
        self.deadline = math.inf if self._exchange is not None else self.deadline
        if self._exchange is not None and self._exchange.on_pause is not None:
            self._exchange.on_pause(False)
        self._pump()

    def send(self, data: bytes) -> None:
        """Queue bytes for the client; after it left they go nowhere."""
        if self._transport is not None and not self._closing:  # uvloop raises on a transport that is closed
            self._transport.write(data)

    def connection_header(self) -> bytes:
        """What the answer says about the connection's future."""
        exchange = self._exchange
        if exchange is None or not exchange.request.keep_alive or self._close_after or self.server.draining:
            self._close_after = True
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if exchange.request.http10 else b""

    def close_after_answer(self) -> None:
        """No further request is read from this connection."""
        self._close_after = True

    def answered(self, exchange: Exchange) -> None:
        """The present answer is whole: on to the next request."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.server.count(-1)
        if self._close_after:
            self._close(linger=self._reader.done and exchange.request.keep_alive)
        else:
            self._pump()

    def abort(self) -> None:
        """Break the connection off."""
        self._client_gone()
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """The server takes nothing new: close, unless some of a request has come or an answer is due."""
        busy = self._exchange is not None or self._reader.phase is not Phase.IDLE
        if not (busy or self._reader.ready or self._ahead):
            self._close(linger=False)

    def stop(self) -> None:
        """The server ends: close, or break off what is still in flight."""
        if self._exchange is None:
            self._close(linger=False)
        else:
            self.abort()

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self.paused and self._check_progress():
            return
        if self._closing or self.paused:
            self.abort()
        elif self._reader.phase is Phase.IDLE:
            self._close(linger=False)
        elif self._exchange is None:
            what = "head" if self._reader.phase is Phase.HEAD else "body"
            self._reader.refuse(408, f"the {what} of the request came too slowly")
            self._pump()

    def _check_progress(self) -> bool:
        """Has the client read anything of what is written to it since the last look? Sets the deadline for the next."""
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size() if self._transport else 0
        self.deadline = self.server.loop.time() + self.server.patience.stalled
        return self._unsent < before

    def _pump(self) -> None:
        """Start what can be started. Handlers may answer at once, which leads back here: then the outer call goes on."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._exchange is None and self._transport is not None and not self._closing and not self.paused:
                if self._reader.ready:
                    self._start(self._reader.ready.popleft())
                elif self._ahead:
                    data = bytes(self._ahead[:PARSE_BYTES])
                    del self._ahead[:PARSE_BYTES]
                    self._reader.feed(data)
                else:
                    self._wait()
                    return
        finally:
            self._pumping = False

    def _start(self, item: Request | Refusal) -> None:
        loop = self.server.loop
        self.deadline = math.inf if not self.paused else self.deadline
        self._timed, self._until = Phase.IDLE, math.inf
        if isinstance(item, Refusal):
            self._refuse(item)
            return
        exchange = self._exchange = Exchange(self, item, loop.time())
        self.server.count(+1)
        coroutine = self.server.handler(exchange)
        if coroutine is not None:
            exchange.task = loop.create_task(coroutine)

    def _refuse(self, refusal: Refusal) -> None:
        """What could not be read has no request to answer; the connection goes with it."""
        problem = RefusedError(refusal.status, refusal.message, "invalid_http_request")
        body = problem.body()
        self.send(
            b"%bdate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (_status_line(refusal.status), self.server.date, JSON_TYPE, len(body), body)
        )
        self.server.on_refusal(refusal)
        self._close(linger=True)

    def _wait(self) -> None:
        """Nothing to do until the client sends more: how long may that take?"""
        patience, now, phase = self.server.patience, self.server.loop.time(), self._reader.phase
        if phase is not self._timed:
            # From the first byte on, not from the latest: what comes byte by byte has no more time than any other.
            self._timed = phase
            self._until = now + (patience.head if phase is Phase.HEAD else patience.body)
        if phase is Phase.IDLE:
            self.deadline = now + patience.idle
        elif phase is Phase.HEAD:
            self.deadline = self._until
        else:
            self.deadline = min(self._until, now + patience.body_gap)
            if self._reader.wants_continue:
                self._reader.wants_continue = False
                self.send(_CONTINUE)

    def _close(self, *, linger: bool) -> None:
        transport = self._transport
        if transport is None or self._closing:
            return
        self._closing = True
        patience, now = self.server.patience, self.server.loop.time()
        if linger and transport.can_write_eof():
            self.deadline = now + patience.linger
            transport.write_eof()
        else:
            self.deadline = now + patience.stalled
            transport.close()

    def _client_gone(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.server.count(-1)
            exchange.gone()


class Server:
    """The listening socket and its connections."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        patience: Patience = Patience(),
        on_refusal: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.patience = patience
        self.on_refusal = on_refusal
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._closed = False
        self.draining = False
        """Answers say `Connection: close` from now on."""
        self.date = formatdate(time.time(), usegmt=True).encode()
        self.port = 0
        self._listener: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Port 0 picks a free one, see `port`. Raises OSError where the address is taken."""
        self._listener = await self.loop.create_server(lambda: ClientConnection(self), host, port, backlog=4096)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._ticker = self.loop.create_task(self._tick())

    async def drain(self, seconds: float) -> bool:
        """Serve on until nothing is in flight, and after `close` until no connection is left; at most `seconds`. Was it so?"""
        self.draining = True
        self._drained.clear()
        self._check_drained()
        try:
            async with asyncio.timeout(seconds):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Take no new connection, and none that has asked nothing is kept. What has begun to come is still answered."""
        self.draining = self._closed = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close_if_idle()

    @property
    def in_flight(self) -> int:
        """Requests that are owed an answer."""
        return self._in_flight

    def count(self, change: int) -> None:
        """Called by the connections."""
        self._in_flight += change
        self._check_drained()

    def forget(self, connection: ClientConnection) -> None:
        """Called by a connection at its end."""
        self.connections.discard(connection)
        self._check_drained()

    def _check_drained(self) -> None:
        if self.draining and not (self.connections if self._closed else self._in_flight):
            self._drained.set()

    def stop(self) -> None:
        """Stop listening and close every connection; what is still in flight is broken off."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.stop()

    async def _tick(self) -> None:
        """One timer for all deadlines: a timer of its own for each request would cost as much as parsing it."""
        while True:
            now = self.loop.time()
            self.date = formatdate(time.time(), usegmt=True).encode()
            for connection in [c for c in self.connections if c.deadline <= now]:
                connection.expire(now)
            await asyncio.sleep(TICK_SECONDS)
