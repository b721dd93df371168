"""Decodes the body of a watch: one JSON object a line, of any length, arriving in any pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Literal, NamedTuple, Protocol

import orjson

from weir.kube.errors import error_from_status
from weir.kube.resources import Json, is_object


class WatchEvent(NamedTuple):
    """One change. A BOOKMARK's object has no more than a kind and metadata.resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Json

    @property
    def resource_version(self) -> str:
        version: str = self.object["metadata"]["resourceVersion"]
        return version


_KINDS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class Chunks(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]: ...


async def events_of(content: Chunks, on_bytes: Callable[[], None]) -> AsyncIterator[WatchEvent]:
    """The events of one watch; `on_bytes` is called whenever anything arrives.

    Raises ApiError for an ERROR event (Expired is the usual one), ValueError for a line that is no event. A line cut off by
    the end of the stream is none either, and no error.
    """
    rest = b""
    async for chunk in content.iter_any():
        on_bytes()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield _event(line)


def _event(line: bytes) -> WatchEvent:
    event = orjson.loads(line)
    if isinstance(event, dict):
        kind, obj = event.get("type"), event.get("object")
        if kind == "ERROR" and isinstance(obj, dict):
            raise error_from_status(obj)
        if kind in _KINDS and isinstance(obj, dict) and is_object(obj, named=kind != "BOOKMARK"):
            return WatchEvent(kind, obj)
    raise ValueError("a line of the watch is no event")
