"""The client's side on real sockets: order, time, space, and clients that leave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from weir.gateway.http1 import Limits
from weir.gateway.server import Exchange, Handler, Patience, Server

GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def serving(
    handler: Handler, patience: Patience | None = None, limits: Limits | None = None
) -> AsyncIterator[Server]:
    """A server on a free port."""
    server = Server(handler, limits or Limits(), patience or Patience())
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        server.stop()


async def until(holds: Callable[[], bool]) -> None:
    """Polls for at most ten seconds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


class Client:
    """A socket, and what came out of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server) -> Client:
        """To the server under test."""
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = b"" if status.split()[1] == "100" else await self.reader.read()
        return int(status.split()[1]), headers, body

    async def ended(self) -> bytes:
        """All that comes until the server hangs up."""
        return await asyncio.wait_for(self.reader.read(), 10)


def echo(exchange: Exchange) -> None:
    """Answers at once with path and body."""
    exchange.respond(200, exchange.request.path + b" " + exchange.request.body)


async def later(exchange: Exchange) -> None:
    """The same after two turns of the loop, as a stream."""
    await asyncio.sleep(0.001)
    exchange.begin(200, b"", b"text/plain")
    for piece in (exchange.request.path, b" ", exchange.request.body or b"-"):
        await asyncio.sleep(0)
        exchange.write(piece)
    exchange.finish()


@pytest.mark.parametrize("handler", [echo, later], ids=["at once", "later"])
@pytest.mark.parametrize("pieces", [1, 13, 100_000])
async def test_pipelined_requests_are_answered_in_order(handler: Handler, pieces: int) -> None:
    async with serving(handler) as server:
        client = await Client.connect(server)
        count = 20 if pieces == 1 else 300
        data = b"".join(
            b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (i, len(b"%d" % i), b"%d" % i)
            for i in range(count)
        )

        async def send() -> None:
            for start in range(0, len(data), pieces):
                client.writer.write(data[start : start + pieces])
                await client.writer.drain()
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        for i in range(count):
            status, _, body = await client.answer()
            assert (status, body) == (200, b"/%d %d" % (i, i))
        await sending


async def test_a_body_is_asked_for_when_its_turn_has_come() -> None:
    async with serving(later) as server:
        client = await Client.connect(server)
        expecting = b"POST /b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        client.writer.write(GET % b"/a" + expecting)
        assert (await client.answer())[2] == b"/a -"
        assert (await client.answer())[0] == 100
        client.writer.write(b"hi")
        assert (await client.answer())[2] == b"/b hi"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_how_a_stream_ends_by_version(version: bytes) -> None:
    async with serving(later) as server:
        client = await Client.connect(server)
        client.writer.write(b"GET /a HTTP/%b\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % version)
        status, headers, body = await client.answer()
        assert (status, body) == (200, b"/a -")
        assert (headers.get("transfer-encoding"), headers.get("connection")) == (
            (None, "close") if version == b"1.0" else ("chunked", None)
        )


async def test_http_1_0_keeps_a_connection_when_asked() -> None:
    async with serving(echo) as server:
        client = await Client.connect(server)
        for path in (b"/a", b"/b"):
            client.writer.write(b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % path)
            _, headers, body = await client.answer()
            assert (headers["connection"], body) == ("keep-alive", path + b" ")
        client.writer.write(b"GET /c HTTP/1.0\r\n\r\n")
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.ended() == b""


@pytest.mark.parametrize("first", [b"", GET % b"/good"], ids=["alone", "after a good one"])
async def test_a_refusal_comes_in_order_and_ends_the_connection(first: bytes) -> None:
    async with serving(later) as server:
        client = await Client.connect(server)
        client.writer.write(first + b"GET / HTTP/1.1\r\n\r\n" + GET % b"/smuggled")
        if first:
            assert (await client.answer())[2] == b"/good -"
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert b'"type":"invalid_request_error"' in body
        assert await client.ended() == b""


async def test_a_client_that_is_still_sending_gets_to_read_its_refusal() -> None:
    """Closing at once would reset the connection under the answer."""
    async with serving(echo, limits=Limits(body_bytes=1000)) as server:
        client = await Client.connect(server)
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
        assert (await client.answer())[0] == 413
        assert await client.ended() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\nHos", 408),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", 408),
        (GET % b"/a" + b"GET", 408),
    ],
    ids=["idle", "head", "body", "second head"],
)
async def test_slow_clients_run_out_of_time(sent: bytes, status: int | None) -> None:
    patience = Patience(head=0.1, body_gap=0.1, idle=0.1, linger=0.1)
    async with serving(echo, patience) as server:
        client = await Client.connect(server)
        client.writer.write(sent)
        if sent.startswith(GET % b"/a"):
            assert (await client.answer())[0] == 200
        if status:
            assert (await client.answer())[0] == status
        assert await client.ended() == b""


async def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_any_other() -> None:
    async with serving(echo, Patience(head=0.3)) as server:
        client = await Client.connect(server)

        async def trickle() -> None:
            while True:
                client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: " if not client.reader.at_eof() else b"")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert (await client.answer())[0] in (400, 408)
        task.cancel()


class Stuck:
    """A handler that never answers, and notes when it is told to stop."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.exchange: Exchange | None = None

    async def __call__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("ahead", [b"", GET % b"/next" * 10, b"x" * 3_000_000], ids=["", "pipelined", "flood"])
async def test_a_client_that_leaves_is_noticed_at_once(how: str, ahead: bytes) -> None:
    """Also while what it sent ahead waits: reading from a client is never switched off."""
    stuck = Stuck()
    async with serving(stuck) as server:
        client = await Client.connect(server)
        client.writer.write(GET % b"/a" + ahead)
        await client.writer.drain()
        await asyncio.wait_for(stuck.started.wait(), 1)
        sock = client.writer.get_extra_info("socket")
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        if how == "half-close":
            client.writer.write_eof()
        else:
            client.writer.close()
        await asyncio.wait_for(stuck.cancelled.wait(), 0.1 if len(ahead) < 1_000_000 else 2.0)
        assert server.in_flight == 0


async def test_who_sends_too_far_ahead_gets_its_answer_and_then_a_closed_connection() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        echo(exchange)

    async with serving(slow) as server:
        client = await Client.connect(server)
        client.writer.write(GET % b"/a" + GET % b"/b" * 60_000)
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (200, "close", b"/a ")
        assert await client.ended() == b""


async def test_a_client_that_does_not_read_stops_the_source_and_is_dropped_in_the_end() -> None:
    paused: list[bool] = []

    async def pour(exchange: Exchange) -> None:
        exchange.on_pause = paused.append
        exchange.begin(200, b"", b"text/plain")
        while not exchange.finished:
            if not exchange.paused:
                exchange.write(b"x" * 10_000)
            await asyncio.sleep(0)

    async with serving(pour, Patience(stalled=0.5)) as server:
        client = await Client.connect(server)
        transport = cast("asyncio.ReadTransport", client.writer.transport)
        transport.pause_reading()
        client.writer.write(GET % b"/a")
        await until(lambda: True in paused)
        transport.resume_reading()
        await client.reader.readexactly(5_000_000)
        await until(lambda: False in paused)
        transport.pause_reading()
        await until(lambda: not server.in_flight)


async def test_requests_sent_ahead_wait_until_the_answers_before_them_are_read() -> None:
    """Small requests with large answers, none of them read: the answers must not pile up in memory."""
    count, begun = 2_000, 0

    def large(exchange: Exchange) -> None:
        nonlocal begun
        begun += 1
        exchange.respond(200, exchange.request.path * 1_000)

    async with serving(large) as server:
        client = await Client.connect(server)
        transport = cast("asyncio.ReadTransport", client.writer.transport)
        transport.pause_reading()
        client.writer.write(b"".join(GET % b"/%05d" % number for number in range(count)))
        await until(lambda: any(connection.paused for connection in server.connections))
        before = -1
        while before != begun:  # what the socket's buffers hold may take some turns
            before = begun
            await asyncio.sleep(0.05)
        assert begun < count / 2
        transport.resume_reading()
        for number in range(count):
            assert (await client.answer())[2] == b"/%05d" % number * 1_000
        assert begun == count


async def test_who_sends_too_far_ahead_and_reads_nothing_is_dropped() -> None:
    begun = 0

    def large(exchange: Exchange) -> None:
        nonlocal begun
        begun += 1
        exchange.respond(200, b"x" * 1_000_000)

    async with serving(large, Patience(linger=0.1)) as server:
        client = await Client.connect(server)
        cast("asyncio.ReadTransport", client.writer.transport).pause_reading()
        client.writer.write(GET % b"/a" * 200_000)
        await until(lambda: bool(begun) and not server.connections)
        assert begun < 100


async def test_a_handler_is_told_that_its_client_reads_again() -> None:
    done = asyncio.Event()

    async def burst(exchange: Exchange) -> None:
        resumed = asyncio.Event()
        exchange.on_pause = lambda paused: None if paused else resumed.set()
        exchange.begin(200, b"", b"text/plain")
        while not exchange.paused:
            exchange.write(b"x" * 100_000)
        await resumed.wait()
        exchange.finish()
        done.set()

    async with serving(burst) as server:
        client = await Client.connect(server)
        client.writer.write(GET % b"/a")
        status, _, body = await client.answer()
        assert (status, len(body) % 100_000) == (200, 0)
        assert done.is_set()


async def test_draining_answers_what_is_there_and_says_goodbye() -> None:
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        echo(exchange)

    async with serving(wait) as server:
        client = await Client.connect(server)
        client.writer.write(GET % b"/a")
        await until(lambda: bool(server.in_flight))
        assert not await server.drain(0.05), "not while one is in flight"
        draining = asyncio.create_task(server.drain(5))
        release.set()
        assert (await client.answer())[1]["connection"] == "close"
        assert await draining


async def test_after_closing_what_has_begun_to_come_is_answered_and_nothing_else_comes() -> None:
    async with serving(later) as server:
        idle, begun = await Client.connect(server), await Client.connect(server)
        begun.writer.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh")
        idle.writer.write(GET % b"/first")
        assert (await idle.answer())[0] == 200
        assert await server.drain(5), "nothing is in flight"
        server.close()
        assert await idle.ended() == b""
        with pytest.raises(ConnectionError):
            await Client.connect(server)
        assert not await server.drain(0.05), "half a request is owed an answer once it is whole"
        draining = asyncio.create_task(server.drain(5))
        begun.writer.write(b"i")
        status, headers, body = await begun.answer()
        assert (status, headers["connection"], body) == (200, "close", b"/a hi")
        assert await draining
        assert not server.connections


async def test_head_has_no_body() -> None:
    async with serving(echo) as server:
        client = await Client.connect(server)
        client.writer.write(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n" + GET % b"/b")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 3\r\n" in head
        assert (await client.answer())[2] == b"/b "
