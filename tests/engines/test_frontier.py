"""The frontier stub in this process, on a socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from engines.frontier.__main__ import parse
from engines.frontier.catalog import Bill, Model
from engines.frontier.checks import ApiError, RateLimit
from engines.frontier.server import FAULTS, Server

CHAT = "/v1/chat/completions"
KEY = "sk-test-0123456789"
HELLO = [{"role": "user", "content": "hello there"}]


class Provider:
    """A server and a client of it."""

    def __init__(self, server: Server, session: ClientSession, url: str) -> None:
        self.server = server
        self.session = session
        self.url = url

    async def post(self, path: str = CHAT, key: str | None = KEY, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        body = {"model": "small", "messages": HELLO, "max_tokens": 10, **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(), dict(response.headers)

    async def stream(self, into: list[Any] | None = None, **fields: Any) -> list[Any]:
        """Events of a stream. Raises aiohttp.ClientError where it is cut; what came before that is in `into`."""
        events: list[Any] = [] if into is None else into
        body = {"model": "small", "messages": HELLO, "max_tokens": 10, "stream": True, **fields}
        async with self.session.post(CHAT, json=body, headers={"Authorization": f"Bearer {KEY}"}) as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    data = line.removeprefix(b"data: ").strip()
                    events.append("[DONE]" if data == b"[DONE]" else json.loads(data))
        return events

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as response:
            return await response.json()

    async def fault(self, **fields: Any) -> int:
        async with self.session.post("/sim/fault", json=fields) as response:
            return response.status


@asynccontextmanager
async def provider(*arguments: str) -> AsyncIterator[Provider]:
    fixed = ["--key", KEY, "--ttft=0", "--tokens-per-second=10000", "--model=small=0.25/0.025/2,1000,500"]
    server = Server(parse([*fixed, "--model=large=3/0.3/15", *arguments]))
    async with TestServer(server.app()) as site:
        await site.start_server(handler_cancellation=True)
        async with ClientSession(site.make_url("/")) as session:
            yield Provider(server, session, str(site.make_url("/v1")))


async def test_openais_own_client_understands_it() -> None:
    async with provider() as p:
        client = openai.AsyncOpenAI(base_url=p.url, api_key=KEY, max_retries=0)
        whole = await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 64
        stream = await client.chat.completions.create(
            model="large",
            messages=[{"role": "user", "content": "hi"}],
            max_completion_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]).count(" ") == 5
        assert chunks[-2].choices[0].finish_reason == "length"
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, 5)
        assert [model.id async for model in client.models.list()] == ["small", "large"]
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"key": None}, 401, None),
        ({"key": "sk-other"}, 401, "invalid_api_key"),
        ({"model": "local-model"}, 404, "model_not_found"),
        ({"model": ...}, 400, None),
        ({"top_k": 3}, 400, "unknown_parameter"),
        ({"min_p": 0.1}, 400, "unknown_parameter"),
        ({"chat_template_kwargs": {}}, 400, "unknown_parameter"),
        ({"cache_salt": "x"}, 400, "unknown_parameter"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, 400, "unknown_parameter"),
        ({"stream_options": {"include_usage": True}}, 400, None),
        ({"messages": ...}, 400, "missing_required_parameter"),
        ({"messages": []}, 400, "missing_required_parameter"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"max_tokens": 0}, 400, "integer_below_min_value"),
        ({"max_tokens": 501}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 4000}]}, 400, "context_length_exceeded"),
    ],
)
async def test_what_it_refuses(fields: dict[str, Any], status: int, code: str | None) -> None:
    async with provider() as p:
        got, answer, _ = await p.post(**fields)
        assert await p.get("/bill") == {"microUsd": 0, "models": {}}
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["code"] == code


async def test_the_bill_is_exact_and_agrees_with_what_was_reported() -> None:
    async with provider() as p:
        usages = [(await p.post(max_tokens=n))[1]["usage"] for n in (1, 7, 50)]
        events = await p.stream(n=2, stream_options={"include_usage": True})
        usages.append(events[-2]["usage"])
        unreported = await p.stream()
        assert all("usage" not in event for event in unreported[:-1])
        line = (await p.get("/bill"))["models"]["small"]
    prompt, output = (sum(u[name] for u in usages) for name in ("prompt_tokens", "completion_tokens"))
    prompt, output = prompt + usages[0]["prompt_tokens"], output + 10
    assert (line["requests"], line["promptTokens"], line["outputTokens"]) == (5, prompt, output)
    assert line["picoUsd"] == prompt * 250_000 + output * 2_000_000
    assert 0 <= line["microUsd"] - line["picoUsd"] / 1e6 < 5


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1), st.integers(0, 10**5)), max_size=20))
def test_no_request_costs_more_than_a_microdollar_over_its_exact_price(requests: list[tuple[int, float, int]]) -> None:
    model, bill = Model.parse("m=0.123457/0.000001/2"), Bill()
    for prompt, share, output in requests:
        bill.charge(model, prompt, int(prompt * share), output)
    for line in bill.lines.values():
        assert 0 <= line.microUsd * 10**6 - line.picoUsd < 10**6 * len(requests)


@pytest.mark.parametrize("wrong", ["m", "m=1/2", "m=1/2/3,4,5,6", "m=-1/2/3", "m=0.0000001/1/1", "=1/2/3", "m=a/b/c"])
def test_prices_that_are_none(wrong: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        Model.parse(wrong)


async def test_long_prompts_are_cached_and_billed_as_such() -> None:
    async with provider() as p:
        long = [{"role": "user", "content": "y" * 8000}]
        usages = [(await p.post(model="large", messages=long))[1]["usage"] for _ in range(2)]
        line = (await p.get("/bill"))["models"]["large"]
    assert [u["prompt_tokens_details"]["cached_tokens"] for u in usages] == [0, 1920]
    assert line["cachedTokens"] == 1920


async def test_it_remembers_what_it_was_sent() -> None:
    async with provider("--keep=2") as p:
        for name in ("one", "two", "three"):
            await p.post(user=name, key=None if name == "three" else KEY)
        seen = (await p.get("/requests"))["requests"]
        await p.session.delete("/requests")
        assert await p.get("/requests") == {"requests": []}
    assert [each["body"]["user"] for each in seen] == ["two", "three"]
    assert [each["headers"].get("authorization") for each in seen] == [f"Bearer {KEY}", None]
    assert [(each["status"], each["outcome"]) for each in seen] == [(200, "done"), (401, "refused")]


async def test_rate_limits_count_down_and_say_when_to_come_back() -> None:
    async with provider("--requests-per-minute=2") as p:
        first, second, third = [await p.post() for _ in range(3)]
    assert first[2]["x-ratelimit-limit-requests"] == "2"
    assert [each[2]["x-ratelimit-remaining-requests"] for each in (first, second)] == ["1", "0"]
    assert third[0] == 429
    assert third[1]["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third[2]["Retry-After"]) <= 30


def test_rate_limits_refill_evenly() -> None:
    limit = RateLimit(60, 600)
    for _ in range(60):
        limit.take(1000.0, 10)
    with pytest.raises(ApiError) as refused:
        limit.take(1000.5, 10)
    assert refused.value.headers["retry-after-ms"] == "500"
    assert limit.take(1001.0, 10)["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("kind", "status"), [("error-500", 500), ("error-503", 503), ("error-429", 429), ("quota", 429), ("revoked", 401)]
)
async def test_faults_that_are_answers_cost_nothing(kind: str, status: int) -> None:
    async with provider(f"--fault={kind}", "--fault-times=1") as p:
        assert (await p.post())[0] == status
        assert (await p.get("/bill"))["microUsd"] == 0
        assert (await p.post())[0] == 200


@pytest.mark.parametrize(("kind", "tokens"), [("die-before-first-token", 0), ("die-mid-stream", 3)])
async def test_streams_that_die_are_billed_for_what_was_generated(kind: str, tokens: int) -> None:
    async with provider() as p:
        assert await p.fault(kind=kind, tokens=3) == 200
        events: list[Any] = []
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await p.stream(into=events, stream_options={"include_usage": True})
        bill = await p.get("/bill")
        outcome = p.server.requests[-1].outcome
    text = "".join(e["choices"][0]["delta"]["content"] for e in events)
    assert len(text) == 4 * tokens
    assert bill["models"].get("small", {}).get("outputTokens", 0) == tokens
    assert outcome == "fault"


async def test_a_connection_cut_before_the_headers_and_a_body_cut_in_the_middle() -> None:
    async with provider("--fault=die-before-headers") as p:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await p.post()
        await p.fault(kind="die-mid-stream")
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await p.post()


async def test_garbage_errors_in_the_stream_and_missing_usage() -> None:
    async with provider("--fault=garbage") as p:
        with pytest.raises(ValueError, match="Expecting"):
            await p.stream()
        with pytest.raises(ValueError, match=r".+"):
            await p.post()
        await p.fault(kind="error-event")
        assert (await p.stream())[0]["error"]["type"] == "server_error"
        await p.fault(kind="no-usage")
        assert "usage" not in (await p.post())[1]
        events = await p.stream(stream_options={"include_usage": True})
        assert all(event == "[DONE]" or not event["usage"] for event in events)


async def test_a_client_that_goes_away_is_noted_and_pays_for_what_it_got() -> None:
    async with provider("--tokens-per-second=50", "--output-tokens=400") as p:
        request = asyncio.create_task(p.stream(max_tokens=400))
        async with asyncio.timeout(10):
            while not (p.server.requests and p.server.requests[-1].outputTokens):  # noqa: ASYNC110 - across a socket
                await asyncio.sleep(0.005)
        request.cancel()
        async with asyncio.timeout(10):
            while p.server.requests[-1].outcome == "open":  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        seen = p.server.requests[-1]
        assert seen.outcome == "client-gone"
        assert 0 < seen.outputTokens < 400
        assert (await p.get("/bill"))["models"]["small"]["outputTokens"] == seen.outputTokens


async def test_hanging_lasts_until_the_client_leaves_and_costs_nothing() -> None:
    async with provider("--fault=hang") as p:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(p.post(), 0.2)
        assert (await p.get("/bill"))["microUsd"] == 0


async def test_pace_is_as_told_and_slowness_multiplies_it() -> None:
    async with provider("--ttft=0.05", "--tokens-per-second=200", "--fault=slow", "--fault-factor=4") as p:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await p.stream(max_tokens=11)
        slow = loop.time() - start
        await p.fault(kind="none")
        start = loop.time()
        await p.post(max_tokens=11)
        assert loop.time() - start >= 0.05 + 11 / 200
    assert slow >= 4 * (0.05 + 10 / 200)


async def test_legacy_completions() -> None:
    async with provider() as p:
        status, answer, _ = await p.post("/v1/completions", messages=..., prompt="once upon a time")
        assert (status, answer["object"], len(answer["choices"][0]["text"])) == (200, "text_completion", 40)
        assert (await p.post("/v1/completions", messages=..., prompt=[1, 2]))[0] == 400


def test_nothing_starts_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRONTIER_API_KEY", raising=False)
    with pytest.raises(SystemExit):
        parse([])
    monkeypatch.setenv("FRONTIER_API_KEY", "a,b")
    assert parse([]).keys == ("a", "b")
    for kind in FAULTS:
        fault = parse([f"--fault={kind}"]).fault
        assert fault is not None
        assert fault.kind == kind
