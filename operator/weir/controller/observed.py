"""What the operator looks at of other people's objects, cut down at the door. Equal values mean that nothing of interest changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from weir.kube.resources import Json
from weir.workload.names import (
    DESIRED_ANNOTATION,
    ENGINE_CONTAINER,
    MODEL_LABEL,
    REVISION_LABEL,
    SERVED_ANNOTATION,
)

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True)
class ContainerTrouble:
    """Why the engine container does not run, in the kubelet's words."""

    waiting: str = ""
    """Reason of the waiting state: ImagePullBackOff, CrashLoopBackOff, ContainerCreating ..."""
    waiting_message: str = ""
    ended: str = ""
    """Reason of the latest end: Error, OOMKilled ...; empty where it never ended."""
    exit_code: int = 0
    last_words: str = ""
    """Termination message: the end of its log."""
    restarts: int = 0


@dataclass(frozen=True)
class PodView:
    """A replica."""

    namespace: str
    name: str
    uid: str
    model: str
    revision: str
    owner_uid: str
    created: str
    phase: str
    ready: bool
    scheduled: bool
    unschedulable: str
    """The scheduler's words, while it finds no node."""
    deleting: bool
    marked: bool
    """To be the first of its ReplicaSet to go."""
    failure: str = ""
    """Reason and message of a pod that failed as a whole: evicted, refused by its node."""
    started: bool = False
    """Its engine runs and came up once."""
    container: ContainerTrouble = ContainerTrouble()

    @property
    def alive(self) -> bool:
        """Serves, or did and has not ended since."""
        return self.ready or self.started

    @property
    def live(self) -> bool:
        """Counted by its ReplicaSet: neither going nor failed as a whole."""
        return not self.deleting and self.phase not in ("Failed", "Succeeded")

    @property
    def state(self) -> str:
        """One of operator_metrics.REPLICA_STATES."""
        if self.deleting:
            return "terminating"
        if self.ready:
            return "ready"
        if self.unschedulable:
            return "unschedulable"
        if self.phase == "Failed" or self.container.ended or self.container.waiting not in ("", *_STARTING):
            return "failing"
        return "starting"


_STARTING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class ReplicaSetView:
    """One revision's ReplicaSet."""

    namespace: str
    name: str
    uid: str
    model: str
    revision: str
    owner_uid: str
    created: str
    replicas: int
    """Asked for."""
    existing: int
    """As its controller counts them."""
    desired: int | None
    """What the model was wanted to have over all revisions when this was last scaled."""
    failure: str
    """Why its controller cannot make pods (quota, admission), in the API server's words."""
    deleting: bool
    served: bool = False
    """A replica of it was Ready once."""


@dataclass(frozen=True)
class ServiceView:
    """The Service of a model."""

    namespace: str
    name: str
    uid: str
    model: str
    owner_uid: str
    labels: dict[str, str] = field(default_factory=dict)
    type: str = ""
    selector: dict[str, str] = field(default_factory=dict)
    ports: tuple[Json, ...] = ()


@dataclass(frozen=True)
class NodeView:
    """What kinds of accelerator a node has."""

    name: str
    labels: dict[str, str]
    allocatable: dict[str, str]
    """Extended resources only."""


def pod_view(obj: Json) -> PodView:
    """Of any pod; a missing owner or label is ""."""
    metadata, status = obj["metadata"], obj.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    scheduled = conditions.get("PodScheduled", {})
    failed = status.get("phase") == "Failed"
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=_label(metadata, MODEL_LABEL),
        revision=_label(metadata, REVISION_LABEL),
        owner_uid=_owner(metadata),
        created=metadata["creationTimestamp"],
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        scheduled=bool(obj.get("spec", {}).get("nodeName")),
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
        deleting="deletionTimestamp" in metadata,
        marked=int(metadata.get("annotations", {}).get(DELETION_COST, 0)) < 0,
        failure=": ".join(filter(None, (status.get("reason"), status.get("message")))) if failed else "",
        started=any(
            s["name"] == ENGINE_CONTAINER and s.get("started", False) for s in status.get("containerStatuses", ())
        ),
        container=_trouble(status.get("containerStatuses", ())),
    )


def replica_set_view(obj: Json) -> ReplicaSetView:
    metadata, status = obj["metadata"], obj.get("status", {})
    failures = [c["message"] for c in status.get("conditions", ()) if c["type"] == "ReplicaFailure" and "message" in c]
    annotations = metadata.get("annotations", {})
    desired = annotations.get(DESIRED_ANNOTATION, "")
    return ReplicaSetView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=_label(metadata, MODEL_LABEL),
        revision=_label(metadata, REVISION_LABEL),
        owner_uid=_owner(metadata),
        created=metadata["creationTimestamp"],
        replicas=obj["spec"]["replicas"],
        existing=status.get("replicas", 0),
        desired=int(desired) if desired.isdigit() else None,
        failure=failures[0] if failures else "",
        deleting="deletionTimestamp" in metadata,
        served=SERVED_ANNOTATION in annotations,
    )


def service_view(obj: Json) -> ServiceView:
    metadata, spec = obj["metadata"], obj["spec"]
    return ServiceView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        model=_label(metadata, MODEL_LABEL),
        owner_uid=_owner(metadata),
        labels=metadata.get("labels", {}),
        type=spec.get("type", ""),
        selector=spec.get("selector") or {},
        ports=tuple(spec.get("ports") or ()),
    )


def node_view(obj: Json) -> NodeView:
    metadata = obj["metadata"]
    allocatable = obj.get("status", {}).get("allocatable", {})
    return NodeView(
        name=metadata["name"],
        labels=metadata.get("labels", {}),
        allocatable={name: amount for name, amount in allocatable.items() if "/" in name},
    )


def _trouble(statuses: Any) -> ContainerTrouble:
    status = next((s for s in statuses if s["name"] == ENGINE_CONTAINER), None)
    if status is None:
        return ContainerTrouble()
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    ended = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return ContainerTrouble(
        waiting=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        ended=ended.get("reason", "Error") if ended else "",
        exit_code=ended.get("exitCode", 0),
        last_words=ended.get("message", ""),
        restarts=status.get("restartCount", 0),
    )


def _label(metadata: Json, name: str) -> str:
    value: str = metadata.get("labels", {}).get(name, "")
    return value


def _owner(metadata: Json) -> str:
    return next((ref["uid"] for ref in metadata.get("ownerReferences", ()) if ref.get("controller")), "")
