"""Providers that answer as no stub does, and terms that change while a request waits: what is spent, said and counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from testbed.gateway import Running, World, until
from weir.kube.resources import MODELDEPLOYMENTS, Key

OVERFLOW: dict[str, Any] = {"targets": [{"providerRef": {"name": "p"}, "model": "big"}], "holdTime": "0s"}
NO_WAIT = {"maxWait": "0s", "coldStartWait": "0s"}
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HEX_KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"


def whole(body: Any, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    """An answer with its length."""
    content = json.dumps(body).encode()
    lines = b"".join(header + b"\r\n" for header in (b"Content-Type: application/json", *headers))
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines, len(content), content)


GOOD = whole({"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


@dataclass
class Scripted:
    """A provider that gives the same bytes to every request, and keeps what it was asked."""

    answer: bytes = GOOD
    url: str = ""
    asked: list[Any] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.asked.append(json.loads(await reader.readexactly(int(length.split(b":")[1]))))
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway has left
        finally:
            writer.close()


@asynccontextmanager
async def scripted(answer: bytes = GOOD) -> AsyncIterator[Scripted]:
    """The provider, on a port of its own."""
    made = Scripted(answer)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


async def spilling(world: World, stub: Any, *, budget: bool = False, **provider: Any) -> Running:
    """A gateway with a model without replicas, so that all of it spills."""
    spec: dict[str, Any] = {"budget": {"usdPerDay": "10"}} if budget else {}
    await world.provider(stub, **provider, **spec)
    await world.model(queue=NO_WAIT, overflow=OVERFLOW)
    if budget:
        await world.ledger("FrontierProvider", "p")
    running = await world.gateway()
    await until("the model", lambda: _knows_model(running))
    return running


async def _knows_model(running: Running) -> bool:
    async with running.http.get(f"{running.url}/v1/models/m") as answer:
        return answer.status == 200


async def committed(world: World, book: str = "frontierprovider.p") -> int:
    """Micro-dollars that the book says are spent, once nothing is leased any more."""
    status = await world.book(book)
    left = Decimal(status.get("leasedUsd", "0"))
    return 0 if left else int(Decimal(status.get("spentUsd", "0")) * 1_000_000)


async def test_what_cannot_be_sent_is_not_charged(world: World) -> None:
    async with scripted() as stub:
        running = await spilling(world, stub, budget=True)
        deep = b'{"model":"m","messages":[{"role":"user","content":"x","z":%b}]}' % (b"[" * 300 + b"]" * 300)
        for _ in range(20):
            async with running.http.post(f"{running.url}/v1/chat/completions", data=deep) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]["code"] == "invalid_json"
        assert stub.asked == []
        assert (await running.chat()).status == 200
        assert await until("the book to be closed", lambda: committed(world)) == 7 * 3 + 3 * 15


async def test_a_stream_that_broke_is_charged_in_full_whatever_it_had_counted(world: World) -> None:
    event = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    )
    async with scripted(STREAM + event) as stub:
        running = await spilling(world, stub, budget=True)
        answer = await running.chat(stream=True, max_tokens=1000)
        assert b'"stream_broken"' in answer.body
        assert await until("the book to be closed", lambda: committed(world)) > 1000 * 15


async def test_clients_that_do_not_read_leave_the_provider_its_good_name(world: World) -> None:
    word = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word" * 5_000)
    async with scripted(STREAM + word * 1000) as stub:
        running = await spilling(world, stub, timeouts={"betweenEvents": "2s", "total": "4s"})
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
        writers = []
        for _ in range(6):
            _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"), limit=1024)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            writers.append(writer)
        broken = f'weir_gateway_broken_streams_total{{model="m",namespace="{world.namespace}"}} 6.0'

        async def all_ended() -> bool:
            return broken in await running.metrics()

        await until("the streams to run out of time", all_ended)
        stub.answer = GOOD
        assert (await running.chat()).status == 200
        for writer in writers:
            writer.close()


async def test_names_that_clients_make_up_are_no_labels(world: World) -> None:
    async with scripted() as stub:
        running = await spilling(world, stub)
        names: dict[str, Any] = {f"made_up_{i}": None for i in range(500)}
        assert (await running.chat(user="me", **names)).status == 200
        lines = [line for line in (await running.metrics()).splitlines() if "redacted_fields_total{" in line]
        assert any('"user"' in line for line in lines)
        assert any('"other"' in line for line in lines)
        assert not any("made_up" in line for line in lines)


async def test_a_provider_that_wants_to_be_left_alone_for_ever_is_asked_again(world: World) -> None:
    too_many = whole({"error": {"message": "slow down"}}, b"429 Too Many Requests", b"Retry-After: 99999999999")
    async with scripted(too_many) as stub:
        running = await spilling(world, stub)
        assert (await running.chat()).headers["x-weir-reason"] == "provider-busy"
        assert running.gateway is not None
        breaker = running.gateway.registry.providers[Key(world.namespace, "p")].breaker
        assert 200 < breaker.full_for(asyncio.get_running_loop().time()) <= 300


async def test_a_key_that_its_provider_repeats_reaches_no_client(world: World) -> None:
    async with scripted(whole({"error": {"message": f"Incorrect API key: {HEX_KEY}"}}, b"400 Bad Request")) as stub:
        running = await spilling(world, stub, key=HEX_KEY)
        answer = await running.chat()
        assert answer.status == 400
        assert b"Incorrect API key: [redacted]" in answer.body
        assert HEX_KEY[:8] not in f"{answer.body!r} {answer.headers}"


async def _waits(running: Running) -> bool:
    load = await running.load()
    return any(model["queued"] for model in load["models"].values())


async def _saturated(world: World, stub: Any) -> tuple[Running, asyncio.Task[Any]]:
    """A model whose one slot is taken, with a budget of its own, and a request that waits for seconds before it may spill."""
    await world.provider(stub)
    overflow = OVERFLOW | {"holdTime": "3s", "budget": {"usdPerDay": "10"}}
    await world.model(slots=1, queue={"maxWait": "3s", "coldStartWait": "3s"}, overflow=overflow)
    await world.ledger("ModelDeployment", "m")
    await world.replica("--sim-time-scale=1", slots=1)
    running = await world.gateway()
    await world.ready(running)
    long = asyncio.create_task(running.chat(stream=True, max_tokens=4000, ignore_eos=True))

    async def taken() -> bool:
        return any(model["inFlight"] for model in (await running.load())["models"].values())

    await until("the slot to be taken", taken)
    return running, long


async def test_a_request_that_waits_heeds_the_terms_of_the_moment(world: World) -> None:
    async with scripted() as stub:
        running, long = await _saturated(world, stub)
        waiting = asyncio.create_task(running.chat(max_tokens=100))
        await until("it to wait", lambda: _waits(running))
        cut = {"spec": {"overflow": {"budget": {"usdPerDay": "0.000001"}}}}
        await world.kube.patch(MODELDEPLOYMENTS, world.namespace, "m", cut)
        answer = await waiting
        assert (answer.status, answer.headers["x-weir-reason"]) == (429, "budget-exhausted")
        assert stub.asked == []
        long.cancel()


async def test_a_request_that_waits_for_a_model_that_is_deleted_is_told(world: World) -> None:
    async with scripted() as stub:
        running, long = await _saturated(world, stub)
        waiting = asyncio.create_task(running.chat())
        await until("it to wait", lambda: _waits(running))
        await world.kube.delete(MODELDEPLOYMENTS, world.namespace, "m")
        answer = await waiting
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "model_not_found")
        assert stub.asked == []
        long.cancel()


async def test_what_no_replica_can_run_keeps_nobody_waiting(world: World) -> None:
    await world.model(slots=4, queue={"maxWait": "20s", "coldStartWait": "20s"})
    await world.replica(slots=4)
    running = await world.gateway()
    await world.ready(running)
    answers = await asyncio.gather(*(running.chat(n=5 if i % 2 else 1, max_tokens=20) for i in range(40)))
    assert [answer.status for answer in answers] == [200, 400] * 20
    error = json.loads(answers[1].body)["error"]
    assert (error["param"], error["code"]) == ("n", "invalid_value")
    prompts = {"model": "m", "prompt": ["x"] * 5}
    async with running.http.post(f"{running.url}/v1/completions", json=prompts) as refused:
        assert (refused.status, (await refused.json())["error"]["param"]) == (400, "prompt")
    load = (await running.load())["models"][f"{world.namespace}/m"]
    assert (load["queued"], load["spilledWorkSeconds"]) == (0, 0)
    assert (await running.chat(n=4, max_tokens=5)).status == 200


async def test_what_no_replica_can_run_spills_and_is_no_demand(world: World) -> None:
    await world.provider(world.frontier())
    await world.model(slots=4, overflow=OVERFLOW | {"holdTime": "20s"})
    await world.replica(slots=4)
    running = await world.gateway()
    await world.ready(running)
    async with asyncio.timeout(10):
        answer = await running.chat(n=5, max_tokens=5)
    assert (answer.status, answer.backend) == (200, "frontier")
    load = (await running.load())["models"][f"{world.namespace}/m"]
    assert load["spilledWorkSeconds"] == 0
