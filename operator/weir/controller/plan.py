"""What to do next for one ModelDeployment: from what there is and what is wanted to a list of actions. Pure.

Every action may be repeated, and may be planned again from a view that does not show it yet: creating meets AlreadyExists,
scaling writes the same number, deleting names a uid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weir.api.modeldeployment import ModelDeployment
from weir.controller import rollout
from weir.controller.observed import PodView, ReplicaSetView, ServiceView
from weir.kube.resources import Json
from weir.workload import objects
from weir.workload.defaults import Refused, WorkloadDefaults


@dataclass(frozen=True)
class CreateService:
    obj: Json


@dataclass(frozen=True)
class ApplyService:
    """`obj` carries the uid of the Service that was seen."""

    obj: Json


@dataclass(frozen=True)
class CreateReplicaSet:
    obj: Json


@dataclass(frozen=True)
class ScaleReplicaSet:
    name: str
    uid: str
    replicas: int
    desired: int


@dataclass(frozen=True)
class NoteServed:
    """A replica of this ReplicaSet is Ready, which nothing but the ReplicaSet will remember."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteReplicaSet:
    name: str
    uid: str


@dataclass(frozen=True)
class DeletePod:
    """A pod that failed as a whole: nobody counts it, and nobody else removes it."""

    name: str
    uid: str


@dataclass(frozen=True)
class MarkPod:
    """`first`: this pod goes before the others of its ReplicaSet."""

    name: str
    uid: str
    first: bool


Action = (
    CreateService
    | ApplyService
    | CreateReplicaSet
    | ScaleReplicaSet
    | NoteServed
    | DeleteReplicaSet
    | DeletePod
    | MarkPod
)


@dataclass(frozen=True)
class Plan:
    """What to do, and why not all of it can be: what the operator's configuration refuses holds up nothing else."""

    actions: list[Action]
    refused: Refused | None = None


@dataclass(frozen=True)
class Children:
    """What there is of one ModelDeployment; only what it controls."""

    service: ServiceView | None = None
    replica_sets: tuple[ReplicaSetView, ...] = ()
    pods: tuple[PodView, ...] = ()

    def of(self, replica_set: ReplicaSetView) -> list[PodView]:
        """The pods of one ReplicaSet."""
        return [pod for pod in self.pods if pod.owner_uid == replica_set.uid]

    def last_desired(self, current: str) -> int | None:
        """What the replicas were last scaled for: by the current revision's ReplicaSet, else by the newest other."""
        known = [rs for rs in self.replica_sets if rs.desired is not None]
        newest = max(known, key=lambda rs: (rs.revision == current, rs.created), default=None)
        return newest.desired if newest else None


def plan(
    mdep: ModelDeployment,
    revision: str,
    desired: int,
    children: Children,
    in_flight: Mapping[str, int],
    defaults: WorkloadDefaults,
) -> Plan:
    """The actions that bring `children` a step nearer to `desired` replicas of `revision`; none when there is nothing to do.

    in_flight: requests by pod name.
    """
    refused = None
    current = next((rs for rs in children.replica_sets if rs.revision == revision), None)
    olds = sorted((rs for rs in children.replica_sets if rs.revision != revision), key=lambda rs: (rs.created, rs.name))
    new_count, old_counts = rollout.shares(
        desired,
        mdep.spec.rollout.strategy,
        _size(children, current) if current else None,
        [_size(children, old) for old in olds],
    )
    actions: list[Action] = _service(mdep, children.service)
    for old, count in zip(olds, old_counts, strict=True):
        if not count and not old.replicas and not old.existing and not children.of(old) and current is not None:
            actions.append(DeleteReplicaSet(old.name, old.uid))
        elif count != old.replicas:
            actions += _scale(old, count, desired, children.of(old), in_flight)
    if current is None:
        try:
            actions.append(CreateReplicaSet(objects.replica_set(mdep, revision, new_count, desired, defaults)))
        except Refused as error:
            refused = error
    else:
        if any(sum(p.live for p in children.of(old)) > count for old, count in zip(olds, old_counts, strict=True)):
            new_count = min(new_count, current.replicas)  # first the old ones go, then there is room
        if (current.replicas, current.desired) != (new_count, desired):
            actions += _scale(current, new_count, desired, children.of(current), in_flight)
    actions += _unmark(children, actions) + _note_served(children) + _bury(children.pods, revision, desired)
    return Plan(actions, refused)


def rolled_out(children: Children, revision: str) -> bool:
    """Whether no replica of another revision is asked for or left."""
    return not any(rs.replicas or rs.existing for rs in children.replica_sets if rs.revision != revision)


def _size(children: Children, replica_set: ReplicaSetView) -> rollout.Size:
    live = [pod for pod in children.of(replica_set) if pod.live]
    served = replica_set.served or any(pod.alive for pod in live)
    return rollout.Size(replica_set.replicas, sum(pod.ready for pod in live), served)


def _scale(
    replica_set: ReplicaSetView, count: int, desired: int, pods: Sequence[PodView], in_flight: Mapping[str, int]
) -> list[Action]:
    """Scales, once the pods that must go are seen to be marked. The ReplicaSet controller itself takes the unready first."""
    going = victims(pods, count, in_flight)
    unmarked = [pod for pod in going if pod.ready and not pod.marked]
    if unmarked and count:
        return [MarkPod(pod.name, pod.uid, first=True) for pod in unmarked]
    return [ScaleReplicaSet(replica_set.name, replica_set.uid, count, desired)]


def victims(pods: Sequence[PodView], count: int, in_flight: Mapping[str, int]) -> list[PodView]:
    """Who goes when `count` are to stay: not Ready, without a node, already marked, fewest in flight, youngest."""
    live = [pod for pod in pods if pod.live]
    youngest_first = sorted(live, key=lambda pod: (pod.created, pod.name), reverse=True)
    in_order = sorted(
        youngest_first, key=lambda pod: (pod.ready, pod.scheduled, not pod.marked, in_flight.get(pod.name, 0))
    )
    return in_order[: max(0, len(live) - count)]


def _unmark(children: Children, actions: Sequence[Action]) -> list[Action]:
    """Takes back marks where nothing is being scaled: the replica that was to go is wanted after all."""
    busy = {action.name for action in actions if isinstance(action, ScaleReplicaSet | MarkPod)}
    unmarked: list[Action] = []
    for rs in children.replica_sets:
        pods = children.of(rs)
        settled = sum(pod.live for pod in pods) <= rs.replicas
        if settled and rs.name not in busy and not busy.intersection(pod.name for pod in pods):
            unmarked += [MarkPod(pod.name, pod.uid, first=False) for pod in pods if pod.marked and pod.live]
    return unmarked


def _note_served(children: Children) -> list[Action]:
    return [
        NoteServed(rs.name, rs.uid)
        for rs in children.replica_sets
        if not rs.served and any(pod.ready and pod.live for pod in children.of(rs))
    ]


def _bury(pods: Sequence[PodView], revision: str, desired: int) -> list[Action]:
    """Removes failed pods: a node that refuses pods makes a new one every second. While replicas are missing, the latest of the
    current revision stays to show why."""
    failed = sorted(
        (p for p in pods if p.phase == "Failed" and not p.deleting),
        key=lambda p: (p.revision == revision, p.created, p.name),
    )
    missing = sum(pod.ready and pod.live for pod in pods) < desired
    if missing and failed and failed[-1].revision == revision:
        failed.pop()
    return [DeletePod(pod.name, pod.uid) for pod in failed]


def _service(mdep: ModelDeployment, seen: ServiceView | None) -> list[Action]:
    wanted = objects.service(mdep)
    if seen is None:
        return [CreateService(wanted)]
    spec, labels = wanted["spec"], wanted["metadata"]["labels"]
    # Ports and labels that others added are theirs: apply would not remove them, so they must not count as a difference.
    if (
        labels.items() <= seen.labels.items()
        and (seen.type, seen.selector) == (spec["type"], spec["selector"])
        and all(port in seen.ports for port in spec["ports"])
    ):
        return []
    return [ApplyService(wanted | {"metadata": wanted["metadata"] | {"uid": seen.uid}})]
