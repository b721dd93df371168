"""At most one leads at any moment, somebody does soon, and whoever cannot be sure any more stops. Real API server, real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from controlplane import ControlPlane
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.lease import LeaderElection, LeaseLost
from weir.kube.resources import LEASES, Json

if TYPE_CHECKING:
    from tests.kube.conftest import Eventually

pytestmark = pytest.mark.controlplane

LEASE, RENEW, RETRY = 3.0, 2.0, 0.25

LEADER_PROCESS = """
import asyncio, sys
from pathlib import Path
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.lease import LeaderElection
from weir.observability.logs import configure_logging

async def lead():
    print("leading", flush=True)
    await asyncio.Event().wait()

async def main(kubeconfig, namespace, identity, lease, renew, retry):
    async with KubeClient(load_config(Path(kubeconfig))) as kube:
        election = LeaderElection(
            kube, namespace=namespace, name="weir", identity=identity,
            lease_seconds=float(lease), renew_seconds=float(renew), retry_seconds=float(retry),
        )
        await election.run(lead)

configure_logging()
asyncio.run(main(*sys.argv[1:]))
"""


def election(kube: KubeClient, namespace: str, identity: str) -> LeaderElection:
    return LeaderElection(
        kube,
        namespace=namespace,
        name="weir",
        identity=identity,
        lease_seconds=LEASE,
        renew_seconds=RENEW,
        retry_seconds=RETRY,
    )


class Work:
    """Something to lead, that says when it runs."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.finish = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.began.set()
        try:
            await self.finish.wait()
        finally:
            self.ended = True


async def spec(kube: KubeClient, namespace: str) -> Json:
    found: Json = (await kube.get(LEASES, namespace, "weir"))["spec"]
    return found


@asynccontextmanager
async def leader_process(
    plane: ControlPlane, namespace: str, identity: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that leads, until it is told otherwise. Gone at the end, whatever happens."""
    arguments = [str(plane.kubeconfig), namespace, identity, str(LEASE), str(RENEW), str(RETRY)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LEADER_PROCESS,
        *arguments,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"leading\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.send_signal(signal.SIGCONT)
        await process.communicate()


async def test_it_leads_until_the_work_is_done_and_then_lets_go(kube: KubeClient, namespace: str) -> None:
    mine, work = election(kube, namespace, "a"), Work()
    assert not mine.is_leader
    task = asyncio.create_task(mine.run(work))
    await asyncio.wait_for(work.began.wait(), 5)
    taken = await spec(kube, namespace)
    assert mine.is_leader
    assert (taken["holderIdentity"], taken["leaseDurationSeconds"], taken["leaseTransitions"]) == ("a", 3, 0)
    work.finish.set()
    await asyncio.wait_for(task, 5)
    assert not mine.is_leader
    assert "holderIdentity" not in await spec(kube, namespace)


async def test_it_renews(kube: KubeClient, namespace: str, eventually: Eventually) -> None:
    mine, work = election(kube, namespace, "a"), Work()
    task = asyncio.create_task(mine.run(work))
    await asyncio.wait_for(work.began.wait(), 5)
    first = await spec(kube, namespace)
    began = time.monotonic()
    await eventually(lambda: time.monotonic() > began + LEASE + 1.0 or task.done())
    assert mine.is_leader
    assert not task.done()
    last = await spec(kube, namespace)
    assert last["renewTime"] > first["renewTime"]
    assert last["acquireTime"] == first["acquireTime"]
    task.cancel()
    await asyncio.wait({task})


async def test_an_error_of_the_work_is_passed_on_and_the_lease_let_go(kube: KubeClient, namespace: str) -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await election(kube, namespace, "a").run(fail)
    assert "holderIdentity" not in await spec(kube, namespace)


async def test_of_many_exactly_one_leads_and_each_in_turn(control_plane: ControlPlane, namespace: str) -> None:
    """Five rivals; each leads for a moment, then lets go: never two at once, and everybody comes to lead."""
    leading: set[str] = set()
    led: list[str] = []

    async def rival(identity: str) -> None:
        async def lead() -> None:
            assert not leading, f"{identity} beside {leading}"
            leading.add(identity)
            await asyncio.sleep(RETRY / 2)
            leading.discard(identity)
            led.append(identity)

        async with KubeClient(load_config(control_plane.kubeconfig)) as kube:
            await election(kube, namespace, identity).run(lead)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for identity in "abcde":
            group.create_task(rival(identity))
    assert sorted(led) == list("abcde")


async def test_a_cancelled_leader_cleans_up_first_and_its_successor_need_not_wait(
    kube: KubeClient, namespace: str
) -> None:
    first, second = election(kube, namespace, "a"), election(kube, namespace, "b")
    work = Work()
    cleaned = asyncio.Event()

    async def lead() -> None:
        try:
            await work()
        finally:
            began = time.monotonic()
            while time.monotonic() < began + LEASE + 0.5:  # longer than a lease: it must be kept meanwhile
                assert first.is_leader
                assert (await spec(kube, namespace))["holderIdentity"] == "a"
                await asyncio.sleep(RETRY)
            cleaned.set()

    leader = asyncio.create_task(first.run(lead))
    await asyncio.wait_for(work.began.wait(), 5)
    successor = Work()
    waiting = asyncio.create_task(second.run(successor))
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    let_go = time.monotonic()
    assert cleaned.is_set()
    assert not successor.began.is_set()
    await asyncio.wait_for(successor.began.wait(), 5)
    assert time.monotonic() - let_go < 1.0 < LEASE
    assert (await spec(kube, namespace))["leaseTransitions"] == 1
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_a_killed_leader_is_succeeded_when_its_lease_has_run_out(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    async with leader_process(control_plane, namespace, "a") as process:
        work = Work()
        waiting = asyncio.create_task(election(kube, namespace, "b").run(work))
        process.kill()
        killed = time.monotonic()
        await asyncio.wait_for(work.began.wait(), LEASE + 5)
        assert LEASE - RENEW < time.monotonic() - killed < LEASE + 2.0
        assert (await spec(kube, namespace))["holderIdentity"] == "b"
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_a_frozen_leader_that_thaws_finds_out_and_exits(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    async with leader_process(control_plane, namespace, "a") as process:
        process.send_signal(signal.SIGSTOP)
        work = Work()
        waiting = asyncio.create_task(election(kube, namespace, "b").run(work))
        await asyncio.wait_for(work.began.wait(), LEASE + 5)
        process.send_signal(signal.SIGCONT)
        _, errors = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, b"LeaseLost" in errors) == (1, True)
        assert (await spec(kube, namespace))["holderIdentity"] == "b"
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_a_leader_that_cannot_reach_the_server_stops_before_its_lease_runs_out(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    for stop, start in (
        (control_plane.pause_api, control_plane.resume_api),
        (control_plane.stop_api, control_plane.start_api),
    ):
        mine, work = election(kube, namespace, f"a-{stop.__name__}"), Work()
        task = asyncio.create_task(mine.run(work))
        await asyncio.wait_for(work.began.wait(), LEASE + 5)
        stop()
        try:
            stopped = time.monotonic()
            with pytest.raises(LeaseLost, match="not renewed for 2 s"):
                await asyncio.wait_for(task, 10)
            assert RENEW - RETRY - 0.5 < time.monotonic() - stopped < LEASE
            assert work.ended
        finally:
            start()


async def test_work_that_does_not_stop_does_not_keep_a_lost_leader(
    control_plane: ControlPlane, kube: KubeClient, namespace: str
) -> None:
    began, free = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        began.set()
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(election(kube, namespace, "a").run(stubborn))
    await asyncio.wait_for(began.wait(), 5)
    control_plane.pause_api()
    try:
        paused = time.monotonic()
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(task, 10)
        assert time.monotonic() - paused < LEASE + 0.5
    finally:
        free.set()
        control_plane.resume_api()


async def test_a_lease_taken_by_hand_is_lost_at_once(kube: KubeClient, namespace: str) -> None:
    work = Work()
    task = asyncio.create_task(election(kube, namespace, "a").run(work))
    await asyncio.wait_for(work.began.wait(), 5)
    await kube.patch(LEASES, namespace, "weir", {"spec": {"holderIdentity": "somebody"}})
    with pytest.raises(LeaseLost, match="held by somebody"):
        await asyncio.wait_for(task, 5)
    assert (await spec(kube, namespace))["holderIdentity"] == "somebody"


async def test_a_note_on_the_lease_and_its_deletion_do_not_end_it(
    kube: KubeClient, namespace: str, eventually: Eventually
) -> None:
    mine, work = election(kube, namespace, "a"), Work()
    task = asyncio.create_task(mine.run(work))
    await asyncio.wait_for(work.began.wait(), 5)
    await kube.patch(LEASES, namespace, "weir", {"metadata": {"annotations": {"note": "hello"}}})
    began = time.monotonic()
    await eventually(lambda: time.monotonic() > began + RENEW + 0.5 or task.done())
    assert not task.done()
    await kube.delete(LEASES, namespace, "weir")
    began = time.monotonic()
    await eventually(lambda: time.monotonic() > began + RENEW + 0.5 or task.done())
    assert not task.done()
    assert (await spec(kube, namespace))["holderIdentity"] == "a"
    task.cancel()
    await asyncio.wait({task})


async def test_times_in_the_record_mean_nothing(kube: KubeClient, namespace: str) -> None:
    """A record that looks twenty years old may be a live leader's with a wrong clock: it gets its time as seen from here."""
    ghost = {
        "holderIdentity": "ghost",
        "leaseDurationSeconds": 2,
        "acquireTime": "2006-01-01T00:00:00.000000Z",
        "renewTime": "2006-01-01T00:00:00.000000Z",
        "leaseTransitions": 7,
    }
    await kube.create(LEASES, {"metadata": {"namespace": namespace, "name": "weir"}, "spec": ghost})
    work = Work()
    began = time.monotonic()
    task = asyncio.create_task(election(kube, namespace, "a").run(work))
    await asyncio.wait_for(work.began.wait(), 10)
    assert 2.0 <= time.monotonic() - began < 3.5
    assert (await spec(kube, namespace))["leaseTransitions"] == 8
    task.cancel()
    await asyncio.wait({task})


def test_times_that_could_not_keep_two_leaders_apart_are_refused(kube: KubeClient) -> None:
    with pytest.raises(ValueError, match="two leaders apart"):
        LeaderElection(kube, namespace="a", name="b", identity="c", lease_seconds=10, renew_seconds=10)
