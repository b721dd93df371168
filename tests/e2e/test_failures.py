"""Replicas that die and children that somebody deletes: clients notice as little as can be."""

from __future__ import annotations

import openai
import pytest

from testbed.cluster import SPACE, ClusterWorld, kill, unanswered, until
from weir.kube.resources import PODS, REPLICASETS, SERVICES, Json, Resource

pytestmark = pytest.mark.timeout(240)


async def test_a_replica_killed_before_its_first_token_costs_no_client_anything(world: ClusterWorld) -> None:
    await world.model("dies", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("dies", 2)
    victim, _ = await world.pods("dies")
    await world.break_engine(
        victim, {"kind": "hang"}
    )  # it takes requests and gives no token: all that it has can be lost
    async with world.load("dies", clients=6) as records:
        await until("requests to hang", lambda: _runs(world, victim, 3))
        stuck = await world.running(victim)
        before = len(records)
        kill(victim)
        await world.until_restarted(victim)
        await until("the restarted replica to be used", lambda: _runs(world, victim, 1))
    assert len(records) - before > stuck
    assert not unanswered(records)
    assert {record.backend for record in records} == {"local"}


async def _runs(world: ClusterWorld, pod: Json, least: int) -> bool:
    return await world.running(pod) >= least


async def test_a_replica_killed_in_mid_stream_ends_the_stream_with_an_error(world: ClusterWorld) -> None:
    await world.model("breaks")
    await world.until_ready("breaks")
    (pod,) = await world.pods("breaks")
    content = []
    async with openai.AsyncOpenAI(base_url=f"{world.release.url}/v1", api_key="sk-anything", max_retries=3) as sdk:
        stream = await sdk.chat.completions.create(
            model="breaks", messages=[{"role": "user", "content": "?"}], max_tokens=10_000, stream=True
        )
        with pytest.raises(openai.APIError, match="the stream broke before it was complete"):  # noqa: PT012 - in mid-stream
            async for chunk in stream:
                content.append(chunk.choices[0].delta.content)
                if len(content) == 10:
                    kill(pod)
    assert len(content) >= 10

    async def answers() -> bool:
        return (await world.chat("breaks", max_tokens=3)).status == 200

    await until("the restarted replica to serve", answers)


async def test_children_removed_by_hand_come_back_and_no_request_is_lost(world: ClusterWorld) -> None:
    await world.model("parent", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("parent", 2)
    async with world.load("parent", clients=3) as records:
        for resource in (SERVICES, REPLICASETS, PODS):
            gone = (await live(world, resource, "parent")).popitem()
            await world.kube.delete(resource, SPACE, gone[0])

            async def another(resource: Resource = resource, uid: str = gone[1]) -> bool:
                found = await live(world, resource, "parent")
                return bool(found) and uid not in found.values()

            await until(f"another {resource.kind}", another)
            await world.until_ready("parent", 2)
    assert records
    assert not unanswered(records)


async def live(world: ClusterWorld, resource: Resource, model: str) -> dict[str, str]:
    """Name -> uid of a model's children that are not going."""
    found = (await world.kube.list(resource, SPACE, label_selector=f"weir.dev/model={model}")).items
    return {
        obj["metadata"]["name"]: obj["metadata"]["uid"] for obj in found if "deletionTimestamp" not in obj["metadata"]
    }
