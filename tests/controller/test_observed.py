"""Other people's objects, cut down at the door."""

from __future__ import annotations

from typing import Any

import pytest

from weir.controller.observed import pod_view, replica_set_view


def pod(status: dict[str, Any], **metadata: Any) -> Any:
    base = {"namespace": "n", "name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return pod_view({"metadata": base | metadata, "spec": {"nodeName": "node"}, "status": status})


def engine(**parts: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "sidecar"}, {"name": "engine", **parts}]}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.mark.parametrize(
    ("status", "metadata", "state"),
    [
        (READY, {}, "ready"),
        (READY, {"deletionTimestamp": "2026-01-01T00:00:01Z"}, "terminating"),
        ({}, {}, "starting"),
        (engine(state={"waiting": {"reason": "ContainerCreating"}}), {}, "starting"),
        (engine(state={"running": {}}), {}, "starting"),
        ({"conditions": [UNSCHEDULABLE]}, {}, "unschedulable"),
        (engine(state={"waiting": {"reason": "ImagePullBackOff"}}), {}, "failing"),
        (engine(state={"running": {}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}}), {}, "failing"),
        ({"phase": "Failed", "reason": "Evicted"}, {}, "failing"),
    ],
)
def test_states(status: dict[str, Any], metadata: dict[str, Any], state: str) -> None:
    assert pod(status, **metadata).state == state


def test_a_ready_pod_that_crashed_before_is_ready() -> None:
    crashed = engine(state={"running": {}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}})
    assert pod(READY | crashed).state == "ready"


def test_alive_is_started_and_not_ended() -> None:
    assert pod(engine(state={"running": {}}, started=True)).alive
    assert not pod(engine(state={"running": {}}, started=False)).alive
    assert not pod(engine(state={"waiting": {"reason": "CrashLoopBackOff"}})).alive


def test_nothing_of_interest_changed() -> None:
    heartbeat = {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": "later"}]}
    assert pod(READY, resourceVersion="1") == pod(heartbeat, resourceVersion="2", managedFields=[{}])


def test_replica_set() -> None:
    view = replica_set_view(
        {
            "metadata": {
                "namespace": "n", "name": "rs", "uid": "u", "creationTimestamp": "t",
                "labels": {"weir.dev/model": "m", "weir.dev/revision": "r"},
                "annotations": {"weir.dev/desired-replicas": "7", "weir.dev/served": "true"},
                "ownerReferences": [{"uid": "x"}, {"uid": "owner", "controller": True}],
            },
            "spec": {"replicas": 3},
            "status": {"replicas": 2, "conditions": [{"type": "ReplicaFailure", "message": "exceeded quota"}]},
        }
    )  # fmt: skip
    assert (view.model, view.revision, view.owner_uid) == ("m", "r", "owner")
    assert (view.replicas, view.existing, view.desired, view.failure) == (3, 2, 7, "exceeded quota")
    assert view.served
