"""What only the cluster can know becomes a condition with the evidence in it, and goes away with its cause."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from testbed.gateway import until
from testbed.operator import OperatorWorld
from weir.kube.resources import EVENTS, MODELDEPLOYMENTS, REPLICASETS, SECRETS, SERVICES, Json

pytestmark = pytest.mark.timeout(120)
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 1}
CRASHED: Json = {"reason": "Error", "exitCode": 1, "message": "INFO up\nValueError: no such quantization: int3\n"}


async def break_pods(operators: OperatorWorld, fault: Json) -> None:
    """The pods of the current revision meet `fault`."""

    async def revision() -> str:
        found: str = (await operators.status()).get("revision", "")
        return found

    operators.node.faults[await until("a revision", revision)] = fault


async def said(operators: OperatorWorld, reason: str, name: str = "m") -> list[str]:
    """Notes of the Events with that reason."""
    events = (await operators.kube.list(EVENTS, operators.namespace)).items
    return [e["note"] for e in events if e["reason"] == reason and e["regarding"]["name"] == name]


async def test_no_node_with_that_accelerator(operators: OperatorWorld) -> None:
    await operators.operator()
    operators.node.startup_seconds = 0
    await operators.model(**MANUAL, accelerator={"product": "NVIDIA-B300"})
    message = await operators.until_condition("CapacityAvailable", "False", "Unschedulable")
    assert "didn't match Pod's node affinity/selector" in message, "the scheduler's words"
    assert "No node with nvidia.com/gpu has nvidia.com/gpu.product=NVIDIA-B300; there are: TEST-GPU" in message
    assert await operators.until_condition("Ready", "False", "Unschedulable") == message
    await operators.change(accelerator={"product": "TEST-GPU"})
    await operators.until_condition("CapacityAvailable", "True", "Scheduled")
    await operators.until_ready(1)


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": CRASHED}, "restartCount": 4},
            "EngineCrashed",
            "exit code 1 (Error), restarted 4 times: ValueError: no such quantization: int3",
        ),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}}},
            "ImagePullFailed",
            "ImagePullBackOff: Back-off pulling image: not found",
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                "restartCount": 1,
            },
            "OutOfMemory",
            "raise spec.template.resources.limits.memory",
        ),
        (
            {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "big" not found'}}},
            "SecretMissing",
            'secret "big" not found',
        ),
    ],
)  # fmt: skip
async def test_an_engine_that_does_not_start(operators: OperatorWorld, fault: Json, reason: str, words: str) -> None:
    operators.node.startup_seconds = 5
    await operators.operator()
    await operators.model(**MANUAL)
    await break_pods(operators, fault)
    assert words in await operators.until_condition("Ready", "False", reason)
    await operators.until_condition("Stalled", "True", reason)

    async def told() -> bool:
        return any(words in note for note in await said(operators, reason))

    await until("an Event that says so", told)
    operators.node.faults.clear()
    await operators.until_condition("Ready", "True", "Serving")
    await operators.until_condition("Stalled", "False", "Progressing")


async def test_a_missing_token(operators: OperatorWorld) -> None:
    await operators.operator()
    model = {"source": "hf://org/m", "credentials": {"secretRef": {"name": "hf"}}}
    operators.node.startup_seconds = 60
    await operators.model(**MANUAL, model=model)
    message = await operators.until_condition("Stalled", "True", "SecretMissing")
    assert message == f"spec.model.credentials.secretRef: there is no Secret hf in namespace {operators.namespace}"
    secret: Json = {"metadata": {"name": "hf", "namespace": operators.namespace}, "stringData": {"TOKEN": "x"}}
    await operators.kube.create(SECRETS, secret)
    assert "Secret hf has no key HF_TOKEN" in await operators.until_condition("Stalled", "True", "SecretKeyMissing")
    await operators.kube.patch(SECRETS, operators.namespace, "hf", {"stringData": {"HF_TOKEN": "hf_secretsecret"}})
    await operators.until_condition("Stalled", "False", "Progressing")


async def test_host_paths_are_refused_and_allowed_by_a_flag(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL, model={"source": "file:///srv/models/m"})
    message = await operators.until_condition("Stalled", "True", "HostPathNotAllowed")
    assert "--allow-host-paths" in message
    assert await operators.replica_sets() == []
    assert operator.stop() == 0
    await operators.operator("--allow-host-paths")
    await operators.until_ready(1)


@pytest.mark.parametrize("resource", [SERVICES, REPLICASETS], ids=["Service", "ReplicaSet"])
async def test_a_name_that_is_somebody_elses(operators: OperatorWorld, resource: object) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(1)
    revision = (await operators.status())["revision"]
    name = "m" if resource is SERVICES else f"m-{revision}"
    operator.kill()
    await operators.kube.delete(MODELDEPLOYMENTS, operators.namespace, "m")

    async def gone() -> bool:
        return await operators.get(SERVICES, name) is None and await operators.get(REPLICASETS, name) is None

    await until("the name to be free", gone)
    kind = SERVICES if resource is SERVICES else REPLICASETS
    spec: Json = {"ports": [{"port": 1}]}
    if kind is REPLICASETS:
        labels = {"app": "other"}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
        spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    theirs = await operators.kube.create(
        kind, {"metadata": {"name": name, "namespace": operators.namespace}, "spec": spec}
    )
    await operators.operator()
    await operators.model(**MANUAL)
    message = await operators.until_condition("Stalled", "True", "NameTaken")
    assert f"{kind.kind} {name} is not Weir's" in message
    left = await operators.kube.get(kind, operators.namespace, name)
    assert left["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert left["spec"] == theirs["spec"], "nothing of somebody else's is touched"
    await operators.kube.delete(kind, operators.namespace, name)
    await operators.until_condition("Stalled", "False", "Progressing", timeout=30)
    await operators.until_ready(1)


async def test_the_younger_claim_to_a_name_loses(operators: OperatorWorld) -> None:
    await operators.operator()
    older = await operators.model("older", **MANUAL, model={"source": "hf://org/m", "servedNames": ["gpt", "one"]})

    made = datetime.fromisoformat(older["metadata"]["creationTimestamp"])

    async def a_second_later() -> bool:  # and one more, since the server's clock is known to within half a second
        return operators.kube.server_now() - made > timedelta(seconds=2)

    await until("the clock to move on, so that there is an elder", a_second_later)
    await operators.model("younger", **MANUAL, model={"source": "hf://org/m", "servedNames": ["gpt"]})
    message = await operators.until_condition("Stalled", "True", "NameTaken", name="younger")
    assert "gpt belongs to the older ModelDeployment older" in message
    await operators.until_condition("Ready", "False", "NameTaken", name="younger")
    await operators.until_condition("Ready", "True", "Serving", name="older")
    await operators.kube.delete(MODELDEPLOYMENTS, operators.namespace, "older")
    await operators.until_condition("Ready", "True", "Serving", name="younger")
    await operators.until_condition("Stalled", "False", "Progressing", name="younger")


async def test_pods_that_the_api_server_refuses(operators: OperatorWorld) -> None:
    await operators.operator()
    template = operators.manifest()["spec"]["template"] | {"serviceAccountName": "nobody"}
    await operators.model(**MANUAL, template=template)
    message = await operators.until_condition("Stalled", "True", "PodsRefused")
    assert 'serviceaccount "nobody" not found' in message
    await operators.change(template={"serviceAccountName": None})
    await operators.until_ready(1)


async def test_what_the_api_server_calls_invalid(operators: OperatorWorld) -> None:
    await operators.operator()
    volumes = {"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}
    await operators.model(**MANUAL, template=operators.manifest()["spec"]["template"] | volumes)
    message = await operators.until_condition("Stalled", "True", "RefusedByApiServer")
    assert 'volumeMounts[2].name: Not found: "nowhere"' in message
    await operators.change(template={"volumeMounts": None})
    await operators.until_ready(1)
