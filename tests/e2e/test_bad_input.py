"""What only the cluster can know: it becomes a condition with the evidence in it, and heals when its cause goes away.

All the models are applied at once and each test looks at one of them, since most of the time is spent waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from testbed.cluster import SPACE, ClusterWorld, Release, new_cluster_world, until
from weir.kube.resources import CONFIGMAPS, FRONTIERPROVIDERS

pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
LABEL = "example.com/product"
FAULT = {"name": "SIM_FAULT", "valueFrom": {"configMapKeyRef": {"name": "fault", "key": "fault"}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def misfits(weir_release: Release) -> AsyncIterator[ClusterWorld]:
    """A world with a model for each mistake."""
    async with new_cluster_world(weir_release) as world:
        target = {"providerRef": {"name": "nobody"}, "model": "big"}
        await world.model("lonely", overflow={"targets": [target]})
        await world.model("keyless", model={"source": "hf://org/model", "credentials": {"secretRef": {"name": "hf"}}})
        await world.model("picky", accelerator={"product": "B300", "productLabel": LABEL})
        await world.model("faceless", engine={"image": "weir.dev/late:dev"})
        await world.apply(CONFIGMAPS, "fault", data={"fault": "oom-on-start"})
        await world.model("crashing", engine={"env": [FAULT]})
        yield world


async def test_an_unknown_provider_stops_no_serving(misfits: ClusterWorld) -> None:
    words = "there is no FrontierProvider nobody"
    await misfits.until_condition("lonely", "OverflowAvailable", "False ProviderMissing", words)
    await misfits.until_condition("lonely", "Ready", "True Serving")
    answer = await misfits.chat("lonely", max_tokens=3)
    assert (answer.status, answer.headers["x-weir-backend"]) == (200, "local")

    frontier = await misfits.frontier("nobody")
    await misfits.provider("nobody", frontier, credentials={"secretRef": {"name": "not-there"}})
    words = f"there is no Secret not-there in namespace {SPACE}"
    await misfits.until_condition("nobody", "Ready", "False SecretMissing", words, FRONTIERPROVIDERS)
    await misfits.until_condition("lonely", "OverflowAvailable", "False ProviderNotReady", words)
    await misfits.provider("nobody", frontier)
    await misfits.until_condition("lonely", "OverflowAvailable", "True TargetsAvailable")


async def test_a_missing_secret(misfits: ClusterWorld) -> None:
    words = f"there is no Secret hf in namespace {SPACE}"
    await misfits.until_condition("keyless", "Ready", "False SecretMissing", words)
    await misfits.secret("hf", {"HF_TOKEN": "hf_token"})
    await misfits.until_condition("keyless", "Ready", "True Serving")
    await misfits.until_condition("keyless", "Stalled", "False Progressing")


async def test_a_product_that_no_node_has(misfits: ClusterWorld) -> None:
    message = await misfits.until_condition("picky", "CapacityAvailable", "False Unschedulable")
    assert "didn't match Pod's node affinity/selector" in message, "the scheduler's words"
    assert f"{LABEL}=B300" in message
    assert await misfits.until_condition("picky", "Ready", "False Unschedulable") == message
    kubectl = misfits.release.tools.kubectl
    kubectl("label", "nodes", "--all", f"{LABEL}=B300")
    await misfits.until_condition("picky", "Ready", "True Serving")
    await misfits.until_condition("picky", "CapacityAvailable", "True Scheduled")
    kubectl("label", "nodes", "--all", f"{LABEL}-")


async def test_an_image_that_is_not_there(misfits: ClusterWorld) -> None:
    await misfits.until_condition("faceless", "Ready", "False ImagePullFailed", "weir.dev/late:dev")
    for node in misfits.release.cluster.nodes.values():
        node.tag_image("weir.dev/engines:dev", "weir.dev/late:dev")
    await misfits.until_condition("faceless", "Ready", "True Serving")


async def test_an_engine_that_crashes_shows_its_last_words(misfits: ClusterWorld) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory"
    assert "exit code 1" in await misfits.until_condition("crashing", "Ready", "False EngineCrashed", words)
    await misfits.until_condition("crashing", "Stalled", "True EngineCrashed", words)

    about = ("--field-selector=involvedObject.name=crashing", "--output=custom-columns=:message")

    async def told() -> bool:
        events = misfits.release.tools.kubectl("get", "events", f"--namespace={SPACE}", *about)
        return words in events

    await until("an Event", told)
    await misfits.apply(CONFIGMAPS, "fault", data={"fault": "none"})
    await misfits.until_condition("crashing", "Ready", "True Serving", timeout=180)
    await misfits.until_condition("crashing", "Stalled", "False Progressing")
