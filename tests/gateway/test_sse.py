"""Cutting a stream into events costs what its bytes cost, however they come."""

from __future__ import annotations

import time

from weir.gateway import sse
from weir.gateway.relay import MAX_EVENT_BYTES


def test_an_event_without_end_is_looked_at_once() -> None:
    """4 MiB in pieces of 100 bytes: well under a second; copying it anew for each of 40,000 pieces took half a minute."""
    rest, began = bytearray(), time.process_time()
    for _ in range(MAX_EVENT_BYTES // 100):
        assert not sse.split(rest, b"x" * 100)
    assert sse.split(rest, b"\n\n") == [b"x" * (MAX_EVENT_BYTES // 100 * 100) + b"\n\n"]
    assert not rest
    assert time.process_time() - began < 2.0
