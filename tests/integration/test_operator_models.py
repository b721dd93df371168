"""ModelDeployments from creation to deletion: a real operator process, API server, ReplicaSet controller and scheduler."""

from __future__ import annotations

import asyncio
import time

import pytest

from testbed.gateway import until
from testbed.operator import OperatorProcess, OperatorWorld
from weir.kube.resources import MODELDEPLOYMENTS, PODS, REPLICASETS, SERVICES, Json

pytestmark = pytest.mark.timeout(120)
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 2}


async def quiet(operator: OperatorProcess, seconds: float) -> dict[str, float]:
    """Its writes, once none has been made for that long."""
    before, since = await operator.writes(), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.2)
        now = await operator.writes()
        if now != before:
            before, since = now, time.monotonic()
    return before


async def test_a_model_becomes_ready(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    assert await operators.until_condition("Ready", "True", "Serving") == "2 of 2 replicas are Ready"
    status = await operators.status()
    assert status["display"]["ready"] == "2/2"
    assert status["url"] == f"http://m.{operators.namespace}.svc"
    service = await operators.kube.get(SERVICES, operators.namespace, "m")
    pod = (await operators.pods())[0]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["nodeName"] == operators.node.name
    assert pod["metadata"]["annotations"]["weir.dev/max-concurrency"] == "10"


async def test_nothing_is_written_once_it_has_converged(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    before = await quiet(operator, 2)
    assert before == {**before, "create services 201": 1, "create replicasets 201": 1}
    # A whole new pass over everything, caused by a change that shapes nothing.
    await operators.kube.patch(MODELDEPLOYMENTS, operators.namespace, "m", {"metadata": {"annotations": {"note": "x"}}})
    assert await quiet(operator, 3) == before
    refused = {name for name in before if not name.endswith((" 200", " 201"))}
    assert not refused
    mdep = await operators.kube.get(MODELDEPLOYMENTS, operators.namespace, "m")
    assert "finalizers" not in mdep["metadata"]
    assert list(mdep["metadata"]["annotations"]) == ["note"]


@pytest.mark.parametrize("spec", [MANUAL, {"scaling": {"minReplicas": 2, "maxReplicas": 4}}], ids=["manual", "scaled"])
async def test_a_restarted_operator_writes_nothing(operators: OperatorWorld, spec: Json) -> None:
    operator = await operators.operator()
    await operators.gateway()
    await operators.model(**spec)
    await operators.until_ready(2)
    await quiet(operator, 2)
    assert operator.stop() == 0
    again = await operators.operator()
    assert await quiet(again, 3) == {}


async def test_children_removed_by_hand_come_back(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    replica_set = (await operators.replica_sets())[0]["metadata"]["name"]
    for resource, name in ((SERVICES, "m"), (REPLICASETS, replica_set)):
        old = await operators.kube.get(resource, operators.namespace, name)
        await operators.kube.delete(resource, operators.namespace, name)

        async def renewed(resource=resource, name=name, old=old) -> bool:  # type: ignore[no-untyped-def]
            found = await operators.get(resource, name)
            return found is not None and found["metadata"]["uid"] != old["metadata"]["uid"]

        await until(f"{name} to come back", renewed)
    await operators.until_ready(2)
    pod = (await operators.pods())[0]["metadata"]["name"]
    await operators.kube.delete(PODS, operators.namespace, pod)

    async def replaced() -> bool:
        names = {p["metadata"]["name"] for p in await operators.pods()}
        return len(names) == 2 and pod not in names

    await until("the pod to be replaced", replaced)
    await operators.until_ready(2)


async def test_a_service_changed_by_hand_is_put_right(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    await operators.kube.patch(SERVICES, operators.namespace, "m", {"spec": {"selector": {"app": "other"}}})

    async def healed() -> bool:
        service = await operators.kube.get(SERVICES, operators.namespace, "m")
        return "app" not in service["spec"]["selector"] and "weir.dev/model" in service["spec"]["selector"]

    await until("the selector to be put right", healed)


async def test_manual_scale_through_the_scale_subresource(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    for count in (4, 1, 0):
        scale = {"spec": {"replicas": count}}
        await operators.kube.patch(MODELDEPLOYMENTS, operators.namespace, "m", scale, subresource="scale")
        await operators.until_ready(count)
    await operators.until_condition("Ready", "True", "ScaledToZero")


async def test_deletion_removes_everything(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    await operators.kube.delete(MODELDEPLOYMENTS, operators.namespace, "m")

    async def gone() -> bool:
        left = [
            await operators.kube.list(kind, operators.namespace, label_selector="weir.dev/model=m")
            for kind in (PODS, REPLICASETS, SERVICES)
        ]
        return not any(found.items for found in left)

    await until("the children to go", gone)
    assert not any(f'model="m",namespace="{operators.namespace}"' in name for name in await operator.metrics())


async def test_a_rollout_replaces_one_replica_at_a_time(operators: OperatorWorld) -> None:
    await operators.operator()
    operators.node.startup_seconds = 0.3
    await operators.model(**MANUAL | {"replicas": 3})
    await operators.until_ready(3)
    old = (await operators.status())["revision"]
    await operators.change(engine={"args": ["--enforce-eager"]})
    least, most = 3, 3

    async def done() -> bool:
        nonlocal least, most
        pods = await operators.pods()
        ready = [
            p
            for p in pods
            if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ()))
        ]
        least, most = min(least, len(ready)), max(most, len(pods))
        revisions = {p["metadata"]["labels"]["weir.dev/revision"] for p in pods}
        return len(ready) == len(pods) == 3 and old not in revisions

    await until("the rollout", done, timeout=30)
    assert (least, most) == (3, 4)

    async def one_left() -> bool:
        return len(await operators.replica_sets()) == 1

    await until("the old ReplicaSet to go", one_left)
    await operators.until_condition("Reconciling", "False", "Converged")


async def test_a_moment_of_sickness_in_a_rollout_costs_no_replica(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    old = {pod["metadata"]["uid"] for pod in await operators.pods()}
    operators.node.sick = True
    await operators.until_condition("Ready", "False", "Starting")
    await operators.change(engine={"args": ["--enforce-eager"]})

    async def begun() -> bool:
        return len(await operators.pods()) == 3

    await until("the first replica of the new revision", begun)
    assert old <= {pod["metadata"]["uid"] for pod in await operators.pods()}
    operators.node.sick = False
    await operators.until_ready(2)


async def test_a_broken_revision_leaves_the_old_one_serving_and_a_fix_heals(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    good = (await operators.status())["revision"]
    crash = {"reason": "Error", "exitCode": 1, "message": "INFO starting\nValueError: unknown flag --nonsense\n"}
    words = {"reason": "CrashLoopBackOff", "message": "back-off"}

    async def break_it() -> bool:
        revision = (await operators.status()).get("revision")
        if revision == good:
            return False
        operators.node.faults[str(revision)] = {
            "state": {"waiting": words},
            "lastState": {"terminated": crash},
            "restartCount": 3,
        }
        return True

    operators.node.startup_seconds = 3.0  # of the new ones: until their fault is set
    await operators.change(engine={"args": ["--nonsense"]})
    await until("the new revision", break_it)
    message = await operators.until_condition("Stalled", "True", "EngineCrashed")
    assert "exit code 1" in message
    assert "ValueError: unknown flag --nonsense" in message
    ready = await operators.until_condition("Ready", "True", "Serving")
    assert "ValueError" in ready
    pods = [p["metadata"]["labels"]["weir.dev/revision"] for p in await operators.pods()]
    assert pods.count(good) == 2
    await operators.change(engine={"args": []})
    await operators.until_condition("Stalled", "False", "Progressing")
    await operators.until_ready(2)
    assert {p["metadata"]["labels"]["weir.dev/revision"] for p in await operators.pods()} == {good}
