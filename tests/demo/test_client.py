"""What the demo's client calls an answer, a rejection, a failure and a loss."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from demo import client
from demo.client import Outcome, Record
from weir.simulate.trace import Arrival

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]
PIECE = b'data: {"choices":[{"delta":{"content":"hello"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
ERROR = b'data: {"error":{"message":"the stream broke","code":"stream_broken"}}\n\n'
DONE = b"data: [DONE]\n\n"


def whole(status: int, headers: dict[str, str] | None = None, **body: Any) -> Reply:
    """An answer in one piece."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return reply


def text(status: int, content: str) -> Reply:
    """An answer that is no JSON."""

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=content)

    return reply


def stream(*events: bytes, cut: bool = False) -> Reply:
    """A stream that ends well, or with its connection."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-weir-backend": "frontier"})
        await response.prepare(request)
        for event in events:
            await response.write(event)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return reply


async def abort(request: web.Request) -> web.StreamResponse:
    """No answer at all."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Server:
    """Answers as a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.bodies: list[Any] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(json.loads(await request.read()))
        return await (self.replies.pop(0) if self.replies else whole(200))(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def sent(server: Server, reply: Reply, *, stream: bool) -> Record:
    """What the client made of the reply."""
    server.replies.append(reply)
    records: list[Record] = []
    async with aiohttp.ClientSession(server.url) as session:
        await client.send(session, "m", Arrival(0.0, 10, 5), records, time.monotonic(), stream=stream)
    (record,) = records
    return record


ANSWER: dict[str, Any] = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}


@pytest.mark.parametrize(
    ("why", "reply", "streams", "outcome", "code"),
    [
        ("an answer", whole(200, **ANSWER), False, Outcome.ANSWER, ""),
        ("a stream with its end", stream(PIECE, USAGE, DONE), True, Outcome.ANSWER, ""),
        ("told to come back", whole(429, {"retry-after": "1"}, error={"code": "saturated"}), False, Outcome.REJECTED, "saturated"),
        ("the same for a stream", whole(429, {"retry-after": "1"}, error={"code": "saturated"}), True, Outcome.REJECTED, "saturated"),
        ("told not to", whole(429, {"x-should-retry": "false"}, error={"code": "b"}), False, Outcome.REJECTED, "b"),
        ("nothing there, later", whole(503, {"retry-after": "1"}, error={"code": "c"}), False, Outcome.REJECTED, "c"),
        ("429 and no more", whole(429, error={"code": "rude"}), False, Outcome.FAILED, "rude"),
        ("an error", whole(500, {"retry-after": "1"}, error={"code": "bad"}), False, Outcome.FAILED, "bad"),
        ("an error without a code", whole(400, error={"code": None}), False, Outcome.FAILED, ""),
        ("a stream with an error event", stream(PIECE, ERROR), True, Outcome.FAILED, "stream_broken"),
        ("a cut stream", stream(PIECE, cut=True), True, Outcome.LOST, "ClientPayloadError"),
        ("a stream without an end", stream(PIECE, USAGE), True, Outcome.LOST, "EndOfStream"),
        ("no answer", abort, False, Outcome.LOST, "ServerDisconnectedError"),
        ("no JSON", text(502, "<html>"), False, Outcome.LOST, "JSONDecodeError"),
    ],
)  # fmt: skip
async def test_outcome(server: Server, why: str, reply: Reply, streams: bool, outcome: Outcome, code: str) -> None:
    record = await sent(server, reply, stream=streams)
    assert (record.outcome, record.code) == (outcome, code), why


async def test_a_record_tells_of_backend_tokens_and_time(server: Server) -> None:
    record = await sent(server, stream(PIECE, USAGE, DONE), stream=True)
    assert (record.model, record.status, record.backend) == ("m", 200, "frontier")
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)
    assert 0 <= record.at <= record.ended
    record = await sent(server, whole(200, **ANSWER), stream=False)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


async def test_a_refused_connection_is_a_loss() -> None:
    records: list[Record] = []
    async with aiohttp.ClientSession("http://127.0.0.1:1") as session:  # the port mapper's: nobody listens there
        await client.send(session, "m", Arrival(0.0, 10, 5), records, time.monotonic(), stream=False)
    assert (records[0].outcome, records[0].status) == (Outcome.LOST, 0)


async def test_the_request_has_the_size_of_its_arrival(server: Server) -> None:
    await sent(server, whole(200), stream=True)
    (body,) = server.bodies
    assert len(body["messages"][0]["content"]) == 10 * 4
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 5, True)
    assert body["stream_options"] == {"include_usage": True}


async def test_a_replay_sends_all_at_their_times_whatever_becomes_of_those_before(server: Server) -> None:
    """The first is answered last; one in twenty goes to the second model, two of three stream."""

    others = asyncio.Event()

    async def late(_: web.Request) -> web.StreamResponse:
        await others.wait()
        return web.json_response(ANSWER)

    async def last(_: web.Request) -> web.StreamResponse:
        others.set()
        return web.json_response(ANSWER)

    server.replies += [late, *[whole(200)] * 38, last]
    arrivals = [Arrival(number / 100, 10, 5) for number in range(40)]
    records: list[Record] = []
    await client.replay(server.url, ("main", "small"), arrivals, records, time.monotonic())
    assert len(records) == 40
    assert [record.at >= number / 100 for number, record in enumerate(sorted(records, key=lambda r: r.at))] == [
        True
    ] * 40
    assert [body["model"] for body in server.bodies].count("small") == 2
    assert sum(body["stream"] for body in server.bodies) == 26
