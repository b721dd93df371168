"""Answers from engines that speak as they like, down to the byte, relayed to a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from weir.economics.pricing import Usage
from weir.gateway.errors import RefusedError
from weir.gateway.relay import End, Relay
from weir.gateway.server import Exchange, Server
from weir.gateway.upstream import EnginePool, Failure, Timeouts

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BUSY = b'{"error":{"message":"The engine is currently busy and cannot accept new requests. Please","code":503}}'
FLAG = b'{"error":"Service is scaling"}'


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """The pieces as chunks of a body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


def whole(status: int, body: bytes, kind: bytes = b"application/json") -> bytes:
    """An answer with its length."""
    return b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


@dataclass
class Bench:
    """A scripted engine, the relay, and a client."""

    stream: bool = True
    strip: bool = True
    secret: str = ""
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(1.0, 0.4, 0.4))
    relays: list[Relay] = field(default_factory=list)
    connections: int = 0
    url: tuple[str, int] = ("", 0)
    pool: EnginePool | None = None
    server: Server | None = None

    async def handle(self, exchange: Exchange) -> None:
        """One attempt, and what the life of a request does with its end."""
        assert self.pool is not None
        relay = Relay(
            exchange, stream=self.stream, strip_usage=self.strip, head=b"x-from: engine\r\n", secret=self.secret
        )
        self.relays.append(relay)
        call = self.pool.call(b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\n\r\n{}", relay)
        exchange.on_pause = call.pause
        try:
            end = await relay.ended
        finally:
            call.cancel()
        if end is End.WHOLE:
            exchange.respond(relay.status, relay.body)
        elif end in (End.FULL, End.FAILED):
            exchange.refuse(RefusedError(599 if end is End.FAILED else 429, str(relay.failure), "x"))

    async def ask(self) -> tuple[Relay, End, bytes]:
        """One request over a connection of its own: the relay, how it ended, all that the client got."""
        reader, writer = await asyncio.open_connection(*self.url)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        relay = self.relays[-1]
        return relay, relay.ended.result(), got


@asynccontextmanager
async def bench(play: Play | bytes, **options: object) -> AsyncIterator[Bench]:
    """An engine that plays, or that gives the same bytes to every request and hangs up."""
    made = Bench(**options)  # type: ignore[arg-type]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        try:
            if isinstance(play, bytes):
                await reader.readuntil(b"{}")
                writer.write(play)
                await writer.drain()
            else:
                await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway hung up, as some of these tests want
        finally:
            writer.close()

    engine = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.pool = EnginePool("127.0.0.1", engine.sockets[0].getsockname()[1], made.timeouts)
    made.server = Server(made.handle)
    await made.server.start("127.0.0.1", 0)
    made.url = ("127.0.0.1", made.server.port)

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.05)
            made.pool.expire(asyncio.get_running_loop().time())  # type: ignore[union-attr]

    ticking = asyncio.create_task(tick())
    try:
        yield made
    finally:
        ticking.cancel()
        made.server.stop()
        engine.close()


def body_of(got: bytes) -> bytes:
    """The chunks of a client's answer, put together."""
    rest, body = got.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50, 10_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("strip", [True, False])
async def test_however_the_bytes_are_cut_the_client_gets_the_same(cut: int, line_end: bytes, strip: bool) -> None:
    said = (b": keep-alive\n\n" + ROLE + WORD * 3 + LAST + USAGE + DONE).replace(b"\n", line_end)
    pieces = [said[start : start + cut] for start in range(0, len(said), cut)]
    async with bench(STREAM + chunked(*pieces), strip=strip) as made:
        relay, end, got = await made.ask()
        assert end is End.STREAMED
        wanted = ROLE + WORD * 3 + LAST + (b"" if strip else USAGE) + DONE
        assert body_of(got) == wanted.replace(b"\n", line_end)
        assert relay.usage == Usage(7, 3, 2)
        assert b"x-from: engine\r\n" in got


async def test_the_first_token_is_passed_on_before_the_second_comes() -> None:
    second = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(STREAM + chunked(ROLE, WORD, end=False))
        await second.wait()
        writer.write(chunked(WORD, LAST, DONE))

    async with bench(play) as made:
        reader, writer = await asyncio.open_connection(*made.url)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(WORD), 5)
        second.set()
        await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
        assert made.relays[0].first_token_at is not None
        writer.close()


RUNNING = WORD[:-3] + b',"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
BY_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (BY_CLOSE + ROLE + RUNNING, End.BROKEN),
        (STREAM + chunked(ROLE, RUNNING), End.BROKEN),
        (BY_CLOSE + ROLE + RUNNING + LAST + USAGE, End.STREAMED),
        (BY_CLOSE + ROLE + RUNNING + DONE, End.STREAMED),
    ],
)
async def test_a_count_on_the_way_is_no_end(said: bytes, end: End) -> None:
    async with bench(said) as made:
        relay, ended, got = await made.ask()
        assert ended is end
        assert relay.usage is not None
        assert (b'"stream_broken"' in got) is (end is End.BROKEN)


@pytest.mark.parametrize(
    ("said", "stream"),
    [
        (whole(400, b'{"error":"the key 9f8e7d6c5b4a is wrong"}'), False),
        (whole(500, b"x" * 191 + b"9f8e7d6c5b4a"), False),
        (STREAM + chunked(b'data: {"error":{"message":"9f8e7d6c5b4a","code":401}}\n\n'), True),
        (STREAM + chunked(b'data: {"error":{"message":"9f8e7d6c5b4a","code":500}}\n\n'), True),
    ],
    ids=["answer", "cut off in the middle", "event", "failure event"],
)
async def test_a_key_that_the_other_side_repeats_goes_no_further(said: bytes, stream: bool) -> None:
    async with bench(said, stream=stream, secret="9f8e7d6c5b4a") as made:
        relay, _, got = await made.ask()
        assert "9f8e" not in f"{relay.detail} {relay.body!r} {got!r}"
        assert "[re" in f"{relay.detail} {relay.body!r}"


BEFORE_FIRST_TOKEN = {
    "nothing at all": (b"", Failure.RESET),
    "half a head": (b"HTTP/1.1 200 OK\r\nConte", Failure.RESET),
    "no http": (b"SSH-2.0-OpenSSH\r\n", Failure.MALFORMED),
    "a head": (STREAM, Failure.RESET),
    "comments, then a break": (STREAM + chunked(b": keep-alive\n\n" * 5, end=False), Failure.RESET),
    "comments, then an end": (STREAM + chunked(b": keep-alive\n\n" * 5), Failure.EMPTY),
    "the role, then a break": (STREAM + chunked(ROLE, end=False), Failure.RESET),
    "the role, then an end": (STREAM + chunked(ROLE), Failure.EMPTY),
    "half an event": (STREAM + chunked(ROLE, WORD[:-10], end=False), Failure.RESET),
    "an error event": (STREAM + chunked(b'data: {"error":{"message":"died","code":500}}\n\n'), Failure.ERROR_EVENT),
    "an error event of text": (STREAM + chunked(b'data: {"error":"died"}\n\n'), Failure.ERROR_EVENT),
    "status 500": (whole(500, b'{"error":{"message":"dead"}}'), Failure.STATUS),
    "status 503 while scaling": (whole(503, FLAG), Failure.STATUS),
    "a redirect": (whole(302, b"{}"), Failure.STATUS),
    "an empty 200": (whole(200, b""), Failure.EMPTY),
}


@pytest.mark.parametrize(("said", "failure"), BEFORE_FIRST_TOKEN.values(), ids=BEFORE_FIRST_TOKEN)
async def test_before_the_first_token_a_failure_shows_nothing_to_the_client(said: bytes, failure: Failure) -> None:
    async with bench(said) as made:
        relay, end, got = await made.ask()
        assert (end, relay.failure) == (End.FAILED, failure)
        assert got.startswith(b"HTTP/1.1 599") or got.count(b"HTTP/1.1") == 1
        assert b"x-from" not in got
        assert relay.first_token_at is None


AFTER_FIRST_TOKEN = {
    "a break": chunked(ROLE, WORD, end=False),
    "a break inside an event": chunked(ROLE, WORD + WORD[:20], end=False),
    "an end without [DONE]": chunked(ROLE, WORD),
    "garbage": chunked(ROLE, WORD, end=False) + b"zz\r\n",
    "silence": chunked(ROLE, WORD, end=False),
}


@pytest.mark.parametrize("case", AFTER_FIRST_TOKEN)
async def test_after_the_first_token_there_is_one_error_event(case: str) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(STREAM + AFTER_FIRST_TOKEN[case])
        await writer.drain()
        if case == "silence":
            await reader.read()

    async with bench(play) as made:
        relay, end, got = await made.ask()
        assert end is End.BROKEN
        assert relay.failure is (Failure.TIMEOUT if case == "silence" else relay.failure)
        body = body_of(got)
        assert body.startswith(ROLE + WORD + b'data: {"error":{')
        assert body.count(b'"error"') == 1
        assert body.endswith(b"\n\n")
        assert got.endswith(b"0\r\n\r\n"), "the answer is whole, what it says is that the stream is not"


@pytest.mark.parametrize(
    ("said", "end", "status"),
    [
        (whole(503, BUSY), End.FULL, 503),
        (whole(429, b"{}"), End.FULL, 429),
        (STREAM + chunked(b"data: " + BUSY + b"\n\n", DONE), End.FULL, 503),
        (whole(400, b'{"error":{"message":"too long"}}'), End.WHOLE, 400),
        (STREAM + chunked(b'data: {"error":{"message":"too long","code":400}}\n\n', DONE), End.WHOLE, 400),
        (whole(200, b'{"choices":[]}'), End.WHOLE, 200),
    ],
)
async def test_what_an_engine_says_of_itself_and_of_the_request(said: bytes, end: End, status: int) -> None:
    async with bench(said) as made:
        relay, ended, _ = await made.ask()
        assert (ended, relay.status) == (end, status)


async def test_without_streaming_a_broken_answer_is_no_answer() -> None:
    said = whole(200, b'{"choices":[{"message":{"content":"half"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    async with bench(said[:-20], stream=False) as made:
        assert (await made.ask())[1] is End.FAILED
    async with bench(said, stream=False) as made:
        relay, end, got = await made.ask()
        assert (end, relay.usage) == (End.WHOLE, Usage(1, 1))
        assert got.endswith(said.partition(b"\r\n\r\n")[2])


async def test_an_answer_without_length_ends_with_its_connection() -> None:
    async with bench(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a":1}', stream=False) as made:
        relay, end, _ = await made.ask()
        assert (end, relay.body) == (End.WHOLE, b'{"a":1}')


async def test_an_interim_answer_is_not_the_answer() -> None:
    async with bench(b"HTTP/1.1 100 Continue\r\n\r\n" + whole(200, b"{}"), stream=False) as made:
        relay, end, _ = await made.ask()
        assert (end, relay.status, relay.body) == (End.WHOLE, 200, b"{}")


@pytest.mark.parametrize("answers", [1, 3])
async def test_connections_are_kept_and_one_that_went_stale_is_replaced_unseen(answers: int) -> None:
    """The engine closes each connection after some answers, as soon as the next request comes: uvicorn's race."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(answers):
            await reader.readuntil(b"{}")
            writer.write(whole(200, b"{}"))
        await reader.readuntil(b"{}")

    async with bench(play, stream=False) as made:
        for _ in range(9):
            assert (await made.ask())[1] is End.WHOLE
        assert made.connections == 9 / answers


async def test_a_fresh_connection_that_breaks_is_a_failure() -> None:
    async with bench(b"", stream=False) as made:
        relay, end, _ = await made.ask()
        assert (end, relay.failure, made.connections) == (End.FAILED, Failure.RESET, 1)


async def test_nobody_listens() -> None:
    async with bench(b"", stream=False) as made:
        made.pool = EnginePool("127.0.0.1", 1)
        relay, end, _ = await made.ask()
        assert (end, relay.failure) == (End.FAILED, Failure.CONNECT)


async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(whole(200, b'"asked"') + whole(200, b'"unasked"'))
        await reader.readuntil(b"{}")

    async with bench(play, stream=False) as made:
        for _ in range(3):
            relay, end, _ = await made.ask()
            assert (end, relay.body) == (End.WHOLE, b'"asked"')


async def test_a_slow_engine_runs_out_of_time() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with bench(play) as made:
        relay, end, _ = await made.ask()
        assert (end, relay.failure) == (End.FAILED, Failure.TIMEOUT)


async def test_a_client_that_leaves_resets_the_engine_within_a_tenth_of_a_second() -> None:
    gone = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(STREAM + chunked(ROLE, WORD, end=False))
        try:
            await reader.read()
        finally:
            gone.set()

    async with bench(play) as made:
        reader, writer = await asyncio.open_connection(*made.url)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(WORD), 5)
        writer.close()
        await asyncio.wait_for(gone.wait(), 0.1)


async def test_a_client_that_does_not_read_stops_the_engine_too() -> None:
    written = 0
    count = 40_000

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"{}")
        writer.write(STREAM + chunked(ROLE, end=False))
        for _ in range(count):
            writer.write(chunked(WORD * 10, end=False))
            await writer.drain()
            written += 1
        writer.write(chunked(LAST, DONE))

    async with bench(play, timeouts=Timeouts(1.0, 5.0, 5.0)) as made:
        reader, writer = await asyncio.open_connection(*made.url, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        loop, before, since = asyncio.get_running_loop(), -1, 0.0
        async with asyncio.timeout(20):
            while before != written or loop.time() - since < 0.3:
                if before != written:
                    before, since = written, loop.time()
                await asyncio.sleep(0.02)
        assert 0 < written < count / 2, "what is under way fits the buffers between them"
        got = 0
        async with asyncio.timeout(30):
            while data := await reader.read(1 << 20):
                got += len(data)
                if data.endswith(b"0\r\n\r\n"):
                    break
        assert got > count * 10 * len(WORD)
        assert made.relays[0].ended.result() is End.STREAMED
        writer.close()
