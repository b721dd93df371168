"""Decodes the body of a watch: one JSON object a line, of any length, arriving in any pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Literal, NamedTuple, Protocol

import orjson

from weir.kube.errors import error_from_status
from weir.kube.resources import Json


class WatchEvent(NamedTuple):
    """One change. A BOOKMARK's object has no more than a kind and metadata.resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Json

    @property
    def resource_version(self) -> str:
        version: str = self.object["metadata"]["resourceVersion"]
        return version


class Chunks(Protocol):
    def iter_any(self) -> AsyncIterator[bytes]: ...


async def events_of(content: Chunks, on_bytes: Callable[[], None]) -> AsyncIterator[WatchEvent]:
    """The events of one watch; `on_bytes` is called whenever anything arrives.

    Raises ApiError for an ERROR event (Expired is the usual one). A line cut off by the end of the stream is no event.
    """
    rest = b""
    async for chunk in content.iter_any():
        on_bytes()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line:
                continue
            event = orjson.loads(line)
            if event["type"] == "ERROR":
                raise error_from_status(event["object"])
            yield WatchEvent(event["type"], event["object"])
