"""What the demo's clients call an answer, a refusal, a failure and a loss."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from demo.client import Outcome, Record, send
from weir.simulate.trace import Arrival

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
ERROR = b'data: {"error":{"message":"gone","code":"replica_failed"}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def gateway() -> AsyncIterator[aiohttp.ClientSession]:
    """A session to a server that answers what the requested model's name says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        what = (await request.json())["model"]
        refusal = {"error": {"code": "budget_exhausted"}}
        match what:
            case "whole":
                return web.json_response({"usage": {"prompt_tokens": 7, "completion_tokens": 3}})
            case "busy":
                return web.json_response(refusal, status=429, headers={"retry-after": "1"})
            case "unhelpful":
                return web.json_response(refusal, status=429)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write({"stream": TEXT + USAGE + DONE, "error": TEXT + ERROR + DONE, "cut": TEXT}[what])
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await runner.cleanup()


@pytest.mark.parametrize(
    ("model", "stream", "outcome", "code"),
    [
        ("whole", False, Outcome.ANSWER, ""),
        ("stream", True, Outcome.ANSWER, ""),
        ("busy", False, Outcome.REJECTED, "budget_exhausted"),
        ("busy", True, Outcome.REJECTED, "budget_exhausted"),
        ("unhelpful", False, Outcome.FAILED, "budget_exhausted"),
        ("error", True, Outcome.FAILED, "replica_failed"),
        ("cut", True, Outcome.LOST, "EndOfStream"),
    ],
)
async def test_outcome(gateway: aiohttp.ClientSession, model: str, stream: bool, outcome: Outcome, code: str) -> None:
    records: list[Record] = []
    await send(gateway, model, Arrival(0.0, 5, 3), records, 0.0, stream=stream)
    (record,) = records
    assert (record.outcome, record.code) == (outcome, code)
    if outcome is Outcome.ANSWER:
        assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


async def test_nobody_there_is_a_loss() -> None:
    records: list[Record] = []
    async with aiohttp.ClientSession("http://127.0.0.1:1") as session:
        await send(session, "chat", Arrival(0.0, 5, 3), records, 0.0, stream=False)
    assert records[0].outcome is Outcome.LOST
