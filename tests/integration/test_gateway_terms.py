"""A request that waits goes by what its model's owner allows now, not by what held when it came."""

from __future__ import annotations

import asyncio
import time

from testbed.gateway import World, until
from weir.gateway.life import RECONSIDER_SECONDS
from weir.kube.resources import MODELDEPLOYMENTS, Key

HOLD_SECONDS = 4


async def test_a_budget_that_is_cut_binds_those_who_wait_already(world: World) -> None:
    await world.provider(world.frontier())
    overflow = {
        "targets": [{"providerRef": {"name": "p"}, "model": "big"}],
        "holdTime": f"{HOLD_SECONDS}s",
        "budget": {"usdPerDay": "50"},
    }
    await world.model(slots=1, queue={"maxWait": "60s"}, overflow=overflow)
    await world.ledger("ModelDeployment", "m")
    await world.replica("--sim-time-scale=1", slots=1)
    running = await world.gateway()
    await world.ready(running)
    assert running.gateway is not None
    till, registry = running.gateway.till, running.gateway.registry
    spilled = await running.chat(max_tokens=5, headers={"x-weir-overflow": "only"})
    assert spilled.backend == "frontier", "the budget of before covers it"

    key = Key(world.namespace, "m")
    streaming = asyncio.create_task(running.chat(stream=True, max_tokens=4000, ignore_eos=True))
    await until("the slot to be taken", lambda: registry.models[key].report().in_flight)
    held = asyncio.create_task(running.chat(max_tokens=5))
    began = time.monotonic()
    await until("the other to wait", lambda: registry.models[key].queue_length)
    cut = {"spec": {"overflow": {"budget": {"usdPerDay": "0.000001"}}}}
    await world.kube.patch(MODELDEPLOYMENTS, world.namespace, "m", cut)
    (account,) = till.accounts.values()
    await until("the new limit to be in force", lambda: account.budget.limit == 1)
    assert time.monotonic() - began < HOLD_SECONDS, "it has not been time to spill so far"
    await until("the time to spill", lambda: time.monotonic() - began > HOLD_SECONDS + 2 * RECONSIDER_SECONDS)
    assert not held.done(), "there is no money for it to leave"
    assert account.budget.limit == 1
    streaming.cancel()
    assert ((await held).status, (await held).backend) == (200, "local")
