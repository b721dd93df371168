"""What is recorded can be read beside its object; what is said twice is counted; nothing comes back to the caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from controlplane import ControlPlane
from weir.kube import events
from weir.kube.client import KubeClient
from weir.kube.events import EventRecorder
from weir.kube.resources import CONFIGMAPS, EVENTS, NODES, Json, ObjectRef, Resource

if TYPE_CHECKING:
    from tests.kube.conftest import Eventually

pytestmark = pytest.mark.controlplane

CORE_EVENTS = Resource("", "v1", "events", "Event")


@pytest.fixture
async def about(kube: KubeClient, namespace: str) -> ObjectRef:
    return ObjectRef.of(await kube.create(CONFIGMAPS, {"metadata": {"namespace": namespace, "name": "c"}}))


@pytest.fixture
def recorder(kube: KubeClient) -> EventRecorder:
    return EventRecorder(kube, component="weir-operator", instance="weir-operator-0")


async def events_about(kube: KubeClient, about: ObjectRef) -> list[Json]:
    listing = await kube.list(EVENTS, about.namespace or "default")
    return [each for each in listing.items if each["regarding"].get("uid", "") == about.uid]


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("weir_events_dropped_total", {"reason": reason}) or 0.0


async def test_an_event_reads_as_people_expect(kube: KubeClient, recorder: EventRecorder, about: ObjectRef) -> None:
    recorder.record(about, "Warning", "NoSuchClass", "the class é is not there: create it")
    await recorder.flush()
    (event,) = await events_about(kube, about)
    assert (event["type"], event["reason"], event["note"]) == (
        "Warning",
        "NoSuchClass",
        "the class é is not there: create it",
    )
    assert event["reportingController"] == "weir-operator"
    listing = await kube.list(CORE_EVENTS, about.namespace, field_selector=f"involvedObject.uid={about.uid}")
    assert [each["message"] for each in listing.items] == ["the class é is not there: create it"]  # `kubectl describe`


async def test_what_is_said_again_is_counted(kube: KubeClient, recorder: EventRecorder, about: ObjectRef) -> None:
    for number in range(3):
        changed = await kube.patch(CONFIGMAPS, about.namespace, about.name, {"data": {"n": str(number)}})
        recorder.record(ObjectRef.of(changed), "Normal", "Scaled", "1 to 2")
        await recorder.flush()
    recorder.record(about, "Normal", "Scaled", "2 to 3")
    for _ in range(4):
        recorder.record(about, "Normal", "Scaled", "3 to 4")
    await recorder.flush()
    counts = {each["note"]: each.get("series", {}).get("count", 1) for each in await events_about(kube, about)}
    assert counts == {"1 to 2": 3, "2 to 3": 1, "3 to 4": 4}


async def test_after_ten_minutes_it_is_news_again(
    kube: KubeClient, recorder: EventRecorder, about: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.record(about, "Normal", "Scaled", "1 to 2")
    await recorder.flush()
    monkeypatch.setattr(events, "SERIES_SECONDS", 0.0)
    recorder.record(about, "Normal", "Scaled", "1 to 2")
    await recorder.flush()
    assert len(await events_about(kube, about)) == 2


async def test_one_that_was_tidied_away_is_written_anew(
    kube: KubeClient, recorder: EventRecorder, about: ObjectRef
) -> None:
    recorder.record(about, "Normal", "Scaled", "1 to 2")
    await recorder.flush()
    (event,) = await events_about(kube, about)
    await kube.delete(EVENTS, about.namespace, event["metadata"]["name"])
    recorder.record(about, "Normal", "Scaled", "1 to 2")
    await recorder.flush()
    (again,) = await events_about(kube, about)
    assert (again["note"], "series" in again) == ("1 to 2", False)
    assert again["metadata"]["name"] != event["metadata"]["name"]


async def test_long_words_and_cluster_scoped_objects(kube: KubeClient, recorder: EventRecorder) -> None:
    about = ObjectRef(NODES.api_version, NODES.kind, "", "n" * 240, uid="a-node-uid")
    recorder.record(about, "Normal", "Seen", "ü" * 2000)
    await recorder.flush()
    (event,) = await events_about(kube, about)
    assert event["note"] == "ü" * 500


async def test_running_writes_in_the_background(
    kube: KubeClient, recorder: EventRecorder, about: ObjectRef, eventually: Eventually
) -> None:
    task = asyncio.create_task(recorder.run())
    written = REGISTRY.get_sample_value("weir_events_written_total", {"verb": "create"}) or 0.0
    recorder.record(about, "Normal", "Scaled", "1 to 2")
    recorder.record(about, "Normal", "Scaled", "2 to 3")
    await eventually(
        lambda: (REGISTRY.get_sample_value("weir_events_written_total", {"verb": "create"}) or 0.0) == written + 2
    )
    assert len(await events_about(kube, about)) == 2
    task.cancel()


async def test_a_failure_is_counted_and_stops_nothing(
    control_plane: ControlPlane, kube: KubeClient, recorder: EventRecorder, about: ObjectRef
) -> None:
    errors, overflow = dropped("error"), dropped("overflow")
    control_plane.stop_api()
    try:
        recorder.record(about, "Normal", "Lost", "nobody hears it")
        await recorder.flush()
    finally:
        control_plane.start_api()
    assert dropped("error") == errors + 1
    for number in range(events.WAITING + 2):
        recorder.record(about, "Normal", "Flood", str(number))
    recorder.record(about, "Normal", "Flood", "0")  # waits already, so it is no more to hold
    assert dropped("overflow") == overflow + 2
    await recorder.flush()
    counts = {each["note"]: each.get("series", {}).get("count", 1) for each in await events_about(kube, about)}
    assert (len(counts), counts["0"], "nobody hears it" in counts) == (events.WAITING, 2, False)
