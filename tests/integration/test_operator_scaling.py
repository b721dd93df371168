"""Demand as gateways tell it, and the replicas that follow: real operator, API server, ReplicaSet controller and scheduler."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testbed.gateway import until
from testbed.operator import LoadGateway, OperatorWorld, stays
from weir.kube.resources import Json

pytestmark = pytest.mark.timeout(180)
QUICK_DOWN: Json = {"scaleDown": {"stabilizationWindowSeconds": 5}}


def scaling(low: int, high: int, **more: object) -> Json:
    return {"scaling": {"minReplicas": low, "maxReplicas": high, "behavior": QUICK_DOWN, **more}}


async def desired(operators: OperatorWorld) -> int:
    """Over all ReplicaSets, as asked for."""
    return sum(rs["spec"]["replicas"] for rs in await operators.replica_sets())


async def is_desired(operators: OperatorWorld, count: int) -> bool:
    return await desired(operators) == count


def load(operators: OperatorWorld, gateway: LoadGateway, **slots: Any) -> None:
    gateway.set(f"{operators.namespace}/m", **slots)


async def test_three_times_the_demand_is_acted_on_within_five_seconds(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=14)  # two replicas of ten slots at 70 %
    await operators.model(**scaling(1, 12))
    await operators.until_ready(2)
    await stays("two replicas", lambda: is_desired(operators, 2), 5)  # a steady state to step from
    operators.node.startup_seconds = 30  # what was asked for is what counts, not what is up
    stepped = time.monotonic()
    load(operators, gateway, local=20, queued=12, spilling=10)

    async def more() -> bool:
        return await desired(operators) > 2

    await until("more replicas to be asked for", more, timeout=10)
    assert time.monotonic() - stepped < 5

    # 42 slots of demand / (0.7 x 10); replicas that still start are supply, so nothing is asked for twice
    await until("six replicas to be asked for", lambda: is_desired(operators, 6), timeout=60)
    await stays("six replicas", lambda: is_desired(operators, 6), 3)


async def test_down_again_after_the_window_and_status_tells(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=28)
    await operators.model(**scaling(1, 12), overflow={"targets": [{"providerRef": {"name": "p"}, "model": "x"}]})
    await operators.until_ready(4)
    requests = {"local": {"slot-free": 60}, "frontier": {"saturated": 20}}
    load(operators, gateway, local=28, requests=requests)

    async def told() -> bool:
        status = await operators.status()
        return (
            status["display"]["utilization"] in ("68%", "69%", "70%", "71%")
            and status["serving"]["signal"] == "gateways"
        )

    await until("the utilization in status", told, timeout=60)
    await operators.until_condition("MetricsAvailable", "True", "GatewaysAnswer")
    await operators.until_condition("ScalingActive", "True", "Utilization")
    await operators.until_condition("Overflowing", "True", "Spilling")
    load(operators, gateway, local=4)
    await operators.until_ready(1, timeout=100)


async def test_the_fullest_replica_stays(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    gateway = await operators.gateway()
    await operators.model(**scaling(3, 3))
    await operators.until_ready(3)
    busy = sorted(pod["metadata"]["name"] for pod in await operators.pods())[-1]
    load(operators, gateway, local=3, in_flight={busy: 3})

    async def known() -> bool:
        return any("demand_slots" in name and value for name, value in (await operator.metrics()).items())

    await until("the operator to know who is busy", known)
    await operators.change(**scaling(1, 1))
    await operators.until_ready(1)
    assert [pod["metadata"]["name"] for pod in await operators.pods()] == [busy]


async def test_to_zero_when_idle_and_back_on_the_first_request(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=1)
    await operators.model(**scaling(0, 4, idleTimeout="3s"))
    await operators.until_ready(1)
    load(operators, gateway, local=0)
    await operators.until_ready(0, timeout=100)
    await operators.until_condition("Ready", "True", "ScaledToZero")
    asked = time.monotonic()
    load(operators, gateway, queued=1)

    await until("a replica to be asked for", lambda: is_desired(operators, 1))
    assert time.monotonic() - asked < 5
    await operators.until_ready(1)


async def test_a_gateway_that_restarts_ends_no_idle_time(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=1)
    await operators.model(**scaling(0, 4, idleTimeout="15s"))
    await operators.until_ready(1)
    await stays("one replica, for longer than the idle time", lambda: is_desired(operators, 1), 16)
    load(operators, gateway, local=1)  # the latest request
    await stays("one replica, while the operator asks at least once", lambda: is_desired(operators, 1), 3)
    gateway.restart()
    await stays("one replica", lambda: is_desired(operators, 1), 10)
    await operators.until_ready(0, timeout=60)


async def test_nothing_goes_while_demand_is_unknown(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=21)
    await operators.model(**scaling(1, 8))
    await operators.until_ready(3)
    gateway.answers = False
    await operators.until_condition("MetricsAvailable", "False", "GatewaysSilent", timeout=40)
    message = await operators.until_condition("ScalingActive", "False", "SignalMissing", timeout=40)
    assert "held" in message
    await stays("three replicas, for longer than the scale-down window", lambda: is_desired(operators, 3), 8)
    gateway.answers = True
    await operators.until_condition("MetricsAvailable", "True", "GatewaysAnswer")


async def test_without_gateways_the_minimum_runs(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**scaling(2, 8))
    await operators.until_ready(2)
    await operators.until_condition("MetricsAvailable", "False", "NoGateway")


async def test_at_the_maximum_the_condition_says_so(operators: OperatorWorld) -> None:
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=20, queued=40)
    await operators.model(**scaling(1, 2))
    await operators.until_ready(2)
    assert "maxReplicas" in await operators.until_condition("ScalingLimited", "True", "TooManyReplicas")


async def test_no_more_is_asked_for_than_may_wait_for_a_node(operators: OperatorWorld) -> None:
    operators.node.gpus = 2
    await operators.node.beat()
    await operators.operator()
    gateway = await operators.gateway()
    load(operators, gateway, local=20, queued=80)
    await operators.model(**scaling(1, 20, maxPending=3))
    message = await operators.until_condition("CapacityAvailable", "False", "Unschedulable", timeout=40)
    assert "Insufficient nvidia.com/gpu" in message

    # two on the node, three that wait
    await until("five replicas to be asked for", lambda: is_desired(operators, 5), timeout=40)
    await operators.until_condition("ScalingLimited", "True", "CapacityExhausted")
    operators.node.gpus = 16
    await operators.node.beat()
    await operators.until_condition("CapacityAvailable", "True", "Scheduled", timeout=60)


async def test_minimum_and_maximum_are_kept_when_they_change(operators: OperatorWorld) -> None:
    await operators.operator()
    load(operators, await operators.gateway(), local=14)
    await operators.model(**scaling(1, 8))
    await operators.until_ready(2)
    await operators.change(scaling={"minReplicas": 3})
    await operators.until_ready(3)
    await operators.change(scaling={"minReplicas": 1, "maxReplicas": 1})
    await operators.until_ready(1)
