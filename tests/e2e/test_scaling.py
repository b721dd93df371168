"""Replicas follow demand: up under load and back, from nothing with a first request and to nothing when idle."""

from __future__ import annotations

import asyncio

import pytest

from testbed.cluster import SPACE, ClusterWorld, unanswered, until

pytestmark = pytest.mark.timeout(300)
QUICK_DOWN = {"scaleDown": {"stabilizationWindowSeconds": 5}}


async def test_one_replica_becomes_three_under_load_and_one_again(world: ClusterWorld) -> None:
    """Seven clients, always waiting for an answer, are a demand of 7: at 70 % of 4 slots each that is 3 replicas, not 4."""
    await world.model("grows", scaling={"minReplicas": 1, "maxReplicas": 5, "behavior": QUICK_DOWN})
    await world.until_ready("grows", 1)
    counts = set()
    async with world.load("grows", clients=7) as records:
        await world.until_ready("grows", 3)
        before = len(records)

        async def measured() -> bool:
            status = await world.status("grows")
            counts.add(status["desiredReplicas"])
            # 7 of 12 slots are 58 %; a minute's mean on a busy machine comes near that.
            utilization = status["serving"].get("utilizationPercent") or 0
            return status["display"]["ready"] == "3/3" and 50 <= int(utilization) <= 66

        await until("the utilization of three replicas in status", measured)
    assert max(counts) == 3, "more was asked for than demand needs"
    assert not unanswered(records)
    assert len({r.backend for r in records}) == 1
    replicas = {pod["metadata"]["name"] for pod in await world.pods("grows")}
    assert len(replicas) == 3
    assert len(records) > before
    await world.until_ready("grows", 1, timeout=150)


async def test_from_nothing_with_a_first_request_and_to_nothing_when_idle(world: ClusterWorld) -> None:
    await world.model(
        "sleeps",
        env={"SIM_STARTUP_SECONDS": "1"},
        scaling={"minReplicas": 0, "maxReplicas": 2, "idleTimeout": "4s", "behavior": QUICK_DOWN},
    )
    await world.until_condition("sleeps", "Ready", "True ScaledToZero")
    first, second = await asyncio.gather(
        world.chat("sleeps", max_tokens=5), world.chat("sleeps", max_tokens=5, stream=True)
    )
    for answer in (first, second):
        assert (answer.status, answer.headers["x-weir-backend"]) == (200, "local")
    assert int(first.headers["x-weir-queue-ms"]) > 1000, "it cannot have been answered before an engine was up"
    assert second.body.endswith(b"data: [DONE]\n\n")
    await world.until_condition("sleeps", "Ready", "True Serving")
    await world.until_condition("sleeps", "Ready", "True ScaledToZero")
    assert not await world.pods("sleeps")
    shown = world.release.tools.kubectl("get", "mdep", "sleeps", f"--namespace={SPACE}")
    assert "0/0" in shown
