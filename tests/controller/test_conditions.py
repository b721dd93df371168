"""What is said of a model: the evidence about its replicas, its conditions, its status and when that is worth a write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weir.api.modeldeployment import ModelDeployment, ModelDeploymentStatus
from weir.controller import evidence
from weir.controller.conditions import Facts, ScalingView, changed, conditions
from weir.controller.evidence import Evidence
from weir.controller.observed import ContainerTrouble, NodeView, PodView
from weir.controller.spill import Availability
from weir.controller.status import build, to_apply, urgent
from weir.scaling.policy import Limit, Reason

NOW, LATER = "2026-11-21T10:00:00Z", "2026-11-21T10:00:05Z"


def model(**spec: Any) -> ModelDeployment:
    body = {"model": {"source": "hf://org/m"}} | spec
    metadata = {"name": "m", "namespace": "n", "uid": "u", "generation": 4}
    return ModelDeployment.from_object({"metadata": metadata, "spec": body})


def pod(name: str = "p", **changes: Any) -> PodView:
    made = PodView(
        "n", name, "uid", "m", "r", "rs", "2026-01-01T00:00:00Z", "Pending",
        ready=False, scheduled=True, unschedulable="", deleting=False, marked=False,
    )  # fmt: skip
    return replace(made, **changes)


def container(**parts: Any) -> PodView:
    return pod(container=ContainerTrouble(**parts))


CRASH = container(
    waiting="CrashLoopBackOff", ended="Error", exit_code=1, restarts=2, last_words="up\nValueError: bad dtype\n"
)
OOM = container(ended="OOMKilled", exit_code=137, restarts=1)
PULL = container(waiting="ErrImagePull", waiting_message="manifest unknown")


@pytest.mark.parametrize(
    ("pods", "reason", "words"),
    [
        ([CRASH], "EngineCrashed", "p: the engine ended with exit code 1 (Error), restarted 2 times: ValueError: bad dtype"),
        ([CRASH, replace(CRASH, name="q")], "EngineCrashed", "p (and 1 replica more): "),
        ([OOM], "OutOfMemory", "limits.memory"),
        ([CRASH, PULL], "ImagePullFailed", "ErrImagePull: manifest unknown"),
        ([container(waiting="CreateContainerConfigError", waiting_message='secret "x" not found')], "SecretMissing", "x"),
        ([container(waiting="CreateContainerConfigError", waiting_message="bad user")], "ContainerNotCreated", "bad user"),
        ([pod(phase="Failed", failure="Evicted: low on memory")], "PodFailed", "Evicted: low on memory"),
    ],
)  # fmt: skip
def test_evidence_of_pods(pods: list[PodView], reason: str, words: str) -> None:
    found = evidence.of_pods(pods)
    assert found is not None
    assert found.reason == reason
    assert words in found.message


EVICTED = pod("evicted", phase="Failed", failure="Evicted: low on memory", created="2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ({}, True),  # nobody took it yet: a node that refuses pods makes one every second
        ({"phase": "Running"}, False),
        ({"container": ContainerTrouble(waiting="ContainerCreating")}, False),
        ({"unschedulable": "0/1 nodes"}, False),
        ({"phase": "Running", "deleting": True}, True),
        ({"phase": "Failed", "failure": "OutOfgpu"}, True),
        ({"phase": "Running", "created": "2025-12-31T00:00:00Z"}, True),
    ],
)
def test_a_failed_pod_is_told_of_until_a_later_one_gets_further(later: dict[str, Any], told: bool) -> None:
    other = replace(pod("later", created="2026-01-01T00:00:09Z"), **later)
    assert bool(evidence.of_pods([EVICTED, other])) is told


@pytest.mark.parametrize("fine", [pod(), pod(ready=True), replace(CRASH, ready=True), replace(CRASH, deleting=True)])
def test_no_evidence_against_a_replica_that_starts_serves_or_goes(fine: PodView) -> None:
    assert evidence.of_pods([fine]) is None


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("INFO loading\nbye\n", "bye"),
        ("ValueError: x\n  at y\nINFO down", "ValueError: x"),
        (
            "torch.OutOfMemoryError: CUDA out of memory\nRuntimeError: Engine core initialization failed. See root cause above.",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("vllm serve: error: unrecognized arguments: --x", "vllm serve: error: unrecognized arguments: --x"),
        ("OSError: bad token hf_abcdefghijklmnop", "OSError: bad token [redacted]"),
    ],
)
def test_the_line_of_a_log_that_tells_most(log: str, line: str) -> None:
    assert evidence.last_line(log) == line


def test_a_long_line_is_cut() -> None:
    assert len(evidence.last_line("Error: " + "x" * 5000)) == evidence.LONGEST


NODES = [
    NodeView("a", {"nvidia.com/gpu.product": "A100"}, {"nvidia.com/gpu": "8"}),
    NodeView("b", {"nvidia.com/gpu.product": "L4"}, {"nvidia.com/gpu": "0"}),
]


@pytest.mark.parametrize(
    ("accelerator", "nodes", "hint"),
    [
        ({"product": "H100"}, NODES, " No node with nvidia.com/gpu has nvidia.com/gpu.product=H100; there are: A100."),
        ({"product": "A100"}, NODES, ""),
        ({}, NODES, ""),
        ({"resource": "amd.com/gpu"}, NODES, " No node has amd.com/gpu."),
        ({"product": "H100"}, [], ""),
    ],
)
def test_evidence_of_capacity(accelerator: dict[str, str], nodes: list[NodeView], hint: str) -> None:
    waiting = pod(unschedulable="0/2 nodes are available", scheduled=False)
    found = evidence.of_capacity(model(accelerator=accelerator), [waiting, pod()], nodes)
    assert found == Evidence("Unschedulable", f"1 replica without a node: 0/2 nodes are available{hint}")


def facts(**changes: Any) -> Facts:
    base = Facts(model(), "r", desired=2, replicas=2, ready=2, ready_now=2, rolled_out=True)
    return replace(base, **changes)


NONE_UP = {"ready": 0, "ready_now": 0}
TROUBLE = Evidence("EngineCrashed", "it crashed")
STALLED = Evidence("NameTaken", "taken")
NO_NODE = Evidence("Unschedulable", "no node")
LOST = {"lost_names": (("m", "older"),)}
OLD_SERVES = {"ready": 2, "ready_now": 0, "rolled_out": False, "replicas": 3}


@pytest.mark.parametrize(
    ("seen", "ready", "reconciling", "stalled"),
    [
        (facts(), "True Serving", "False Converged", "False Progressing"),
        (facts(ready=1, ready_now=1), "True Serving", "True Starting", "False Progressing"),
        (facts(**NONE_UP), "False Starting", "True Starting", "False Progressing"),
        (facts(**NONE_UP, trouble=TROUBLE), "False EngineCrashed", "False Stalled", "True EngineCrashed"),
        (facts(ready=1, ready_now=1, trouble=TROUBLE), "True Serving", "True Starting", "False Progressing"),
        (facts(**OLD_SERVES), "True Serving", "True RollingOut", "False Progressing"),
        (facts(**OLD_SERVES, trouble=TROUBLE), "True Serving", "False Stalled", "True EngineCrashed"),
        (facts(**NONE_UP, stalled=STALLED), "False NameTaken", "False Stalled", "True NameTaken"),
        (facts(stalled=STALLED), "True Serving", "False Stalled", "True NameTaken"),
        (facts(**LOST), "False NameTaken", "False Stalled", "True NameTaken"),
        (facts(**NONE_UP, unscheduled=NO_NODE), "False Unschedulable", "True Starting", "False Progressing"),
        (facts(**NONE_UP, secret=TROUBLE), "False EngineCrashed", "False Stalled", "True EngineCrashed"),
        (facts(waiting=Evidence("ViewBehind", "x")), "True Serving", "True ViewBehind", "False Progressing"),
        (facts(desired=1), "True Serving", "True ScalingDown", "False Progressing"),
        (facts(**NONE_UP, desired=0, replicas=0), "True ScaledToZero", "False Converged", "False Progressing"),
        (facts(**NONE_UP, desired=0, replicas=0, secret=TROUBLE), "True ScaledToZero", "False Converged", "False Progressing"),
    ],
)  # fmt: skip
def test_the_three_that_tools_read(seen: Facts, ready: str, reconciling: str, stalled: str) -> None:
    found = {c.type: f"{c.status} {c.reason}" for c in conditions(seen, NOW)}
    assert (found["Ready"], found["Reconciling"], found["Stalled"]) == (ready, reconciling, stalled)


MANUAL = model(scaling={"policy": "Manual"}, replicas=2)


@pytest.mark.parametrize(
    ("seen", "kind", "expected"),
    [
        (facts(scaling=ScalingView(gateways=2, answering=2)), "MetricsAvailable", "True GatewaysAnswer"),
        (facts(scaling=ScalingView(gateways=2, answering=1)), "MetricsAvailable", "True SomeGatewaysSilent"),
        (facts(scaling=ScalingView(gateways=2)), "MetricsAvailable", "False GatewaysSilent"),
        (facts(), "MetricsAvailable", "False NoGateway"),
        (facts(mdep=MANUAL), "MetricsAvailable", "Unknown Manual"),
        (facts(scaling=ScalingView(reason=Reason.SIGNAL_MISSING)), "ScalingActive", "False SignalMissing"),
        (facts(), "ScalingActive", "True Utilization"),
        (facts(mdep=MANUAL), "ScalingActive", "False Manual"),
        (facts(scaling=ScalingView(limit=Limit.MAXIMUM)), "ScalingLimited", "True TooManyReplicas"),
        (facts(mdep=MANUAL, scaling=ScalingView(limit=Limit.MAXIMUM)), "ScalingLimited", "False DesiredWithinRange"),
        (facts(), "ScalingLimited", "False DesiredWithinRange"),
        (facts(scaling=ScalingView(share=0.1)), "Overflowing", "True Spilling"),
        (facts(), "Overflowing", "False NotSpilling"),
        (facts(unscheduled=NO_NODE), "CapacityAvailable", "False Unschedulable"),
        (facts(), "CapacityAvailable", "True Scheduled"),
        (facts(overflow=Availability(available=True, reason="X", message="")), "OverflowAvailable", "True X"),
    ],
)
def test_the_others(seen: Facts, kind: str, expected: str) -> None:
    found = next(c for c in conditions(seen, NOW) if c.type == kind)
    assert f"{found.status} {found.reason}" == expected
    assert found.observed_generation == 4


def status(seen: Facts, now: str = NOW) -> ModelDeploymentStatus:
    return build(seen, None, "", None, now)


def test_the_same_facts_make_the_same_status_later() -> None:
    before = status(facts())
    known = facts().mdep.model_copy(update={"status": before})
    assert status(facts(mdep=known), LATER) == before


def test_transition_times_change_with_the_status_only() -> None:
    known = model().model_copy(update={"status": status(facts())})
    after = {c.type: c.last_transition_time for c in status(facts(mdep=known, **NONE_UP), LATER).conditions}
    assert after["Ready"] == LATER
    assert after["CapacityAvailable"] == NOW


@pytest.mark.parametrize(
    ("seen", "now"),
    [
        (facts(scaling=ScalingView(utilization=0.54, gateways=1, answering=1)), False),
        (facts(scaling=ScalingView(utilization=0.55, gateways=1, answering=1)), True),
        (facts(scaling=ScalingView(utilization=0.5, in_flight=9, queued=3, gateways=1, answering=1)), False),
        (facts(ready=1, ready_now=1, scaling=ScalingView(utilization=0.5, gateways=1, answering=1)), True),
        (facts(unscheduled=NO_NODE, scaling=ScalingView(utilization=0.5, gateways=1, answering=1)), True),
    ],
)
def test_numbers_alone_wait_unless_they_jump(seen: Facts, *, now: bool) -> None:
    before = status(facts(scaling=ScalingView(utilization=0.5, gateways=1, answering=1)))
    assert urgent(before, status(seen)) is now


def test_what_an_event_tells_of() -> None:
    before, after = status(facts()), status(facts(**NONE_UP, trouble=TROUBLE))
    assert {c.type for c in changed(before.conditions, after.conditions)} == {"Ready", "Reconciling", "Stalled"}


def test_economics_and_display() -> None:
    priced = model(
        accelerator={"count": 2, "hourlyCostUSD": "2.5"},
        overflow={"targets": [{"providerRef": {"name": "p"}, "model": "x"}]},
    )
    made = status(facts(mdep=priced, scaling=ScalingView(utilization=0.634, share=0.041, micro_usd_today=1_239_999)))
    assert made.display.model_dump() == {"ready": "2/2", "utilization": "63%", "overflow": "4%"}
    assert made.economics.replica_usd_per_hour == "5"
    assert made.economics.usd_per_hour == "10"
    assert made.overflow.usd_today == "1.23"
    applied = to_apply(priced, made)
    assert applied["metadata"] == {"namespace": "n", "name": "m", "uid": "u"}
    assert applied["status"]["economics"] == {"replicaUsdPerHour": "5", "usdPerHour": "10"}
