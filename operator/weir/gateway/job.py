"""One request on its way through the gateway: what is known of it, what was tried, what its client is told."""

from __future__ import annotations

import asyncio
import os
import re
from itertools import count

from weir.gateway.registry import Served
from weir.gateway.relay import SSE_TYPE, Relay
from weir.gateway.request import InferenceRequest
from weir.gateway.server import Exchange
from weir.overflow.parameters import Spillability
from weir.overflow.policy import Reason, TargetView

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_PREFIX = b"req-" + os.urandom(6).hex().encode() + b"-"
_numbers = count(1)
_COMMENT = b": waiting\n\n"


class Job:
    """The state of one request."""

    __slots__ = (
        "arrived", "attempts", "blocked", "code", "counted", "deadline", "exchange", "failed", "held", "last_sign", "loop",
        "reason", "relay", "request", "request_id", "route", "served", "spillability",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, request: InferenceRequest, served: Served) -> None:
        self.loop = asyncio.get_running_loop()
        self.exchange = exchange
        self.request = request
        self.served = served
        self.request_id = request_id(exchange)
        self.arrived = exchange.arrived
        self.held = 0.0
        """Seconds spent in the queue."""
        self.failed: set[str] = set()
        """Replicas (uids) that failed it before its first token."""
        self.blocked: dict[tuple[str, str], Reason] = {}
        """Provider and model -> why not again for this request."""
        self.attempts = 0
        """At providers."""
        self.spillability: Spillability | None = None
        """By the present terms of `served`. None: not looked at yet."""
        self.counted = False
        """As demand that found no room."""
        self.relay: Relay | None = None
        """Of the attempt that is under way."""
        self.deadline = float("inf")
        """Loop time by which that attempt must have a first token."""
        self.last_sign = self.arrived
        self.route = ""
        self.reason = ""
        self.code = 0

    @property
    def engine_id(self) -> bytes:
        """The id for an engine: its own for each attempt, since an engine refuses a second request of the same id."""
        return self.request_id + b"-%x" % next(_numbers)

    def waited(self) -> float:
        """Seconds since it arrived."""
        return self.loop.time() - self.arrived

    def block(self, target: TargetView, reason: Reason) -> None:
        """Not this target again."""
        self.blocked[target.provider, target.model] = reason

    def head(self, backend: bytes, reason: Reason, model: str, replica: str = "") -> bytes:
        """The header lines that say where the answer comes from, and why."""
        line = b"x-weir-replica: %b\r\n" % replica.encode() if replica else b""
        return b"x-weir-backend: %b\r\nx-weir-reason: %b\r\nx-weir-model: %b\r\n%bx-weir-queue-ms: %d\r\n%b" % (
            backend,
            reason.encode(),
            _header_value(model),
            line,
            round(self.held * 1000),
            self.id_line(),
        )

    def id_line(self) -> bytes:
        """The header line of the request id."""
        return b"x-request-id: %b\r\n" % self.request_id

    def sign_of_life(self, now: float, every: float) -> None:
        """A stream that waits: a comment now and then, so that nothing on the way takes it for dead."""
        if self.relay is not None and now >= self.deadline:
            self.relay.first_token_is_late()
        elif now - self.last_sign >= every and not self.exchange.finished:
            self.last_sign = now
            if not self.exchange.begun:
                self.exchange.begin(200, self.id_line() + b"cache-control: no-cache\r\n", SSE_TYPE)
            self.exchange.write(_COMMENT)


def request_id(exchange: Exchange) -> bytes:
    """The client's own id if it is one that can go into a header and a log, else a new one."""
    given = exchange.request.headers.get(b"x-request-id")
    if given is not None and _GIVEN_ID.fullmatch(given):
        return given
    return _PREFIX + b"%x" % next(_numbers)


def _header_value(name: str) -> bytes:
    plain = name.isascii() and name.isprintable()
    return name.encode() if plain else re.sub(rb"[^ -~]", b"?", name.encode())
