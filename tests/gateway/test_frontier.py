"""Providers that answer as they like, down to the byte, and clients that do not keep up with them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson
import pytest

from weir.api.frontierprovider import FrontierProvider
from weir.economics.pricing import Usage
from weir.gateway.errors import RefusedError
from weir.gateway.frontier import Frontier
from weir.gateway.providers import Provider
from weir.gateway.relay import End, Relay
from weir.gateway.request import CHAT, parse
from weir.gateway.server import Exchange, Server
from weir.gateway.upstream import Failure
from weir.gateway.view import SecretView

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]

ANSWER = orjson.dumps(
    {"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word" * 2000)
DONE = b"data: [DONE]\n\n"


def whole(body: bytes, *headers: bytes) -> bytes:
    """An answer with its length."""
    lines = b"".join(header + b"\r\n" for header in (b"Content-Type: application/json", *headers))
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


@dataclass
class Bench:
    """A scripted provider, the leg to it, and a server for clients."""

    stream: bool = False
    timeouts: dict[str, str] = field(default_factory=dict)
    is_full: Callable[[int, bytes], bool] = lambda status, body: status == 429
    relay: Relay | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    address: tuple[str, int] = ("", 0)
    frontier: Frontier | None = None

    def provider(self) -> Provider:
        """With a key."""
        sold = {"name": "big", "contextTokens": 1000, "maxOutputTokens": 400}
        spec = {
            "baseURL": f"http://127.0.0.1:{self.port}/v1",
            "credentials": {"secretRef": {"name": "s"}},
            "models": [sold],
            "timeouts": self.timeouts,
        }
        view = FrontierProvider.from_object({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})
        made = Provider(view)
        made.update(view, SecretView(frozenset({"127.0.0.1"}), {"api-key": "key"}))
        return made

    async def handle(self, exchange: Exchange) -> None:
        """One attempt."""
        assert self.frontier is not None
        fields = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": self.stream}
        request = parse(CHAT, orjson.dumps(fields), {})
        relay = self.relay = Relay(
            exchange, stream=self.stream, strip_usage=True, head=b"", is_full=self.is_full, secret="key"
        )
        await self.frontier.ask(self.provider(), request, request.body, exchange, relay)
        self.ended.set()
        if relay.ended.result() is End.WHOLE:
            exchange.respond(relay.status, relay.body)
        elif relay.ended.result() is End.FAILED:
            exchange.refuse(RefusedError(502, str(relay.failure), "x"))

    async def ask(self) -> tuple[Relay, End]:
        """One request, read to its end."""
        reader, writer = await self.client()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return await self.end()

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One request, of which nothing has been read yet."""
        reader, writer = await asyncio.open_connection(*self.address, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return reader, writer

    async def end(self) -> tuple[Relay, End]:
        """How the attempt ended."""
        await asyncio.wait_for(self.ended.wait(), 10)
        assert self.relay is not None
        return self.relay, self.relay.ended.result()


@asynccontextmanager
async def bench(play: Play | bytes, **options: Any) -> AsyncIterator[Bench]:
    """A provider that plays, or gives the same bytes to every request, and hangs up."""
    made = Bench(**options)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}]")
        try:
            if isinstance(play, bytes):
                writer.write(play)
                await writer.drain()
            else:
                await play(writer)
        except ConnectionError:
            pass  # the gateway has left
        finally:
            writer.close()

    provider = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.port = provider.sockets[0].getsockname()[1]
    server, made.frontier = Server(made.handle), Frontier(allow_private=True)
    await server.start("127.0.0.1", 0)
    made.address = ("127.0.0.1", server.port)
    try:
        yield made
    finally:
        server.stop()
        await made.frontier.close()
        provider.close()


async def test_headers_need_not_be_text() -> None:
    async with bench(whole(ANSWER, b"x-region: caf\xe9")) as made:
        relay, end = await made.ask()
        assert (end, relay.usage, relay.body) == (End.WHOLE, Usage(7, 3), ANSWER)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"nonsense"])
async def test_an_encoding_that_was_not_asked_for_is_no_answer(encoding: bytes) -> None:
    async with bench(whole(gzip.compress(ANSWER), b"Content-Encoding: " + encoding)) as made:
        relay, end = await made.ask()
        assert (end, relay.failure, relay.body) == (End.FAILED, Failure.MALFORMED, b"")
    async with bench(whole(ANSWER, b"Content-Encoding: Identity")) as made:
        assert (await made.ask())[1] is End.WHOLE


async def test_whatever_goes_wrong_with_an_answer_is_heard_of() -> None:
    def broken(status: int, body: bytes) -> NoReturn:
        raise ValueError("no such answer was thought of")

    async with bench(whole(ANSWER), is_full=broken) as made:
        relay, end = await made.ask()
        assert (end, relay.failure) == (End.FAILED, Failure.MALFORMED)
        assert "no such answer" in relay.detail


async def much(writer: asyncio.StreamWriter) -> None:
    """More than fits all buffers on the way."""
    writer.write(STREAM)
    for _ in range(3000):
        writer.write(WORD)
        await writer.drain()
    writer.write(DONE)
    await writer.drain()


async def test_a_client_that_pauses_does_not_use_up_the_providers_time() -> None:
    async with bench(much, stream=True, timeouts={"betweenEvents": "1s"}) as made:
        reader, writer = await made.client()
        loop = asyncio.get_running_loop()
        paused_until = loop.time() + 2.5
        while loop.time() < paused_until:
            assert not made.ended.is_set()
            await asyncio.sleep(0.05)
        while await asyncio.wait_for(reader.read(1 << 20), 10):
            pass
        writer.close()
        assert (await made.end())[1] is End.STREAMED


async def test_a_client_that_reads_nothing_is_no_failure_of_the_provider() -> None:
    async with bench(much, stream=True, timeouts={"betweenEvents": "1s", "total": "2500ms"}) as made:
        _, writer = await made.client()
        relay, end = await made.end()
        assert (end, relay.failure) == (End.BROKEN, Failure.CLIENT)
        writer.close()


async def test_a_provider_that_stops_in_the_middle_runs_out_of_time() -> None:
    async def stall(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + WORD)
        await writer.drain()
        await asyncio.sleep(10)

    async with bench(stall, stream=True, timeouts={"betweenEvents": "300ms"}) as made:
        relay, end = await made.ask()
        assert (end, relay.failure) == (End.BROKEN, Failure.TIMEOUT)
