"""The local copy equals the server's, through everything that servers and networks do, and its age is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel
from structlog.testing import capture_logs

from controlplane import ControlPlane
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.reflector import Reflector
from weir.kube.resources import CONFIGMAPS, NAMESPACES, Json, Key
from weir.kube.watch import WatchEvent

if TYPE_CHECKING:
    from tests.kube.conftest import Eventually

pytestmark = pytest.mark.controlplane

OURS = "made-by=test"
Change = tuple[str, str | None, str | None]


def config_map(namespace: str, name: str, value: str = "", **labels: str) -> Json:
    metadata = {"namespace": namespace, "name": name, "labels": {"made-by": "test"} | labels}
    return {"metadata": metadata, "data": {"value": value}}


def value_of(obj: Json) -> str:
    value: str = obj["data"]["value"]
    return value


async def put(kube: KubeClient, namespace: str, name: str, value: str = "", **labels: str) -> None:
    await kube.apply(CONFIGMAPS, config_map(namespace, name, value, **labels), field_manager="test")


class Changes:
    """What on_change was told, in order."""

    def __init__(self) -> None:
        self.seen: list[Change] = []

    def __call__(self, key: Key, new: str | None, old: str | None) -> None:
        self.seen.append((key.name, new, old))

    def take(self) -> list[Change]:
        seen, self.seen = self.seen, []
        return seen


@asynccontextmanager
async def running(reflector: Reflector[Any]) -> AsyncIterator[None]:
    """Runs until the end of the block, having listed; fails where run() ended by itself."""
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(20):
            await reflector.synced.wait()
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


def relists(reason: str) -> float:
    labels = {"reflector": "configmaps", "reason": reason}
    return REGISTRY.get_sample_value("weir_reflector_relists_total", labels) or 0.0


async def test_lists_in_pages_then_follows(kube: KubeClient, namespace: str, eventually: Eventually) -> None:
    for number in range(12):
        await put(kube, namespace, f"c{number:02}", str(number))
    changes = Changes()
    reflector = Reflector(
        kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS, on_change=changes, page_size=5
    )
    assert (reflector.synced.is_set(), reflector.last_contact) == (False, float("-inf"))
    async with running(reflector):
        assert dict(reflector.store) == {Key(namespace, f"c{number:02}"): str(number) for number in range(12)}
        assert changes.take() == [(f"c{number:02}", str(number), None) for number in range(12)]
        await put(kube, namespace, "new", "1")
        await put(kube, namespace, "c00", "changed")
        await kube.delete(CONFIGMAPS, namespace, "c01")
        await eventually(lambda: len(changes.seen) == 3)
        assert changes.take() == [("new", "1", None), ("c00", "changed", "0"), ("c01", None, "1")]
        assert Key(namespace, "c01") not in reflector.store


async def test_what_decodes_to_the_same_is_no_change(kube: KubeClient, namespace: str, eventually: Eventually) -> None:
    await put(kube, namespace, "c", "1")
    changes = Changes()
    reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS, on_change=changes)
    async with running(reflector):
        await put(kube, namespace, "c", "1", more="labels")
        await put(kube, namespace, "d", "2")
        await eventually(lambda: Key(namespace, "d") in reflector.store)
        assert changes.seen == [("c", "1", None), ("d", "2", None)]


async def test_leaving_the_selector_is_leaving_the_store(
    kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    await put(kube, namespace, "c", "1", tier="a")
    reflector = Reflector(kube, CONFIGMAPS, value_of, label_selector=f"tier=a,{OURS}", namespaces=[namespace])
    async with running(reflector):
        assert list(reflector.store.values()) == ["1"]
        await put(kube, namespace, "c", "1", tier="b")
        await eventually(lambda: not reflector.store)


async def test_some_namespaces_one_field_and_all_of_them(
    kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    other, foreign = f"{namespace}-other", f"{namespace}-foreign"
    for name in (other, foreign):
        await kube.create(NAMESPACES, {"metadata": {"name": name}})
    for place in (namespace, other, foreign):
        await put(kube, place, "c", place)
    some = Reflector(kube, CONFIGMAPS, value_of, label_selector=OURS, namespaces=[namespace, other])
    everywhere = Reflector(kube, CONFIGMAPS, value_of, label_selector=OURS)
    field = Reflector(kube, NAMESPACES, lambda obj: True, field_selector=f"metadata.name={other}")
    async with running(some), running(everywhere), running(field):
        assert dict(some.store) == {Key(namespace, "c"): namespace, Key(other, "c"): other}
        assert {Key(place, "c") for place in (namespace, other, foreign)} <= set(everywhere.store)
        assert set(field.store) == {Key("", other)}
        await kube.delete(CONFIGMAPS, other, "c")
        await eventually(lambda: Key(other, "c") not in some.store and Key(other, "c") not in everywhere.store)
        assert Key(namespace, "c") in some.store
    for name in (other, foreign):
        await kube.delete(NAMESPACES, None, name)


def test_no_namespace_at_all_is_refused(kube: KubeClient) -> None:
    with pytest.raises(ValueError, match="None for all"):
        Reflector(kube, CONFIGMAPS, value_of, namespaces=[])


class Number(BaseModel):
    value: int


async def test_an_object_that_cannot_be_understood_is_absent_and_harms_no_other(
    kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    def number_of(obj: Json) -> int:
        return Number.model_validate(obj["data"]).value

    await put(kube, namespace, "bad", "not-a-number-but-s3cr3t")
    await put(kube, namespace, "good", "1")
    seen: list[tuple[str, int | None]] = []
    reflector = Reflector(
        kube,
        CONFIGMAPS,
        number_of,
        namespaces=[namespace],
        label_selector=OURS,
        on_change=lambda key, new, old: seen.append((key.name, new)),
        watch_seconds=1.0,
    )
    with capture_logs() as logs:
        async with running(reflector):
            assert dict(reflector.store) == {Key(namespace, "good"): 1}
            await put(kube, namespace, "good", "worse")
            await eventually(lambda: not reflector.store)
            await put(kube, namespace, "bad", "2")
            await eventually(lambda: reflector.store.get(Key(namespace, "bad")) == 2)
            assert seen == [("good", 1), ("good", None), ("bad", 2)]
    complaints = [entry for entry in logs if "cannot be understood" in entry["event"]]
    assert [entry["object"] for entry in complaints] == [f"{namespace}/bad", f"{namespace}/good"]
    assert all("value: Input should be a valid integer" in entry["error"] for entry in complaints)
    assert "s3cr3t" not in str(logs)


async def test_what_cannot_be_understood_is_said_once_a_version(
    control_plane: ControlPlane, kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    def refuse(obj: Json) -> str:
        raise ValueError("s3cr3t")

    await put(kube, namespace, "bad")
    reflector = Reflector(kube, CONFIGMAPS, refuse, namespaces=[namespace], label_selector=OURS)
    before = REGISTRY.get_sample_value("weir_reflector_decode_errors_total", {"reflector": "configmaps"}) or 0.0
    with capture_logs() as logs:
        async with running(reflector):
            contact = reflector.last_contact
            control_plane.stop_api()
            control_plane.start_api()
            await eventually(lambda: reflector.last_contact > contact)
    complaints = [entry for entry in logs if entry.get("object") == f"{namespace}/bad"]
    assert [entry["error"] for entry in complaints] == ["ValueError"]
    assert REGISTRY.get_sample_value("weir_reflector_decode_errors_total", {"reflector": "configmaps"}) == before + 1


async def test_many_short_watches_miss_nothing(kube: KubeClient, namespace: str, eventually: Eventually) -> None:
    listed = relists("start")
    reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS, watch_seconds=1.0)
    ends = REGISTRY.get_sample_value("weir_kube_requests_total", WATCHES) or 0.0
    async with running(reflector):
        number = 0
        while (REGISTRY.get_sample_value("weir_kube_requests_total", WATCHES) or 0.0) < ends + 3:
            number += 1
            await put(kube, namespace, f"c{number % 10}", str(number))
            if number % 3 == 0:
                await kube.delete(CONFIGMAPS, namespace, f"c{number % 10}")
        truth = await kube.list(CONFIGMAPS, namespace, label_selector=OURS)
        wanted = {Key(namespace, item["metadata"]["name"]): value_of(item) for item in truth.items}
        await eventually(lambda: dict(reflector.store) == wanted)
    assert relists("start") == listed + 1


WATCHES = {"verb": "watch", "resource": "configmaps", "code": "200"}


class Forgetful(KubeClient):
    """Loses its place once, and things happen before it notices: the second watch goes on from the first version there was."""

    watches = 0
    namespace = ""
    version = ""

    def watch(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        self.watches += 1
        return self._lapse(*args, **kwargs) if self.watches == 2 else super().watch(*args, **kwargs)

    @asynccontextmanager
    async def _lapse(self, *args: Any, **kwargs: Any) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        await self.delete(CONFIGMAPS, self.namespace, "gone")
        await put(self, self.namespace, "changed", "2")
        await put(self, self.namespace, "new", "1")
        async with super().watch(*args, **(kwargs | {"resource_version": self.version})) as events:
            yield events


async def test_after_a_forgotten_version_only_what_was_missed_is_told(
    control_plane: ControlPlane, kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    forgotten = (await kube.list(CONFIGMAPS, namespace)).resource_version
    for name in ("same", "changed", "gone"):
        await put(kube, namespace, name, "1")
    control_plane.stop_api()  # a fresh API server remembers no version from before its start
    control_plane.start_api()
    changes = Changes()
    expired = relists("expired")
    async with Forgetful(load_config(control_plane.kubeconfig)) as forgetful:
        forgetful.namespace, forgetful.version = namespace, forgotten
        reflector = Reflector(
            forgetful,
            CONFIGMAPS,
            value_of,
            namespaces=[namespace],
            label_selector=OURS,
            on_change=changes,
            watch_seconds=1.0,
        )
        async with running(reflector):
            assert {name for name, _, _ in changes.take()} == {"same", "changed", "gone"}
            await eventually(lambda: len(changes.seen) == 3)
            assert sorted(changes.take()) == [("changed", "2", "1"), ("gone", None, "1"), ("new", "1", None)]
            assert relists("expired") == expired + 1
            await put(kube, namespace, "same", "3")
            await eventually(lambda: changes.seen == [("same", "3", "1")])


async def test_a_quiet_server_is_known_to_be_there_and_a_hanging_one_is_found_out(
    control_plane: ControlPlane, kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    reflector = Reflector(
        kube,
        CONFIGMAPS,
        value_of,
        namespaces=[namespace],
        label_selector=OURS,
        watch_seconds=1.0,
        stall_seconds=0.5,
    )
    async with running(reflector):
        contact = reflector.last_contact
        await eventually(lambda: reflector.last_contact > contact + 1.5, within=5)  # though nothing happens
        stalled = relists("stalled")
        control_plane.pause_api()
        try:
            paused = time.monotonic()
            await eventually(lambda: relists("stalled") > stalled, within=5)
            assert reflector.last_contact < paused + 0.5
            assert reflector.synced.is_set()
        finally:
            control_plane.resume_api()
        resumed = time.monotonic()
        await put(kube, namespace, "c", "1")
        await eventually(lambda: Key(namespace, "c") in reflector.store)
        assert reflector.last_contact >= resumed
        await put(kube, namespace, "d", "1")
        await eventually(lambda: Key(namespace, "d") in reflector.store)


async def test_a_server_that_is_gone_and_comes_back(
    control_plane: ControlPlane, kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    await put(kube, namespace, "stays", "1")
    changes = Changes()
    reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS, on_change=changes)
    errors = relists("error")
    async with running(reflector):
        changes.take()
        control_plane.stop_api()
        stopped = time.monotonic()
        try:
            await eventually(lambda: relists("error") > errors)
            assert dict(reflector.store) == {Key(namespace, "stays"): "1"}
            assert reflector.last_contact < stopped + 0.5
        finally:
            control_plane.start_api()
        await put(kube, namespace, "new", "2")
        await eventually(lambda: Key(namespace, "new") in reflector.store, within=20)
        assert changes.seen == [("new", "2", None)]


async def test_starting_while_the_server_is_gone(
    control_plane: ControlPlane, kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    await put(kube, namespace, "c", "1")
    reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS)
    started = relists("start")
    control_plane.stop_api()
    try:
        task = asyncio.create_task(reflector.run())
        await eventually(lambda: relists("start") > started)
        assert not reflector.synced.is_set()
    finally:
        control_plane.start_api()
    await eventually(reflector.synced.is_set, within=20)
    assert dict(reflector.store) == {Key(namespace, "c"): "1"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_missing_right_is_logged_with_its_fix_and_tried_again(
    control_plane: ControlPlane, namespace: str, eventually: Eventually
) -> None:
    config = load_config(control_plane.kubeconfig)
    token = "wrong"
    stranger = type(config)(config.server, config.ssl, lambda: token)
    async with KubeClient(stranger) as kube:
        reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace])
        with capture_logs() as logs:
            task = asyncio.create_task(reflector.run())
            await eventually(lambda: logs)
        assert "grant get, list and watch on configmaps" in logs[0]["fix"]
        token = control_plane.token
        await eventually(reflector.synced.is_set)
        task.cancel()


async def test_what_on_change_raises_ends_it(kube: KubeClient, namespace: str) -> None:
    def fail(key: Key, new: str | None, old: str | None) -> None:
        raise RuntimeError("a bug")

    await put(kube, namespace, "c", "1")
    reflector = Reflector(kube, CONFIGMAPS, value_of, namespaces=[namespace], label_selector=OURS, on_change=fail)
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(reflector.run(), 10)
