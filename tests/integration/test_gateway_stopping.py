"""A gateway that stops takes nothing that it will not answer."""

from __future__ import annotations

import asyncio
import json
import signal
from urllib.parse import urlsplit

from testbed.gateway import World, until


async def test_a_request_that_is_whole_only_after_the_draining_is_still_answered(world: World) -> None:
    """Its first half comes before, with nothing else in flight; the second when no new connection is taken any more."""
    await world.model()
    await world.replica("--sim-time-scale=10")
    running = await world.process(drain_grace_seconds=0.1)
    await world.ready(running)
    url = urlsplit(running.url)
    assert url.hostname is not None
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200}).encode()
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body[:10])
    await writer.drain()
    assert (await running.chat(max_tokens=1)).status == 200, "by now the half has been read"
    assert running.process is not None
    running.process.send_signal(signal.SIGTERM)

    async def refused() -> bool:
        try:
            _, other = await asyncio.open_connection(url.hostname, url.port)
        except ConnectionError:
            return True
        other.close()
        return False

    await until("new connections to be refused", refused)
    writer.write(body[10:])
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"]
    writer.close()
    assert await asyncio.to_thread(running.process.wait, 10) == 0
