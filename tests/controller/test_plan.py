"""From what there is to the next actions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weir.api.modeldeployment import ModelDeployment
from weir.controller.observed import PodView, ReplicaSetView, ServiceView, service_view
from weir.controller.plan import (
    ApplyService,
    Children,
    CreateReplicaSet,
    CreateService,
    DeletePod,
    DeleteReplicaSet,
    MarkPod,
    NoteServed,
    ScaleReplicaSet,
    plan,
    rolled_out,
    victims,
)
from weir.workload.defaults import WorkloadDefaults
from weir.workload.names import revision_of
from weir.workload.objects import service

DEFAULTS = WorkloadDefaults("vllm/vllm-openai:v0.32.0")


def model(**spec: Any) -> ModelDeployment:
    body = {"model": {"source": "hf://org/m"}} | spec
    return ModelDeployment.from_object({"metadata": {"name": "m", "namespace": "n", "uid": "u"}, "spec": body})


MODEL = model()
NOW = revision_of(MODEL, DEFAULTS)


def seen_service(**changes: Any) -> ServiceView:
    made = service(MODEL)
    made["metadata"] |= {"uid": "s"}
    return replace(service_view(made), **changes)


def replica_set(revision: str = NOW, replicas: int = 2, *, desired: int | None = 2, **changes: Any) -> ReplicaSetView:
    made = ReplicaSetView(
        "n", f"m-{revision}", f"rs-{revision}", "m", revision, "u", "2026-01-01", replicas, replicas, desired, "",
        deleting=False, served=True,
    )  # fmt: skip
    return replace(made, **changes)


def pod(name: str, revision: str = NOW, **changes: Any) -> PodView:
    made = PodView(
        "n", name, f"uid-{name}", "m", revision, f"rs-{revision}", "2026-01-01T00:00:00Z", "Running",
        ready=True, scheduled=True, unschedulable="", deleting=False, marked=False,
    )  # fmt: skip
    return replace(made, **changes)


def act(
    desired: int, children: Children, in_flight: dict[str, int] | None = None, mdep: ModelDeployment = MODEL
) -> list[Any]:
    planned = plan(mdep, revision_of(mdep, DEFAULTS), desired, children, in_flight or {}, DEFAULTS)
    assert planned.refused is None
    return list(planned.actions)


def test_from_nothing() -> None:
    made, created = act(3, Children())
    assert isinstance(made, CreateService)
    assert isinstance(created, CreateReplicaSet)
    assert created.obj["spec"]["replicas"] == 3


def test_nothing_to_do() -> None:
    settled = Children(seen_service(), (replica_set(),), (pod("a"), pod("b")))
    assert act(2, settled) == []


@pytest.mark.parametrize("changes", [{"selector": {"a": "b"}}, {"type": "NodePort"}, {"ports": ()}, {"labels": {}}])
def test_a_service_that_differs_is_put_right_and_no_other(changes: dict[str, Any]) -> None:
    (action,) = act(2, Children(seen_service(**changes), (replica_set(),), (pod("a"), pod("b"))))
    assert isinstance(action, ApplyService)
    assert action.obj["metadata"]["uid"] == "s"


def test_what_others_add_to_a_service_is_theirs() -> None:
    ours = seen_service()
    theirs = replace(ours, labels=ours.labels | {"team": "x"}, ports=(*ours.ports, {"name": "more", "port": 81}))
    assert act(2, Children(theirs, (replica_set(),), (pod("a"), pod("b")))) == []


def test_up() -> None:
    (action,) = act(5, Children(seen_service(), (replica_set(),), (pod("a"), pod("b"))))
    assert action == ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 5, 5)


def test_down_marks_first_and_scales_when_the_marks_are_seen() -> None:
    busy, idle = pod("busy"), pod("idle")
    before = Children(seen_service(), (replica_set(),), (busy, idle))
    assert act(1, before, {"busy": 3}) == [MarkPod("idle", "uid-idle", first=True)]
    marked = Children(seen_service(), (replica_set(),), (busy, replace(idle, marked=True)))
    assert act(1, marked, {"busy": 3}) == [ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 1, 1)]
    # Load that moves meanwhile does not move the mark.
    assert act(1, marked, {"idle": 9}) == [ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 1, 1)]


def test_down_to_zero_needs_no_marks() -> None:
    children = Children(seen_service(), (replica_set(),), (pod("a"), pod("b")))
    assert act(0, children) == [ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 0, 0)]


def test_a_mark_is_taken_back_when_the_replica_is_wanted_after_all() -> None:
    children = Children(seen_service(), (replica_set(),), (pod("a", marked=True), pod("b")))
    assert act(2, children) == [MarkPod("a", "uid-a", first=False)]


def test_a_mark_stays_while_its_replica_is_going() -> None:
    children = Children(seen_service(), (replica_set(replicas=1, desired=1),), (pod("a", marked=True), pod("b")))
    assert act(1, children) == []


def test_who_goes() -> None:
    pods = [
        pod("old-busy", created="1", ),
        pod("young-idle", created="3"),
        pod("old-idle", created="2"),
        pod("marked", marked=True),
        pod("unready", ready=False),
        pod("nowhere", ready=False, scheduled=False, phase="Pending"),
        pod("going", deleting=True),
    ]  # fmt: skip
    order = [p.name for p in victims(pods, 0, {"old-busy": 5, "marked": 9})]
    assert order == ["nowhere", "unready", "marked", "young-idle", "old-idle", "old-busy"]
    assert [p.name for p in victims(pods, 4, {})] == ["nowhere", "unready"]


def test_desired_is_noted_even_where_the_count_stays() -> None:
    """In a rollout the sum over revisions says less than what is wanted."""
    children = Children(seen_service(), (replica_set(desired=3),), (pod("a"), pod("b")))
    assert act(2, children) == [ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 2, 2)]


def test_a_new_revision_waits_for_the_old_pods_to_go() -> None:
    old_pods = (pod("a", "old"), pod("b", "old"))
    waiting = Children(seen_service(), (replica_set("old", 1), replica_set(replicas=1)), (*old_pods, pod("c")))
    assert act(2, waiting) == []
    gone = Children(seen_service(), (replica_set("old", 1), replica_set(replicas=1)), (old_pods[0], pod("c")))
    assert act(2, gone) == [ScaleReplicaSet(f"m-{NOW}", f"rs-{NOW}", 2, 2)]


def test_an_empty_old_revision_is_removed_once_its_pods_are_gone() -> None:
    pods = (pod("a"), pod("b"))
    empty = replica_set("old", 0)
    assert act(2, Children(seen_service(), (replica_set(), empty), pods)) == [DeleteReplicaSet("m-old", "rs-old")]
    leaving = Children(seen_service(), (replica_set(), empty), (*pods, pod("x", "old", deleting=True)))
    assert act(2, leaving) == []
    assert rolled_out(leaving, NOW)


@pytest.mark.parametrize("strategy", ["Surge", "Replace"])
def test_nothing_old_goes_before_the_new_replica_set_is_there(strategy: str) -> None:
    """The API server may refuse it."""
    mdep = model(rollout={"strategy": strategy})
    old = Children(seen_service(), (replica_set("old", 1, desired=1),), (pod("a", "old"),))
    (created,) = act(1, old, mdep=mdep)
    assert isinstance(created, CreateReplicaSet)
    assert created.obj["spec"]["replicas"] == 0
    there = replace(old, replica_sets=(*old.replica_sets, replica_set(replicas=0, desired=1, served=False)))
    expected = {"Surge": (f"m-{NOW}", 1), "Replace": ("m-old", 0)}[strategy]
    assert [(a.name, a.replicas) for a in act(1, there, mdep=mdep)] == [expected]


def test_what_the_configuration_refuses_stops_no_scaling() -> None:
    mdep = model(model={"source": "file:///models/m"})
    old = Children(seen_service(), (replica_set("old", 2),), (pod("a", "old"), pod("b", "old")))
    for desired in (5, 0):
        planned = plan(mdep, revision_of(mdep, DEFAULTS), desired, old, {}, DEFAULTS)
        assert planned.actions == [ScaleReplicaSet("m-old", "rs-old", desired, desired)]
        assert planned.refused is not None
        assert planned.refused.reason == "HostPathNotAllowed"


def test_that_a_revision_served_is_noted_once() -> None:
    first = Children(seen_service(), (replica_set(served=False),), (pod("a"), pod("b", ready=False)))
    assert act(2, first) == [NoteServed(f"m-{NOW}", f"rs-{NOW}")]
    assert act(2, replace(first, replica_sets=(replica_set(),))) == []


def test_a_restart_of_an_old_replica_does_not_throw_it_away() -> None:
    """The new revision never came up; the old one served, and for a moment does not even run."""
    pods = (pod("old", "old", ready=False, started=False), pod("new", ready=False))
    stuck = (replica_set("old", 1, desired=1), replica_set(replicas=1, desired=1, served=False))
    assert act(1, Children(seen_service(), stuck, pods)) == []
    never = (replica_set("old", 1, desired=1, served=False), stuck[1])
    assert ScaleReplicaSet("m-old", "rs-old", 0, 1) in act(1, Children(seen_service(), never, pods))


def failed(name: str, revision: str = NOW, **changes: Any) -> PodView:
    return pod(name, revision, phase="Failed", ready=False, **changes)


def test_failed_pods_are_removed_and_the_latest_stays_to_show_why_while_replicas_are_missing() -> None:
    three = [failed(f"f{n}", created=str(n)) for n in range(3)]
    short = Children(seen_service(), (replica_set(),), (pod("a"), *three))
    assert act(2, short) == [DeletePod("f0", "uid-f0"), DeletePod("f1", "uid-f1")]
    whole = replace(short, pods=(*short.pods, pod("b")))
    assert act(2, whole) == [DeletePod(f"f{n}", f"uid-f{n}") for n in range(3)]
    none = Children(seen_service(), (replica_set(replicas=0, desired=0),), tuple(three[:1]))
    assert act(0, none) == [DeletePod("f0", "uid-f0")]


def test_failed_pods_of_other_revisions_keep_nothing() -> None:
    pods = (pod("a"), failed("x", "old", created="9"))
    children = Children(seen_service(), (replica_set("old", 0), replica_set()), pods)
    assert act(2, children) == [DeletePod("x", "uid-x")]


def test_desired_is_read_back_from_the_current_revision() -> None:
    children = Children(None, (replica_set("old", 2, desired=4), replica_set(replicas=1, desired=3)), ())
    assert children.last_desired(NOW) == 3
    assert children.last_desired("newer") in (3, 4)
    assert Children().last_desired(NOW) is None
    assert Children(None, (replica_set(desired=None),), ()).last_desired(NOW) is None
