"""helm install, one YAML, and OpenAI's own SDK is answered."""

from __future__ import annotations

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from controlplane.run import RunError
from testbed.cluster import SPACE, SYSTEM, ClusterWorld, ready

pytestmark = pytest.mark.timeout(300)


async def test_both_programs_run_where_nothing_but_restricted_pods_may(world: ClusterWorld) -> None:
    kubectl = world.release.tools.kubectl
    for component, count in (("operator", 1), ("gateway", 2)):
        pods = await world.own_pods(component)
        assert [ready(pod) for pod in pods] == [True] * count
    with pytest.raises(RunError, match='violates PodSecurity "restricted'):
        kubectl("run", "plain", "--image=weir.dev/weir:dev", "--dry-run=server", f"--namespace={SYSTEM}")


async def test_a_model_becomes_ready_and_answers_the_openai_sdk(world: ClusterWorld) -> None:
    await world.model("first")
    assert await world.until_condition("first", "Ready", "True Serving") == "1 of 1 replicas are Ready"
    async with openai.AsyncOpenAI(base_url=f"{world.release.url}/v1", api_key="sk-anything", max_retries=0) as sdk:
        assert "first" in [model.id async for model in sdk.models.list()]
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a weir?"}]
        raw = await sdk.chat.completions.with_raw_response.create(model="first", messages=messages, max_tokens=20)
        assert (raw.headers["x-weir-backend"], raw.headers["x-weir-reason"]) == ("local", "slot-free")
        (pod,) = await world.pods("first")
        assert raw.headers["x-weir-replica"] == pod["metadata"]["name"]
        whole = raw.parse()
        assert isinstance(whole, ChatCompletion)
        assert whole.model == "first"
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert 0 < whole.usage.completion_tokens <= 20

        stream = await sdk.chat.completions.create(model="first", messages=messages, max_tokens=20, stream=True)
        pieces = [chunk.choices[0] async for chunk in stream]
        assert len([piece for piece in pieces if piece.delta.content]) > 1, "it came in one piece"
        assert pieces[-1].finish_reason in ("stop", "length")

        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await sdk.chat.completions.create(model="second", messages=messages)


async def test_kubectl_shows_and_scales_it(world: ClusterWorld) -> None:
    kubectl = world.release.tools.kubectl
    await world.model("manual", replicas=1, scaling={"policy": "Manual"})
    await world.until_ready("manual", 1)
    kubectl("scale", "modeldeployments.weir.dev/manual", "--replicas=2", f"--namespace={SPACE}")
    await world.until_ready("manual", 2)
    header, row = kubectl("get", "mdep", "manual", f"--namespace={SPACE}").splitlines()
    assert header.split() == ["NAME", "READY", "UTIL", "TARGET", "OVERFLOW", "AGE"]
    assert row.split()[:2] == ["manual", "2/2"]
