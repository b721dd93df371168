"""Requests through a whole gateway: real API server, real sockets, simulated engines and provider."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from testbed.gateway import KEY, PRICES, Running, World, until

TARGET = {"providerRef": {"name": "p"}, "model": "big"}
OVERFLOW = {"targets": [TARGET], "holdTime": "50ms"}


def events(body: bytes) -> list[Any]:
    """The data of a stream's events."""
    return [
        json.loads(line[6:])
        for line in body.decode().splitlines()
        if line.startswith("data: ") and "[DONE]" not in line
    ]


async def seen(running: Running, stub: Any) -> list[Any]:
    """The requests that a frontier stub got."""
    async with running.http.get(f"{stub.url}/requests") as answer:
        found: list[Any] = (await answer.json())["requests"]
        return found


async def fault(running: Running, stub: Any, kind: str, **more: Any) -> None:
    """Switch a fault of a stub on."""
    async with running.http.post(f"{stub.url}/sim/fault", json={"kind": kind, **more}) as answer:
        assert answer.status == 200, await answer.text()


async def in_flight(running: Running) -> int:
    """Slots that the gateway counts as taken or waited for."""
    load = await running.load()
    return sum(sum(m["inFlight"].values()) + m["queued"] + m["spilling"] for m in load["models"].values())


async def hold_slot(world: World, running: Running, seconds: float = 30) -> asyncio.Task[Any]:
    """Takes one slot by a stream that goes on for a long time."""
    before = await in_flight(running)
    task = asyncio.create_task(running.chat(stream=True, max_tokens=4000, ignore_eos=True))
    await until("the slot to be taken", lambda: _above(running, before))
    return task


async def _above(running: Running, before: int) -> bool:
    return await in_flight(running) > before


async def test_a_free_slot_serves_whole_and_streamed(world: World) -> None:
    await world.model()
    _, pod = await world.replica()
    running = await world.gateway()
    await world.ready(running)

    whole = await running.chat(max_tokens=5, headers={"x-request-id": "mine"})
    assert (whole.status, whole.backend, whole.replica) == (200, "local", pod)
    assert (whole.headers["x-weir-reason"], whole.headers["x-request-id"]) == ("slot-free", "mine")
    assert json.loads(whole.body)["usage"]["completion_tokens"] == 5

    streamed = await running.chat(max_tokens=5, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert all(chunk["choices"] for chunk in events(streamed.body)), "the report of usage is taken out again"

    asked = await running.chat(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert events(asked.body)[-1]["usage"]["completion_tokens"] == 5
    metrics = await running.metrics()
    assert f'tokens_total{{kind="completion",model="m",namespace="{world.namespace}",route="local"}} 15.0' in metrics
    assert await in_flight(running) == 0


async def test_what_is_not_a_completion(world: World) -> None:
    await world.model(slots=4)
    await world.replica()
    running = await world.gateway()
    await world.ready(running)

    async def ask(method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        async with running.http.request(method, running.url + path, data=body) as answer:
            return answer.status, await answer.json(content_type=None) if path != "/healthz" else None

    assert (await ask("GET", "/healthz"))[0] == 200
    assert [m["id"] for m in (await ask("GET", "/v1/models"))[1]["data"]] == ["m", f"{world.namespace}/m"]
    assert (await ask("GET", f"/v1/models/{world.namespace}%2Fm"))[0] == 200
    for status, code, method, path, body in (
        (404, "model_not_found", "GET", "/v1/models/none", b""),
        (404, "not_found", "GET", "/nothing", b""),
        (501, "not_implemented", "POST", "/v1/batches", b"{}"),
        (405, "method_not_allowed", "GET", "/v1/chat/completions", b""),
        (400, "invalid_json", "POST", "/v1/chat/completions", b'{"model": '),
        (400, "invalid_json", "POST", "/v1/chat/completions", b"[]"),
        (400, "invalid_value", "POST", "/v1/chat/completions", b'{"model": "m"}'),
        (400, "invalid_value", "POST", "/v1/chat/completions", b'{"model": "m", "messages": [{}], "n": 0}'),
        (404, "model_not_found", "POST", "/v1/chat/completions", b'{"model": "none", "messages": [{}]}'),
        (404, "model_not_found", "POST", "/v1/completions", b'{"model": "none", "prompt": "x"}'),
    ):
        answer = await ask(method, path, body)
        assert (answer[0], answer[1]["error"]["code"]) == (status, code), (method, path, body)
        assert set(answer[1]["error"]) == {"message", "type", "param", "code"}


async def test_a_saturated_model_holds_then_spills_and_says_so(world: World) -> None:
    frontier = world.frontier()
    await world.provider(frontier)
    await world.model(slots=1, overflow=OVERFLOW)
    await world.replica(slots=1)
    running = await world.gateway()
    await world.ready(running)
    long = await hold_slot(world, running)
    private = {"authorization": "Bearer sk-client", "cookie": "a=b", "x-secret": "y", "traceparent": "00-0-0-00"}
    fields: dict[str, Any] = {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"}

    whole = await running.chat(headers=private, **fields)
    assert (whole.status, whole.backend, whole.headers["x-weir-reason"]) == (200, "frontier", "saturated")
    assert whole.headers["x-weir-model"] == "big"
    assert int(whole.headers["x-weir-queue-ms"]) >= 40, "the 50 ms count from its arrival"
    streamed = await running.chat(stream=True, max_tokens=7)
    assert streamed.backend == "frontier"
    assert all(chunk["choices"] for chunk in events(streamed.body))
    assert streamed.body.endswith(b"data: [DONE]\n\n")

    first, second = await seen(running, frontier)
    assert first["headers"]["authorization"] == f"Bearer {KEY}"
    assert not first["headers"].keys() & {"cookie", "x-secret", "traceparent", "x-request-id"}
    assert not first["body"].keys() & fields.keys()
    assert (first["body"]["model"], first["body"]["max_completion_tokens"]) == ("big", 4096)
    assert (second["body"]["max_tokens"], second["body"]["stream_options"]) == (7, {"include_usage": True})
    async with running.http.get(f"{frontier.url}/bill") as answer:
        bill = await answer.json()
    load = (await running.load())["models"][f"{world.namespace}/m"]
    assert load["frontierMicroUsd"] == bill["microUsd"]
    assert load["requests"]["frontier"] == {"saturated": 2}
    assert load["spilledWorkSeconds"] > 0
    assert 0 < round(float(whole.headers["x-weir-cost-usd"]) * 1_000_000) < bill["microUsd"]
    long.cancel()


async def test_a_hold_ends_with_the_slot_that_comes_free(world: World) -> None:
    await world.model(slots=1)
    await world.replica("--sim-time-scale=5", slots=1)
    running = await world.gateway()
    await world.ready(running)
    answers = await asyncio.gather(*(running.chat(max_tokens=20) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert sum(int(answer.headers["x-weir-queue-ms"]) > 0 for answer in answers) >= 7
    assert await in_flight(running) == 0
    load = (await running.load())["models"][f"{world.namespace}/m"]
    assert load["queuedSlotSeconds"] > load["localSlotSeconds"]


async def test_without_overflow_a_full_queue_and_a_long_wait_are_refused(world: World) -> None:
    await world.model(slots=1, queue={"maxLength": 1, "maxWait": "300ms"})
    await world.replica(slots=1)
    running = await world.gateway()
    await world.ready(running)
    long = await hold_slot(world, running)
    waiting = asyncio.create_task(running.chat())
    await until("one to wait", lambda: _above(running, 1))
    full = await running.chat()
    assert (full.status, full.headers["x-weir-reason"]) == (429, "queue-full")
    assert int(full.headers["retry-after"]) >= 1
    late = await waiting
    assert (late.status, late.headers["x-weir-reason"]) == (429, "wait-exceeded")
    assert json.loads(late.body)["error"]["type"] == "rate_limit_error"
    long.cancel()
    await until("all to be released", lambda: _is_idle(running))


async def _is_idle(running: Running) -> bool:
    return await in_flight(running) == 0


async def test_a_cold_model_spills_or_waits_for_its_first_replica(world: World) -> None:
    frontier = world.frontier()
    await world.provider(frontier)
    await world.model(overflow=OVERFLOW)
    await world.model("alone", queue={"coldStartWait": "20s"})
    await world.model("hopeless", queue={"maxWait": "0s", "coldStartWait": "100ms"})
    running = await world.gateway(comment_seconds=0.5)
    await until("the models", lambda: _names(running, 6))
    spilled = await running.chat()
    assert (spilled.status, spilled.headers["x-weir-reason"]) == (200, "cold-start")
    refused = await running.chat("hopeless")
    assert refused.status == 503
    body = {"model": "alone", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 3}
    async with running.http.post(f"{running.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        assert await answer.content.readexactly(2 * len(b": waiting\n\n")) == b": waiting\n\n: waiting\n\n"
        await world.replica(model="alone")
        assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")


async def _names(running: Running, count: int) -> bool:
    async with running.http.get(f"{running.url}/v1/models") as answer:
        return len((await answer.json())["data"]) == count


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", ["die-before-headers", "die-before-first-token", "dead"])
async def test_a_replica_that_dies_before_its_first_token_costs_the_client_nothing(
    world: World, kind: str, stream: bool
) -> None:
    frontier = world.frontier()
    await world.provider(frontier)
    await world.model(overflow=OVERFLOW)
    bad, _ = await world.replica()
    good, good_pod = await world.replica()
    running = await world.gateway()
    await world.ready(running, 2)
    await fault(running, bad, kind)
    answers = [await running.chat(stream=stream, max_tokens=3) for _ in range(6)]
    assert {(answer.status, answer.replica) for answer in answers} == {(200, good_pod)}
    await fault(running, good, kind)
    answer = await running.chat(stream=stream, max_tokens=3)
    assert (answer.status, answer.backend, answer.headers["x-weir-reason"]) == (200, "frontier", "replica-failure")
    assert await in_flight(running) == 0


async def test_a_replica_that_is_gone_costs_the_client_nothing(world: World) -> None:
    await world.model()
    gone, _ = await world.replica()
    _, pod = await world.replica()
    running = await world.gateway()
    await world.ready(running, 2)
    gone.signal(9)
    gone.wait(5)
    answers = [await running.chat(max_tokens=3) for _ in range(6)]
    assert {(answer.status, answer.replica) for answer in answers} == {(200, pod)}


async def test_after_the_first_token_a_stream_ends_with_an_error_event(world: World) -> None:
    await world.model()
    bad, _ = await world.replica()
    running = await world.gateway()
    await world.ready(running)
    await fault(running, bad, "die-mid-stream", tokens=3)
    answer = await running.chat(stream=True, max_tokens=50)
    *chunks, last = events(answer.body)
    assert answer.status == 200
    assert any(chunk["choices"][0]["delta"].get("content") for chunk in chunks)
    assert last["error"]["code"] == "stream_broken"
    assert b"[DONE]" not in answer.body
    assert await in_flight(running) == 0
    assert (
        f'weir_gateway_broken_streams_total{{model="m",namespace="{world.namespace}"}} 1.0' in await running.metrics()
    )


async def test_an_engine_that_is_full_is_not_broken(world: World) -> None:
    """Somebody else uses the engine too: its own admission refuses what by our count would fit."""
    await world.model(slots=4, queue={"maxWait": "20s"})
    await world.replica("--sim-time-scale=2", slots=4, queue=-2)
    running = await world.gateway()
    await world.ready(running)
    for stream in (False, True):
        answers = await asyncio.gather(*(running.chat(max_tokens=60, stream=stream) for _ in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
    failures = [
        line
        for line in (await running.metrics()).splitlines()
        if f'"{world.namespace}"' in line and "_failures_total" in line
    ]
    assert [line for line in failures if 'kind="full"' in line]
    assert not [line for line in failures if 'kind="full"' not in line]


@pytest.mark.parametrize("phase", ["queued", "before the first token", "mid-stream", "whole answer"])
async def test_a_client_that_leaves_frees_everything_at_once(world: World, phase: str) -> None:
    await world.model(slots=1)
    engine, _ = await world.replica(slots=1)
    running = await world.gateway()
    await world.ready(running)
    long = await hold_slot(world, running) if phase == "queued" else None
    if phase == "before the first token":
        await fault(running, engine, "hang")
    before = await in_flight(running)
    stream = phase != "whole answer"
    task = asyncio.create_task(running.chat(stream=stream, max_tokens=4000, ignore_eos=True))
    await until("it to arrive", lambda: _above(running, before))
    if phase in ("mid-stream", "whole answer"):
        await until("the engine to run it", lambda: _engine_runs(running, engine, 1))
    task.cancel()
    await until("it to be released", lambda: _is(running, before), timeout=1.0)
    if long is not None:
        long.cancel()
    await until("the engine to be told", lambda: _engine_runs(running, engine, 0), timeout=1.0)
    await until("nothing to be left", lambda: _is_idle(running), timeout=1.0)
    metrics = await running.metrics()
    assert 'code="499"' in metrics


async def _is(running: Running, count: int) -> bool:
    return await in_flight(running) == count


async def _engine_runs(running: Running, engine: Any, count: int) -> bool:
    async with running.http.get(f"{engine.url}/metrics") as answer:
        text = await answer.text()
    lines = (line for line in text.splitlines() if line.startswith("vllm:num_requests_running"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines) == count


async def test_choices_take_a_slot_each(world: World) -> None:
    await world.model(slots=4, queue={"maxLength": 0})
    await world.replica("--sim-time-scale=1", slots=4)
    running = await world.gateway()
    await world.ready(running)
    first = asyncio.create_task(running.chat(n=3, max_tokens=100))
    await until("three slots", lambda: _is(running, 3))
    assert (await running.chat(n=2, max_tokens=1)).status == 429
    assert (await running.chat(n=1, max_tokens=1)).status == 200
    assert (await first).status == 200
    assert (await running.chat(n=9, max_tokens=1)).status == 400, "no replica runs so many"


@pytest.mark.parametrize(
    ("policy", "header", "status", "reason"),
    [
        ("Allow", "only", 200, "forced"),
        ("Allow", "never", 429, "client-forbids"),
        ("RequireHeader", None, 429, "data-policy"),
        ("RequireHeader", "allow", 200, "saturated"),
        ("LocalOnly", "only", 429, "data-policy"),
    ],
)
async def test_who_may_leave(world: World, policy: str, header: str | None, status: int, reason: str) -> None:
    frontier = world.frontier()
    await world.provider(frontier)
    queue = {"maxLength": 10, "maxWait": "100ms"}
    await world.model(slots=1, queue=queue, overflow={**OVERFLOW, "dataPolicy": policy})
    await world.replica(slots=1)
    running = await world.gateway()
    await world.ready(running)
    long = await hold_slot(world, running)
    headers = {"x-weir-overflow": header} if header else {}
    answer = await running.chat(headers=headers)
    assert (answer.status, answer.headers["x-weir-reason"]) == (status, reason)
    assert len(await seen(running, frontier)) == (status == 200)
    assert (await running.chat(headers={"x-weir-overflow": "perhaps"})).status == 400
    long.cancel()


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("nobody is authorized", "not-authorized"),
        ("another host", "provider-unavailable"),
        ("no secret", "provider-unavailable"),
        ("private address", "provider-unavailable"),
        ("no price", "unknown-price"),
        ("no provider", "provider-missing"),
        ("foreign parameter", "parameter-not-supported"),
        ("wrong key", "provider-unavailable"),
    ],
)
async def test_what_keeps_a_request_here(world: World, why: str, reason: str) -> None:
    frontier = world.frontier()
    if why != "no provider":
        await world.provider(
            frontier,
            hosts="api.example.com" if why == "another host" else None,
            key="sk-wrong" if why == "wrong key" else KEY,
            pricing=None if why == "no price" else PRICES,
        )
    await world.model(queue={"maxWait": "0s", "coldStartWait": "0s"}, overflow={**OVERFLOW, "holdTime": "0s"})
    running = await world.gateway(
        anonymous_overflow=why != "nobody is authorized",
        allow_private_providers=why != "private address",
        secret_namespaces=() if why == "no secret" else (world.namespace,),
    )
    await until("the model", lambda: _names(running, 2))
    fields: dict[str, Any] = {"top_k": 5} if why == "foreign parameter" else {}
    answer = await running.chat(**fields)
    assert answer.status == 503
    if why in ("private address", "wrong key"):  # found out by trying
        assert answer.headers["x-weir-reason"] == "provider-tried"
        for _ in range(5):
            answer = await running.chat(**fields)
    assert answer.headers["x-weir-reason"] == reason
    requests = await seen(running, frontier)
    assert len(requests) == (5 if why == "wrong key" else 0)
    assert KEY.encode() not in answer.body
