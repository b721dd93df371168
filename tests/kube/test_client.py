"""The verbs, against a real API server."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from controlplane import ControlPlane
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.errors import AlreadyExists, Conflict, Expired, Forbidden, Invalid, NotFound, Unreachable
from weir.kube.resources import CONFIGMAPS, NAMESPACES, PODS, REPLICASETS, SERVICES, Json, Resource
from weir.kube.watch import WatchEvent

pytestmark = pytest.mark.controlplane


def config_map(namespace: str, name: str, **data: str) -> Json:
    return {"metadata": {"namespace": namespace, "name": name, "labels": {"made-by": "test"}}, "data": data}


async def test_create_get_and_delete(kube: KubeClient, namespace: str) -> None:
    made = await kube.create(CONFIGMAPS, config_map(namespace, "c", a="1"))
    assert await kube.get(CONFIGMAPS, namespace, "c") == made
    assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {"a": "1"})
    with pytest.raises(AlreadyExists):
        await kube.create(CONFIGMAPS, config_map(namespace, "c"))
    await kube.delete(CONFIGMAPS, namespace, "c")
    for gone in (kube.get(CONFIGMAPS, namespace, "c"), kube.delete(CONFIGMAPS, namespace, "c")):
        with pytest.raises(NotFound):
            await gone


async def test_cluster_scoped_objects(kube: KubeClient, namespace: str) -> None:
    assert (await kube.get(NAMESPACES, None, namespace))["metadata"]["name"] == namespace


async def test_a_listing_in_pages_is_one_snapshot(kube: KubeClient, namespace: str) -> None:
    for number in range(25):
        await kube.create(CONFIGMAPS, config_map(namespace, f"c{number:02}"))
    pages = []
    async for page in kube.pages(CONFIGMAPS, namespace, label_selector="made-by=test", page_size=10):
        pages.append(page)
        await kube.create(CONFIGMAPS, config_map(namespace, f"later-{len(pages)}"))
    assert [len(page.items) for page in pages] == [10, 10, 5]
    assert len({page.resource_version for page in pages}) == 1
    assert {(item["apiVersion"], item["kind"]) for page in pages for item in page.items} == {("v1", "ConfigMap")}
    listing = await kube.list(CONFIGMAPS, namespace, label_selector="made-by=test", page_size=7)
    assert len(listing.items) == 28
    assert int(listing.resource_version) > int(pages[0].resource_version)
    one = await kube.list(CONFIGMAPS, None, field_selector=f"metadata.name=c07,metadata.namespace={namespace}")
    assert [item["metadata"]["name"] for item in one.items] == ["c07"]


async def test_compare_and_swap(kube: KubeClient, namespace: str) -> None:
    first = await kube.create(CONFIGMAPS, config_map(namespace, "c", n="0"))
    second = await kube.update(CONFIGMAPS, first | {"data": {"n": "1"}})
    with pytest.raises(Conflict):
        await kube.update(CONFIGMAPS, first | {"data": {"n": "lost"}})
    assert (await kube.get(CONFIGMAPS, namespace, "c")) == second
    await kube.delete(CONFIGMAPS, namespace, "c")
    with pytest.raises((Conflict, NotFound)):
        await kube.update(CONFIGMAPS, second)


async def test_apply_owns_what_it_names_and_removes_what_it_no_longer_names(kube: KubeClient, namespace: str) -> None:
    await kube.apply(CONFIGMAPS, config_map(namespace, "c", a="1", b="1"), field_manager="one")
    await kube.apply(CONFIGMAPS, config_map(namespace, "c", c="2"), field_manager="two")
    with pytest.raises(Conflict):
        await kube.apply(CONFIGMAPS, config_map(namespace, "c", b="2"), field_manager="two", force=False)
    await kube.apply(CONFIGMAPS, config_map(namespace, "c", a="1"), field_manager="one")
    applied = await kube.apply(CONFIGMAPS, config_map(namespace, "c", a="3", c="2"), field_manager="two")
    assert applied["data"] == {"a": "3", "c": "2"}
    again = await kube.apply(CONFIGMAPS, config_map(namespace, "c", a="3", c="2"), field_manager="two")
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"], (
        "nothing changed, yet a write"
    )


async def test_apply_with_a_uid_changes_that_very_object_or_nothing(kube: KubeClient, namespace: str) -> None:
    made = await kube.create(CONFIGMAPS, config_map(namespace, "c", a="1"))
    mine = config_map(namespace, "c", a="2")
    mine["metadata"]["uid"] = made["metadata"]["uid"]
    assert (await kube.apply(CONFIGMAPS, mine, field_manager="m"))["data"] == {"a": "2"}
    await kube.delete(CONFIGMAPS, namespace, "c")
    with pytest.raises(Conflict):
        await kube.apply(CONFIGMAPS, mine, field_manager="m")
    with pytest.raises(NotFound):
        await kube.get(CONFIGMAPS, namespace, "c")
    await kube.create(CONFIGMAPS, config_map(namespace, "c", a="another's"))
    with pytest.raises(Conflict):
        await kube.apply(CONFIGMAPS, mine, field_manager="m")
    assert (await kube.get(CONFIGMAPS, namespace, "c"))["data"] == {"a": "another's"}


async def test_apply_to_a_status_leaves_the_spec_alone(kube: KubeClient, namespace: str) -> None:
    spec = {"ports": [{"name": "http", "port": 80}]}
    service = {"metadata": {"namespace": namespace, "name": "s"}, "spec": spec}
    made = await kube.apply(SERVICES, service, field_manager="m")
    condition = {
        "type": "Weir",
        "status": "True",
        "reason": "R",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"metadata": service["metadata"], "status": {"conditions": [condition]}}
    seen = await kube.apply(SERVICES, status | {"spec": {}}, field_manager="m", subresource="status")
    assert (seen["status"]["conditions"], seen["spec"]) == ([condition], made["spec"])


@pytest.mark.parametrize("kind", ["merge", "json", "strategic"])
async def test_patches(kube: KubeClient, namespace: str, kind: str) -> None:
    await kube.create(CONFIGMAPS, config_map(namespace, "c", a="1", b="1"))
    match kind:
        case "json":
            operation = {"op": "replace", "path": "/data/a", "value": "2"}
            seen = await kube.patch(CONFIGMAPS, namespace, "c", [operation], kind="json")
        case "merge":
            seen = await kube.patch(CONFIGMAPS, namespace, "c", {"data": {"a": "2"}})
        case _:
            seen = await kube.patch(
                CONFIGMAPS, namespace, "c", {"data": {"a": "2"}}, kind="strategic", field_manager="m"
            )
            assert "m" in {entry["manager"] for entry in seen["metadata"]["managedFields"]}
    assert seen["data"] == {"a": "2", "b": "1"}


async def test_deleting_by_uid_spares_a_namesake(kube: KubeClient, namespace: str) -> None:
    old = await kube.create(CONFIGMAPS, config_map(namespace, "c"))
    await kube.delete(CONFIGMAPS, namespace, "c", uid=old["metadata"]["uid"])
    new = await kube.create(CONFIGMAPS, config_map(namespace, "c"))
    with pytest.raises(Conflict):
        await kube.delete(CONFIGMAPS, namespace, "c", uid=old["metadata"]["uid"])
    with pytest.raises(Conflict):
        await kube.delete(CONFIGMAPS, namespace, "c", resource_version=old["metadata"]["resourceVersion"])
    await kube.delete(CONFIGMAPS, namespace, "c", resource_version=new["metadata"]["resourceVersion"])


async def test_a_deletion_that_orphans_goes_through_the_garbage_collector(kube: KubeClient, namespace: str) -> None:
    owner = await kube.create(
        REPLICASETS,
        {
            "metadata": {"namespace": namespace, "name": "r"},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "c", "image": "none"}]},
                },
            },
        },
    )
    await kube.delete(REPLICASETS, namespace, "r", propagation="Orphan", uid=owner["metadata"]["uid"])
    finalizers: list[list[str]] = []
    async for event in _events(kube, REPLICASETS, namespace, owner["metadata"]["resourceVersion"]):
        if event.type == "DELETED":
            break
        finalizers.append(event.object["metadata"].get("finalizers", []))
    else:
        pytest.fail("it was not deleted within the watch")
    assert ["orphan"] in finalizers


async def test_an_object_that_breaks_the_rules(kube: KubeClient, namespace: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        await kube.create(CONFIGMAPS, config_map(namespace, "Not_A_Name"))


async def test_a_wrong_token_and_a_resource_that_is_not_there(control_plane: ControlPlane, kube: KubeClient) -> None:
    config = replace(load_config(control_plane.kubeconfig), token=lambda: "wrong")
    async with KubeClient(config) as stranger:
        with pytest.raises(Forbidden, match="401"):
            await stranger.list(PODS)
    with pytest.raises(NotFound):
        await kube.list(Resource("weir.dev", "v0", "nothings", "Nothing"))


async def test_the_servers_clock(kube: KubeClient, namespace: str) -> None:
    """Server and test share a machine, so the truth is at hand."""
    before = time.monotonic()
    for _ in range(10):
        await kube.get(NAMESPACES, None, namespace)
    assert abs((kube.server_now() - datetime.now(UTC)).total_seconds()) < 1.0
    assert abs(kube.clock_skew()) < 1.0
    assert before < kube.last_contact <= time.monotonic()


async def _events(
    kube: KubeClient, resource: Resource, namespace: str, version: str
) -> AsyncGenerator[WatchEvent, None]:
    async with kube.watch(resource, namespace, resource_version=version, seconds=10) as events:
        async for event in events:
            yield event


async def test_a_watch_tells_what_happened_and_ends_by_itself(kube: KubeClient, namespace: str) -> None:
    version = (await kube.list(CONFIGMAPS, namespace)).resource_version
    seen: list[WatchEvent] = []
    async with kube.watch(
        CONFIGMAPS, namespace, resource_version=version, label_selector="made-by=test", seconds=3
    ) as events:
        made = await kube.create(CONFIGMAPS, config_map(namespace, "c", a="1"))
        await kube.update(CONFIGMAPS, made | {"data": {"a": "2"}})
        await kube.delete(CONFIGMAPS, namespace, "c")
        seen += [event async for event in events]
    assert [event.type for event in seen if event.type != "BOOKMARK"] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event.object.get("data") for event in seen if event.type != "BOOKMARK"] == [
        {"a": "1"},
        {"a": "2"},
        {"a": "2"},
    ]


async def test_a_forgotten_version_is_said_to_be_expired(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    version = (await kube.list(CONFIGMAPS, namespace)).resource_version
    await kube.create(CONFIGMAPS, config_map(namespace, "c"))
    control_plane.stop_api()  # a fresh API server remembers nothing from before its start
    control_plane.start_api()
    with pytest.raises(Expired):
        await anext(_events(kube, CONFIGMAPS, namespace, version))


async def test_a_server_that_hangs_is_out_of_reach_for_calls_and_watches(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    version = (await kube.list(CONFIGMAPS, namespace)).resource_version
    async with kube.watch(CONFIGMAPS, namespace, resource_version=version, seconds=1, stall_seconds=0.5) as events:
        control_plane.pause_api()
        try:
            began = time.monotonic()
            with pytest.raises(Unreachable):
                await kube.get(CONFIGMAPS, namespace, "c", timeout=1.0)
            assert 1.0 <= time.monotonic() - began < 3.0
            with pytest.raises(Unreachable):
                async for _ in events:
                    pass
            assert kube.last_contact < began
        finally:
            control_plane.resume_api()
    await kube.list(CONFIGMAPS, namespace)
    assert kube.last_contact > began


async def test_a_server_that_is_gone_and_comes_back(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    made = await kube.create(CONFIGMAPS, config_map(namespace, "c", a="1"))
    control_plane.stop_api()
    try:
        with pytest.raises(Unreachable):
            await kube.create(CONFIGMAPS, config_map(namespace, "d"))
        with pytest.raises(Unreachable):
            await kube.get(CONFIGMAPS, namespace, "c", timeout=1.0)
    finally:
        control_plane.start_api()
    assert await kube.get(CONFIGMAPS, namespace, "c") == made
