"""Hands an answer on from whoever gives it to the client: holds it until its first content, then relays bytes as they come.

Until the first content token nothing has been promised, and the attempt can be repeated elsewhere: comments, the role chunk and an error
as first event are kept back. From then on only event boundaries are looked for (so that an error event never lands
inside another) and the report of usage, which is taken out again where the client did not ask for it. No task, no queue,
no JSON decoding per event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from weir.economics.pricing import Usage
from weir.gateway import sse
from weir.gateway.errors import RefusedError
from weir.gateway.server import JSON_TYPE, Exchange
from weir.gateway.upstream import Failure
from weir.observability.logs import REDACTED

SSE_TYPE = b"text/event-stream"
MAX_WHOLE_BYTES = 64 * 1024 * 1024
MAX_HELD_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 4 * 1024 * 1024


class End(Enum):
    """How an attempt ended."""

    WHOLE = auto()
    """The whole answer is in `status`, `content_type`, `body`; the client has nothing of it yet."""
    STREAMED = auto()
    """The client has it all."""
    FULL = auto()
    """The other side has no room. Nothing was sent to the client."""
    FAILED = auto()
    """Nothing of it was sent to the client."""
    BROKEN = auto()
    """It broke after its first content: the client got that and an error event."""


def engine_is_full(status: int, body: bytes) -> bool:
    """429, or vLLM's admission 503."""
    return status == 429 or (status == 503 and sse.is_admission_refusal(body))


class Relay:
    """The Receiver of one attempt. `ended` resolves once, with how it ended."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        stream: bool,
        strip_usage: bool,
        head: bytes,
        is_full: Callable[[int, bytes], bool] = engine_is_full,
        secret: str = "",
    ) -> None:
        """`head`: the header lines that tell the client where its stream comes from. `secret`: taken out of what the other
        side says in one piece, since errors like to repeat the key they do not like."""
        self._exchange = exchange
        self._stream = stream
        self._strip = strip_usage
        self._head = head
        self._is_full = is_full
        self._secret = secret
        self._loop = asyncio.get_running_loop()
        self._sse = False
        self._flowing = False
        self._held = b""
        self._rest = bytearray()
        self._last = self._before_last = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self.ended: asyncio.Future[End] = self._loop.create_future()
        self.status = 0
        self.content_type = JSON_TYPE
        self.body = b""
        self.retry_after: float | None = None
        """Seconds that the other side asked to wait."""
        self.usage: Usage | None = None
        self.first_token_at: float | None = None
        """Loop time."""
        self.failure: Failure | None = None
        self.detail = ""

    @property
    def answering(self) -> bool:
        """The other side has begun to answer with a 2xx."""
        return 200 <= self.status < 300

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.content_type = headers.get(b"content-type", JSON_TYPE)
        self.retry_after = _seconds(headers.get(b"retry-after"))
        self._sse = self._stream and status == 200 and self.content_type.lower().startswith(SSE_TYPE)

    def on_data(self, data: bytes) -> None:
        if not self._sse:
            self._collect(data)
        elif self._flowing and not self._rest and data.endswith(b"\n\n") and b'"usage"' not in data:
            self._before_last, self._last = self._last, data
            self._exchange.write(data)
        else:
            self._cut(data)

    def on_end(self) -> None:
        if self.ended.done():
            return
        if not self._sse:
            self._judge(b"".join(self._pieces))
            return
        if self._rest.strip():
            self._cut(b"\n\n")
        if self.ended.done():
            return
        if not self._flowing:
            self.on_failure(Failure.EMPTY, "the stream ended with nothing in it")
        elif not _is_finished(self._before_last + self._last):  # a report of usage is no end: some come all along
            self.on_failure(Failure.RESET, "the stream ended without [DONE]")
        else:
            self._exchange.finish()
            self.ended.set_result(End.STREAMED)

    def on_failure(self, failure: Failure, detail: str) -> None:
        if self.ended.done():
            return
        self.failure, self.detail = failure, detail.replace(self._secret, REDACTED) if self._secret else detail
        if self._flowing:
            problem = RefusedError(
                502, "the stream broke before it was complete; what came so far stands", "stream_broken"
            )
            self._exchange.refuse(problem)
            self.ended.set_result(End.BROKEN)
        else:
            self.ended.set_result(End.FAILED)

    def first_token_is_late(self) -> None:
        """The time for a first token is up."""
        if not self._flowing:
            self.on_failure(Failure.TIMEOUT, "no first token in time")

    def _collect(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_WHOLE_BYTES:
            self._pieces.clear()
            self.on_failure(Failure.MALFORMED, f"the answer is larger than {MAX_WHOLE_BYTES} bytes")
        elif not self.ended.done():
            self._pieces.append(data)

    def _judge(self, body: bytes) -> None:
        """What a whole answer means."""
        self.body = body = self._without_secret(body)
        if self._is_full(self.status, body):
            self.ended.set_result(End.FULL)
        elif self.status >= 500 or self.status < 200 or 300 <= self.status < 400:
            self.on_failure(Failure.STATUS, f"status {self.status}: {body[:200].decode('utf-8', 'replace')}")
        elif self.status < 300 and not body:
            self.on_failure(Failure.EMPTY, f"status {self.status} with nothing in it")
        else:
            if self.status < 300:
                self.first_token_at = self._loop.time()
                self.usage = sse.find_usage(body)
            self.ended.set_result(End.WHOLE)

    def _cut(self, data: bytes) -> None:
        """The careful path: event by event."""
        events = sse.split(self._rest, data)
        if len(self._rest) > MAX_EVENT_BYTES:
            self.on_failure(Failure.MALFORMED, f"an event is larger than {MAX_EVENT_BYTES} bytes")
            return
        out = []
        for event in events:
            if self.ended.done():
                return
            if not self._flowing and not self._first(event):
                continue
            if b'"usage"' in event and self._take_usage(event):
                continue
            out.append(event)
        if out:
            block = b"".join(out)
            self._before_last, self._last = self._last, block
            self._exchange.write(self._held + block)
            self._held = b""

    def _first(self, event: bytes) -> bool:
        """Looks at an event before the first content. False: it is not handed on."""
        data = sse.payload(event)
        if data is None:
            return False  # a comment; the gateway sends its own while a client waits
        chunk = sse.parse(data)
        error = chunk.get("error") if chunk else None
        if chunk is not None and error:
            self._first_is_error(data, error)
            return False
        if chunk is None or sse.has_content(chunk) or len(self._held) > MAX_HELD_BYTES:
            self._flowing = True
            self.first_token_at = self._loop.time()
            if not self._exchange.begun:
                self._exchange.begin(200, self._head + b"cache-control: no-cache\r\n", self.content_type)
            return True
        self._held += event
        return False

    def _first_is_error(self, data: bytes, error: object) -> None:
        self.status = sse.error_status(error)
        self.content_type = JSON_TYPE
        self.body = data = self._without_secret(data)
        if self._is_full(self.status, data):
            self.ended.set_result(End.FULL)
        elif self.status < 500:  # the request's own fault: it would fail anywhere
            self.ended.set_result(End.WHOLE)
        else:
            self.on_failure(Failure.ERROR_EVENT, data[:200].decode("utf-8", "replace"))

    def _without_secret(self, data: bytes) -> bytes:
        return data.replace(self._secret.encode(), REDACTED.encode()) if self._secret else data

    def _take_usage(self, event: bytes) -> bool:
        """Reads the report of usage. True: the event is nothing else, and the client did not ask for it."""
        chunk = sse.parse(sse.payload(event) or b"")
        usage = sse.usage_from(chunk.get("usage")) if chunk else None
        if chunk is None or usage is None:
            return False
        self.usage = usage
        return self._strip and chunk.get("choices") == []


def _is_finished(tail: bytes) -> bool:
    return sse.DONE in tail or b'"finish_reason":"' in tail.replace(b": ", b":")


def _seconds(value: bytes | None) -> float | None:
    return float(value) if value is not None and value.isdigit() else None
