"""A watch's events come out whole, however the network cuts its bytes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.kube.errors import Expired
from weir.kube.watch import WatchEvent, events_of


class Body:
    """A response body that arrives in the given pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def read(pieces: Sequence[bytes]) -> tuple[list[WatchEvent], int]:
    contacts: list[None] = []
    events = [event async for event in events_of(Body(pieces), lambda: contacts.append(None))]
    return events, len(contacts)


def line(kind: str, version: int, filler: str = "") -> bytes:
    metadata = {"name": "p", "resourceVersion": str(version), "x": filler}
    return orjson.dumps({"type": kind, "object": {"metadata": metadata}}) + b"\n"


@given(
    fillers=st.lists(st.text(max_size=40), max_size=8),
    cuts=st.lists(st.integers(0, 1000), max_size=20),
)
async def test_any_cutting_gives_the_same_events(fillers: list[str], cuts: list[int]) -> None:
    body = b"".join(line("ADDED", number, filler) for number, filler in enumerate(fillers))
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)]
    events, contacts = await read(pieces)
    assert [event.object["metadata"]["x"] for event in events] == fillers
    assert [event.resource_version for event in events] == [str(number) for number in range(len(fillers))]
    assert contacts == len(pieces)


async def test_a_line_of_a_megabyte() -> None:
    body = line("MODIFIED", 1, "x" * 1_000_000)
    events, _ = await read([body[i : i + 65536] for i in range(0, len(body), 65536)])
    assert len(events[0].object["metadata"]["x"]) == 1_000_000


async def test_a_line_cut_off_by_the_end_is_no_event() -> None:
    events, _ = await read([line("ADDED", 1), line("DELETED", 2)[:-5]])
    assert [event.type for event in events] == ["ADDED"]


async def test_an_error_event_is_raised() -> None:
    gone = orjson.dumps(
        {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}}
    )
    with pytest.raises(Expired, match="old"):
        await read([line("ADDED", 1), gone + b"\n"])
