"""Which path leads where, on the port that clients use."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from weir.gateway.errors import RefusedError
from weir.gateway.job import request_id
from weir.gateway.life import Life
from weir.gateway.meter import Meter
from weir.gateway.registry import Registry
from weir.gateway.request import CHAT, COMPLETIONS
from weir.gateway.server import Exchange

COMPLETION_ROUTES = {CHAT.encode(): CHAT, COMPLETIONS.encode(): COMPLETIONS}
MODELS = b"/v1/models"
NOT_SERVED = (
    b"/v1/batches", b"/v1/files", b"/v1/images", b"/v1/realtime", b"/v1/responses", b"/v1/embeddings", b"/v1/messages",
    b"/v1/rerank", b"/v1/score", b"/v1/audio", b"/v1/uploads", b"/v1/assistants", b"/v1/threads", b"/v1/vector_stores",
    b"/v1/fine_tuning", b"/v1/moderations", b"/tokenize", b"/detokenize",
)  # fmt: skip
"""Known to the protocol and not served here: that is another answer than a path nobody knows."""


class Routes:
    """The handler of the server."""

    def __init__(self, life: Life, registry: Registry, meter: Meter) -> None:
        self._life = life
        self._registry = registry
        self._meter = meter

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answers at once, or says what will."""
        request = exchange.request
        path = request.path.partition(b"?")[0]
        try:
            if route := COMPLETION_ROUTES.get(path):
                _allow(exchange, b"POST")
                return self._life.handle(exchange, route)
            self._answer(exchange, path)
        except RefusedError as problem:
            self._meter.unknown(problem.status, problem.code)
            allow = b"allow: POST\r\n" if path in COMPLETION_ROUTES else b"allow: GET, HEAD\r\n"
            line = allow if problem.status == 405 else b""
            exchange.refuse(problem, line + b"x-request-id: %b\r\n" % request_id(exchange))
        return None

    def _answer(self, exchange: Exchange, path: bytes) -> None:
        if path == b"/healthz":
            _allow(exchange, b"GET", b"HEAD")
            exchange.respond(200, b"ok\n", content_type=b"text/plain; charset=utf-8")
        elif path == MODELS:
            _allow(exchange, b"GET", b"HEAD")
            listed = [_entry(name, served.key.namespace) for name, served in sorted(self._registry.names.items())]
            exchange.respond(200, orjson.dumps({"object": "list", "data": listed}))
        elif path.startswith(MODELS + b"/"):
            _allow(exchange, b"GET", b"HEAD")
            name = _unquote(path[len(MODELS) + 1 :])
            if (served := self._registry.names.get(name)) is None:
                raise RefusedError(404, f"the model {name!r} does not exist", "model_not_found", "model")
            exchange.respond(200, orjson.dumps(_entry(name, served.key.namespace)))
        elif path.startswith(NOT_SERVED):
            raise RefusedError(501, f"{_text(path)} is not served here", "not_implemented")
        else:
            raise RefusedError(404, f"there is no {_text(path)} here", "not_found")


def _entry(name: str, namespace: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": namespace}


def _allow(exchange: Exchange, *methods: bytes) -> None:
    if exchange.request.method not in methods:
        text = f"{_text(exchange.request.path)} takes {', '.join(m.decode() for m in methods)}"
        raise RefusedError(405, text, "method_not_allowed")


def _text(path: bytes) -> str:
    return path[:200].decode("ascii", "replace")


def _unquote(name: bytes) -> str:
    return unquote_to_bytes(name).decode("utf-8", "replace")
