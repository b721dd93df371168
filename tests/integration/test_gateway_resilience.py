"""What goes on when something else does not: the API server, another gateway, this gateway, a replica on its way out."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from testbed.gateway import KEY, Running, World, until
from weir.gateway.config import Identity
from weir.kube.resources import MODELDEPLOYMENTS, PODS, SECRETS

OVERFLOW: dict[str, Any] = {"targets": [{"providerRef": {"name": "p"}, "model": "big"}], "holdTime": "0s"}


async def slots(running: Running, world: World, model: str = "m") -> int:
    """Slots that this gateway has taken."""
    load = (await running.load())["models"].get(f"{world.namespace}/{model}")
    return sum(load["inFlight"].values()) if load else 0


async def queued(running: Running, world: World) -> int:
    """Requests that wait for one."""
    load = (await running.load())["models"].get(f"{world.namespace}/m")
    return int(load["queued"]) if load else 0


async def test_requests_flow_while_the_api_server_is_away_and_spilling_stops(world: World) -> None:
    """Paused: the connections stay and nothing answers, which is worse than a refusal."""
    await world.provider(world.frontier())
    await world.model(slots=2, queue={"maxLength": 0}, overflow=OVERFLOW)
    await world.replica(slots=2)
    running = await world.process(stale_seconds=6.0)
    await world.ready(running)

    async def spills() -> Any:
        answer = await running.chat(headers={"x-weir-overflow": "only"}, max_tokens=5)
        return answer.status, answer.headers["x-weir-reason"]

    assert await spills() == (200, "forced")
    world.plane.pause_api()
    paused = time.monotonic()
    served = 0
    try:
        while time.monotonic() - paused < 12:
            answer = await running.chat(max_tokens=5, stream=bool(served % 2))
            assert (answer.status, answer.backend) == (200, "local")
            served += 1
            if time.monotonic() - paused < 3:
                assert await spills() == (200, "forced"), "a view of a few seconds is fresh enough"
        assert await spills() == (429, "stale-view")
        assert (await running.chat(max_tokens=5)).status == 200
    finally:
        world.plane.resume_api()
    assert served > 100

    async def again() -> bool:
        return bool(await spills() == (200, "forced"))

    await until("spilling to go on", again, timeout=20)


async def test_a_restarted_api_server_is_followed_again(world: World) -> None:
    await world.model()
    await world.replica()
    running = await world.gateway()
    await world.ready(running)
    world.plane.stop_api()
    try:
        assert (await running.chat(max_tokens=3)).status == 200
    finally:
        await asyncio.to_thread(world.plane.start_api)
    await world.replica()
    await world.ready(running, 2)


async def test_a_gateway_killed_while_it_holds_requests_loses_only_those(world: World) -> None:
    """The held requests see a broken connection, which no client takes for an answer; the next gateway serves at once."""
    await world.model(slots=1)
    engine, _ = await world.replica(slots=1)
    first = await world.process()
    await world.ready(first)
    tasks = [asyncio.create_task(first.chat(stream=True, max_tokens=4000, ignore_eos=True)) for _ in range(5)]
    await until("four to be held", lambda: _equals(queued(first, world), 4))
    assert first.process is not None
    first.process.kill()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results), results

    async def idle() -> bool:
        async with first.http.get(f"{engine.url}/metrics") as answer:
            return "vllm:num_requests_running" in (text := await answer.text()) and all(
                line.endswith(" 0.0") for line in text.splitlines() if line.startswith("vllm:num_requests_running")
            )

    await until("the engine to be free", idle)
    second = await world.process()
    await world.ready(second)
    assert (await second.chat(max_tokens=3)).status == 200


async def _equals(value: Any, expected: int) -> bool:
    return bool(await value == expected)


async def test_a_stopping_gateway_finishes_what_it_has(world: World) -> None:
    await world.model(slots=1)
    await world.replica("--sim-time-scale=10", slots=1)
    running = await world.process(drain_grace_seconds=0.3)
    await world.ready(running)
    streaming = asyncio.create_task(running.chat(stream=True, max_tokens=300, ignore_eos=True))
    await until("the stream", lambda: _equals(slots(running, world), 1))
    held = asyncio.create_task(running.chat(max_tokens=3))
    await until("the other to wait", lambda: _equals(queued(running, world), 1))
    assert running.process is not None
    running.process.send_signal(signal.SIGTERM)

    async def not_ready() -> bool:
        async with running.http.get(f"{running.admin}/readyz") as answer:
            return answer.status == 503

    await until("readiness to go", not_ready, timeout=2)
    late = await running.chat(max_tokens=3)
    assert (late.status, late.headers["connection"]) == (200, "close"), "until endpoints forget it, it serves"
    assert (await streaming).body.endswith(b"data: [DONE]\n\n")
    assert (await held).status == 200
    assert await asyncio.to_thread(running.process.wait, 10) == 0


async def test_gateways_count_together(world: World) -> None:
    """Four slots, two gateways: four requests through one leave none for the other."""
    await world.model(slots=4, queue={"maxLength": 0})
    await world.replica("--sim-time-scale=1", slots=4)
    running = []
    for number in range(2):
        name = f"gateway-{number}"
        each = await world.gateway(identity=Identity(name, world.namespace, f"uid-{number}"), peer_poll_seconds=0.05)
        await world.gateway_pod(each, name)
        await world.ready(each)
        running.append(each)
    tasks = [asyncio.create_task(running[0].chat(stream=True, max_tokens=4000, ignore_eos=True)) for _ in range(4)]
    await until("all slots to be taken", lambda: _equals(slots(running[0], world), 4))

    async def told(count: int) -> bool:
        labels = f'{{model="m",namespace="{world.namespace}"}}'
        return f"weir_gateway_peers_in_flight{labels} {float(count)}" in await running[1].metrics()

    await until("the other to know", lambda: told(4), timeout=5)
    assert (await running[1].chat(max_tokens=1)).status == 429
    for task in tasks:
        task.cancel()
    await until("the other to know that they are free", lambda: told(0), timeout=5)
    assert (await running[1].chat(max_tokens=1)).status == 200


async def test_a_replica_that_leaves_gets_nothing_new_and_finishes_what_it_has(world: World) -> None:
    await world.model(slots=4)
    _, leaving = await world.replica("--sim-time-scale=10", slots=4)
    running = await world.gateway()
    await world.ready(running)
    streaming = asyncio.create_task(running.chat(stream=True, max_tokens=300, ignore_eos=True))
    await until("the stream", lambda: _equals(slots(running, world), 1))
    _, staying = await world.replica(slots=4)
    await world.ready(running, 2)
    await world.pod_status(leaving, ready=False)
    await world.ready(running, 1)
    answers = [await running.chat(max_tokens=2) for _ in range(5)]
    assert {answer.replica for answer in answers} == {staying}
    await world.kube.delete(PODS, world.namespace, leaving, grace_period_seconds=0)
    answer = await streaming
    assert answer.replica == leaving
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_the_oldest_model_keeps_a_name(world: World) -> None:
    first = await world.model("first", model={"source": "hf://org/model", "servedNames": ["shared", "one"]})
    created = datetime.fromisoformat(first["metadata"]["creationTimestamp"])  # in whole seconds
    await until("the next second", lambda: world.kube.server_now_at_least() >= created + timedelta(seconds=1))
    await world.model("second", model={"source": "hf://org/model", "servedNames": ["shared", "two"]})
    engine = world.engine("--served-model-name", "shared", "one", model="first")
    await world.pod(engine.port, model="first")
    running = await world.gateway()
    await world.ready(running, model="first")
    assert (await running.chat("shared", max_tokens=2)).status == 200
    assert (await running.chat("one", max_tokens=2)).status == 200
    qualified = await running.chat(f"{world.namespace}/one", max_tokens=2)
    assert (qualified.status, json.loads(qualified.body)["model"]) == (200, "one")
    await world.kube.delete(MODELDEPLOYMENTS, world.namespace, "first")

    async def inherited() -> bool:
        load = await running.load()
        return list(load["models"]) == [f"{world.namespace}/second"]

    await until("the younger to inherit", inherited)
    assert (await running.chat("one")).status == 404


async def test_a_changed_key_is_used_at_once(world: World) -> None:
    await world.provider(world.frontier(), key="sk-old-and-wrong-key")
    await world.model(queue={"maxWait": "0s", "coldStartWait": "0s"}, overflow=OVERFLOW)
    running = await world.gateway()

    async def status() -> int:
        return (await running.chat()).status

    await until("a refusal", lambda: _equals(status(), 503))
    await world.kube.patch(SECRETS, world.namespace, "p", {"stringData": {"api-key": KEY}})
    await until("the new key to work", lambda: _equals(status(), 200))
