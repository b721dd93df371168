"""Connections to the engines: one asyncio Protocol each, a small keep-alive pool for every replica.

What comes back is handed on by direct calls to a Receiver, with no task and no queue in between. An engine closes an idle
connection when it likes (uvicorn after 5 s), so a pooled one that breaks before the first byte of its answer is replaced by a
fresh one, once and silently; every other failure goes to the Receiver.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

import httptools
import structlog

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.25
IDLE_SECONDS = 4.0
"""Below uvicorn's 5, so that the engine's closing rarely meets our sending."""


class Failure(StrEnum):
    """How an attempt failed; also the label of a metric."""

    CONNECT = "connect"
    RESET = "reset"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    STATUS = "status"
    """A 5xx that does not mean full."""
    ERROR_EVENT = "error-event"
    """A 200 whose first event is an error."""
    CLIENT = "client"
    """None of the other side's: the client took too long to read."""
    EMPTY = "empty"
    """A 200 that ended with nothing in it."""


class Receiver(Protocol):
    """Takes an answer as it comes: on_head, on_data any number of times, then on_end; or on_failure at any time, once and last."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Status and headers, names in lower case."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body."""

    def on_end(self) -> None:
        """The answer is whole."""

    def on_failure(self, failure: Failure, detail: str) -> None:
        """There will be no more. `detail` is for the log."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds."""

    connect: float = 3.0
    first_byte: float = 600.0
    """Until the head of the answer; without streaming that is the whole generation."""
    gap: float = 120.0
    """Between two pieces of an answer."""


class Call:
    """One request under way to a replica, on however many connections it takes."""

    __slots__ = ("_cancelled", "_connecting", "connection", "paused", "pool", "receiver", "request")

    def __init__(self, pool: EnginePool, request: bytes, receiver: Receiver) -> None:
        self.pool = pool
        self.request = request
        self.receiver = receiver
        self.connection: EngineConnection | None = None
        self.paused = False
        self._connecting: asyncio.Task[None] | None = None
        self._cancelled = False

    def connect(self) -> None:
        """Send on a fresh connection."""
        self.connection = None
        if not self._cancelled:
            self._connecting = self.pool.loop.create_task(self._connect())

    async def _connect(self) -> None:
        pool = self.pool
        try:
            async with asyncio.timeout(pool.timeouts.connect):
                _, connection = await pool.loop.create_connection(lambda: EngineConnection(pool), pool.host, pool.port)
        except (OSError, TimeoutError) as error:
            reason = "no connection in time" if isinstance(error, TimeoutError) else str(error)
            self.receiver.on_failure(Failure.CONNECT, f"{pool}: {reason}")
        else:
            connection.send(self, reused=False)

    def cancel(self) -> None:
        """The answer is not wanted any more: the engine is told by a reset, at once, and the receiver hears nothing more."""
        self._cancelled = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connection is not None:
            self.connection.drop()

    def pause(self, paused: bool) -> None:
        """Stop or go on reading, for a client that does not keep up."""
        if paused is not self.paused:
            self.paused = paused
            if self.connection is not None:
                self.connection.pause(paused)


class EngineConnection(asyncio.Protocol):
    """One connection to a replica, used for one call at a time."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._receiver: Receiver | None = None
        self._reused = False
        self._seen = False  # a byte of the present answer
        self._stray = False  # a byte that no call asked for
        self._reusable = True
        self._ends_by_close = False
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self.deadline = math.inf

    def send(self, call: Call, *, reused: bool) -> None:
        """Send a whole request; what comes back goes to its receiver."""
        call.connection = self
        self._call, self._receiver = call, call.receiver
        self._reused = reused
        self._seen = False
        self.deadline = self._pool.loop.time() + self._pool.timeouts.first_byte
        if self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.write(call.request)
            if call.paused:
                self.pause(True)

    def drop(self) -> None:
        """Break the connection off; nobody hears of it."""
        self._forget_call()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None  # uvloop raises on a transport that is closed

    def pause(self, paused: bool) -> None:
        """The gap between two pieces is not counted while reading is off."""
        if self._transport is None or self._transport.is_closing():
            return
        if paused:
            self.deadline = math.inf
            self._transport.pause_reading()
        else:
            self.deadline = self._pool.loop.time() + self._pool.timeouts.gap
            self._transport.resume_reading()

    def expire(self) -> None:
        """The deadline has passed: of an answer, or of idling."""
        self._fail(Failure.TIMEOUT, f"{self._pool} sent no {'further byte' if self._seen else 'answer'} in time")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:
            self.drop()
            return
        self._seen = True
        self.deadline = self._pool.loop.time() + self._pool.timeouts.gap
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error("an answer could not be handled", replica=str(self._pool), exc_info=error.__context__)
            self._fail(Failure.MALFORMED, f"{self._pool} does not speak HTTP: {error}")
        if self._stray:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.forget(self)
        call = self._call
        if call is None:
            return
        if self._reused and not self._seen:
            self._forget_call()
            call.connect()
        elif self._ends_by_close and exc is None:
            self._end()
        else:
            self._fail(Failure.RESET, f"{self._pool} closed the connection: {exc or 'end of file'}")

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._headers = {}
        self._stray = self._receiver is None

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200 or self._receiver is None:
            return
        headers = self._headers
        self._ends_by_close = b"content-length" not in headers and b"transfer-encoding" not in headers
        self._reusable = self._parser.should_keep_alive() and not self._ends_by_close
        self._receiver.on_head(self._status, headers)

    def on_body(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_data(data)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._end()

    def _end(self) -> None:
        paused = self._call is not None and self._call.paused
        receiver = self._forget_call()
        if self._transport is not None:
            if self._reusable and not paused:
                self._pool.give_back(self)
            else:
                self._transport.close()
        if receiver is not None:
            receiver.on_end()

    def _forget_call(self) -> Receiver | None:
        """The call is over: cancelling it later must not hit whoever has the connection then."""
        receiver = self._receiver
        if self._call is not None:
            self._call.connection = None
        self._call = self._receiver = None
        return receiver

    def _fail(self, failure: Failure, detail: str) -> None:
        receiver = self._forget_call()
        self.drop()
        if receiver is not None:
            receiver.on_failure(failure, detail)


class EnginePool:
    """The connections to one replica."""

    def __init__(self, host: str, port: int, timeouts: Timeouts = Timeouts()) -> None:
        self.host = host
        self.port = port
        self.timeouts = timeouts
        self.address = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.loop = asyncio.get_running_loop()
        self.connections: set[EngineConnection] = set()
        self._idle: list[EngineConnection] = []
        self._closed = False

    def __str__(self) -> str:
        return self.address.decode()

    def call(self, request: bytes, receiver: Receiver) -> Call:
        """Send a whole request; the receiver hears of the answer, or of the failure, later and never from within this call."""
        call = Call(self, request, receiver)
        if self._idle:
            self._idle.pop().send(call, reused=True)
        else:
            call.connect()
        return call

    def give_back(self, connection: EngineConnection) -> None:
        """The connection's answer is whole; it may serve again."""
        if self._closed:
            connection.drop()
        else:
            connection.deadline = self.loop.time() + IDLE_SECONDS
            self._idle.append(connection)

    def forget(self, connection: EngineConnection) -> None:
        """The connection is lost."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def expire(self, now: float) -> None:
        """Called every TICK_SECONDS."""
        for connection in [c for c in self.connections if c.deadline <= now]:
            connection.expire()

    def close(self) -> None:
        """The replica is gone: no new calls; what is under way may finish."""
        self._closed = True
        for connection in list(self._idle):
            connection.drop()
        self._idle.clear()
