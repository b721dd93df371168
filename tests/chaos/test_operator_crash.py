"""The operator dies at the worst moments; what comes out is what an operator that never died would have made."""

from __future__ import annotations

import signal
import time

import pytest

from testbed.gateway import until
from testbed.operator import OperatorWorld, stays
from weir.kube.resources import MODELDEPLOYMENTS, Json

pytestmark = pytest.mark.timeout(180)
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 3}
TAKEOVER = 40
"""Seconds: a killed leader's Lease runs out after 15."""


def revision(replica_set: Json) -> str:
    found: str = replica_set["metadata"]["labels"]["weir.dev/revision"]
    return found


async def test_killed_in_the_middle_of_scaling_up(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    gateway = await operators.gateway()
    model = f"{operators.namespace}/m"
    gateway.set(model, local=7)
    await operators.model(scaling={"maxReplicas": 8, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}})
    await operators.until_ready(1)
    operators.node.startup_seconds = 8
    gateway.set(model, local=10, queued=25)

    async def asked() -> int:
        return sum(rs["spec"]["replicas"] for rs in await operators.replica_sets())

    async def growing() -> bool:
        return await asked() > 1

    await until("more replicas to be asked for", growing)
    operator.kill()
    reached, before = await asked(), {pod["metadata"]["uid"] for pod in await operators.pods()}

    async def kept() -> bool:
        return await asked() >= reached

    await operators.operator()
    await stays("what was asked for", kept, 5)
    await operators.until_ready(5, timeout=TAKEOVER)  # 35 slots of demand / (0.7 x 10)
    assert before <= {pod["metadata"]["uid"] for pod in await operators.pods()}, "no replica was made twice"
    assert len(await operators.replica_sets()) == 1


async def test_killed_in_the_middle_of_a_rollout_twice(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(3)
    old = (await operators.status())["revision"]
    operators.node.startup_seconds = 1
    await operators.change(engine={"args": ["--enforce-eager"]})
    for new in (1, 2):

        async def reached(new: int = new) -> bool:
            sets = await operators.replica_sets()
            asked: int = sum(rs["spec"]["replicas"] for rs in sets if revision(rs) != old)
            return asked >= new

        await until(f"{new} new replicas to be asked for", reached, timeout=TAKEOVER)
        operator.kill()
        operator = await operators.operator()

    async def done() -> bool:
        sets = await operators.replica_sets()
        return old not in {revision(rs) for rs in sets}

    await until("the rollout", done, timeout=TAKEOVER)
    await operators.until_ready(3)
    await operators.until_condition("Reconciling", "False", "Converged")


async def test_a_model_changed_deleted_and_made_while_nobody_looked(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    for name in ("changed", "deleted", "made-again"):
        await operators.model(name, **MANUAL | {"replicas": 1})
    for name in ("changed", "deleted", "made-again"):
        await operators.until_ready(1, name)
    operator.kill()
    before = (await operators.kube.get(MODELDEPLOYMENTS, operators.namespace, "made-again"))["metadata"]["uid"]
    await operators.change("changed", replicas=2)
    for name in ("deleted", "made-again"):
        await operators.kube.delete(MODELDEPLOYMENTS, operators.namespace, name)
    await operators.model("made-again", **MANUAL | {"replicas": 2})
    await operators.operator()
    await operators.until_ready(2, "changed", timeout=TAKEOVER)
    await operators.until_ready(2, "made-again", timeout=TAKEOVER)
    owners = {
        ref["uid"] for rs in await operators.replica_sets("made-again") for ref in rs["metadata"]["ownerReferences"]
    }
    assert owners
    assert before not in owners, "its predecessor's replicas were not adopted"
    assert await operators.pods("deleted") == []


async def test_two_operators_and_one_of_them_works(operators: OperatorWorld) -> None:
    leader = await operators.operator()
    standby = await operators.operator(leads=False)
    await operators.model(**MANUAL)
    await operators.until_ready(3)
    await until("the second to stand by", lambda: "waits for the Lease" in standby.log)
    assert await standby.writes() == {}
    assert not standby.leads
    leader.kill()
    killed = time.monotonic()
    await operators.change(replicas=4)
    await until("the second to lead", lambda: standby.leads, timeout=TAKEOVER)
    assert time.monotonic() - killed > 5, "not before the dead leader could have stopped by itself"
    await operators.until_ready(4)


async def test_a_leader_that_stops_in_order_is_followed_at_once(operators: OperatorWorld) -> None:
    leader = await operators.operator()
    standby = await operators.operator(leads=False)
    began = time.monotonic()
    assert leader.stop() == 0
    await until("the second to lead", lambda: standby.leads, timeout=10)
    assert time.monotonic() - began < 10


async def test_a_frozen_leader_writes_nothing_when_it_thaws(operators: OperatorWorld) -> None:
    frozen = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(3)
    frozen.process.send_signal(signal.SIGSTOP)
    follower = await operators.operator(leads=False)
    await until("the follower to lead", lambda: follower.leads, timeout=TAKEOVER)
    await operators.change(replicas=1)
    await operators.until_ready(1)
    frozen.process.send_signal(signal.SIGCONT)
    assert frozen.process.wait(20) == 1, "it has lost its Lease, and ends"
    await operators.until_ready(1)
