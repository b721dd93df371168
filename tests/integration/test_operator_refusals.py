"""What the API server refuses stops only what it refuses, takes no replica away, and is told in words that fit a condition."""

from __future__ import annotations

import pytest

from testbed.gateway import until
from testbed.operator import OperatorWorld, stays
from weir.kube.errors import Invalid
from weir.kube.resources import REPLICASETS, SERVICES, Json, Resource

pytestmark = pytest.mark.timeout(120)
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 1}
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
UNREADABLE: Json = {"tolerations": [{"key": 5}]}
"""Passed on as it is; the API server answers 400, since a key is text."""


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"env": [{"name": "FOO", "value": 5}]}},
        {"template": {"resources": {"limits": 5}}},
        {"template": {"resources": {"limits": {"memory": "lots"}}}},
        {"template": {"resources": {"requests": {"cpu": True}}}},
    ],
)
async def test_values_of_a_wrong_type_are_refused_when_applied(operators: OperatorWorld, spec: Json) -> None:
    with pytest.raises(Invalid):
        await operators.model(**spec)


async def test_amounts_of_every_notation_are_taken(operators: OperatorWorld) -> None:
    amounts = {"cpu": 2, "memory": "1.5Gi", "example.com/a": "1e3", "example.com/b": "500m"}
    await operators.model(template={"resources": {"limits": amounts, "requests": amounts, "claims": []}})


async def test_the_old_revision_serves_and_scales_while_the_new_one_is_refused(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL, rollout={"strategy": "Replace"})
    await operators.until_ready(1)
    (old,) = await operators.pods()
    good = operators.manifest()["spec"]["template"]
    await operators.change(template=UNREADABLE)
    message = await operators.until_condition("Stalled", "True", "RefusedByApiServer")
    assert "cannot unmarshal number" in message
    await operators.until_condition("Reconciling", "False", "Stalled")

    async def serves() -> bool:
        return bool((await operators.pods())[0]["metadata"]["uid"] == old["metadata"]["uid"])

    await stays("the old replica", serves, 2)
    await operators.change(replicas=2)
    await operators.until_ready(2)
    await operators.change(template=good)
    await operators.until_condition("Stalled", "False", "Progressing")


async def test_an_object_that_weir_trips_over_says_so(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL, template={"volumes": [{"name": 5, "hostPath": {"path": "/"}}]})
    assert "TypeError" in await operators.until_condition("Stalled", "True", "InternalError")
    assert '"event":"cannot act"' in operator.log
    await operators.change(template=operators.manifest()["spec"]["template"] | {"volumes": None})
    await operators.until_ready(1)


async def test_a_taken_service_name_keeps_no_replica_back(operators: OperatorWorld) -> None:
    metadata = {"name": "m", "namespace": operators.namespace}
    await operators.kube.create(SERVICES, {"metadata": metadata, "spec": {"ports": [{"port": 1}]}})
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_condition("Stalled", "True", "NameTaken")
    await operators.until_ready(1)
    await operators.change(replicas=2)
    await operators.until_ready(2)


@pytest.mark.parametrize("resource", [SERVICES, REPLICASETS], ids=["Service", "ReplicaSet"])
@pytest.mark.parametrize("label", ["weir.dev/model", "app.kubernetes.io/managed-by"])
async def test_labels_taken_from_a_child_come_back(operators: OperatorWorld, resource: Resource, label: str) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(1)
    name = "m" if resource is SERVICES else f"m-{(await operators.status())['revision']}"
    before = await operators.kube.get(resource, operators.namespace, name)
    taken = {"metadata": {"labels": {label: None}}}
    await operators.kube.patch(resource, operators.namespace, name, taken)

    async def back() -> bool:
        now = await operators.kube.get(resource, operators.namespace, name)
        return bool(now["metadata"]["labels"] == before["metadata"]["labels"] and now["spec"] == before["spec"])

    await until("the labels", back)
    await operators.change(replicas=2)
    await operators.until_ready(2)
    await operators.until_condition("Reconciling", "False", "Converged")
    assert (await operator.writes()).get(f"create {resource.plural} 409", 0) <= 5, "it does not hammer at the name"


async def test_a_message_of_any_length_fits_a_condition(operators: OperatorWorld) -> None:
    await operators.operator()
    mounts = [{"name": f"nowhere-{n}-{'x' * 40}", "mountPath": f"/{n}"} for n in range(400)]
    await operators.model(**MANUAL, template={"volumeMounts": mounts})
    message = await operators.until_condition("Stalled", "True", "RefusedByApiServer")
    assert "nowhere-0" in message
    assert len(message) < 1000


async def test_an_exhausted_quota_is_no_missing_right(operators: OperatorWorld) -> None:
    hard = {"hard": {"count/replicasets.apps": "0"}}
    quota: Json = {"metadata": {"name": "q", "namespace": operators.namespace}, "spec": hard}
    await operators.kube.create(QUOTAS, quota)
    full = {"status": hard | {"used": {"count/replicasets.apps": "0"}}}
    await operators.kube.patch(QUOTAS, operators.namespace, "q", full, subresource="status")
    await operators.operator()
    await operators.model(**MANUAL)
    message = await operators.until_condition("Stalled", "True", "QuotaExceeded")
    assert "exceeded quota: q" in message


async def test_a_restart_of_the_replica_that_serves_is_no_reason_to_bet_on_a_broken_revision(
    operators: OperatorWorld,
) -> None:
    await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(1)
    good = (await operators.status())["revision"]
    (old,) = await operators.pods()
    operators.node.startup_seconds = 600  # the new revision does not come up
    await operators.change(engine={"args": ["--enforce-eager"]})

    async def begun() -> bool:
        return len(await operators.pods()) == 2

    await until("the first replica of the new revision", begun)
    crashed = {"reason": "Error", "exitCode": 1}
    operators.node.faults[good] = {
        "started": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": crashed},
        "restartCount": 1,
    }
    await operators.until_condition("Ready", "False", "Starting")

    async def kept() -> bool:
        return old["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in await operators.pods()}

    await stays("the replica that served", kept, 3)
