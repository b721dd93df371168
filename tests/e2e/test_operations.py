"""What operators of clusters do, and what befalls them, while clients go on asking: nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence

import aiohttp
import pytest

from demo.client import Record
from testbed.cluster import SPACE, SYSTEM, Answer, ClusterWorld, kill, ready, unanswered, until
from weir.kube.resources import LEASES, MODELDEPLOYMENTS, PODS, SPENDLEDGERS

pytestmark = pytest.mark.timeout(300)


async def test_a_new_revision_and_size_arrive_though_the_operator_is_killed_in_the_middle(world: ClusterWorld) -> None:
    """Surge: at every moment there are as many Ready replicas as before, or more."""
    await world.model("moves", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("moves", 2)
    (old,) = await world.replica_sets("moves")
    fewest = 2
    async with world.load("moves", clients=5) as records:
        await world.model("moves", engine={"args": ["--seed=2"]}, scaling={"minReplicas": 3, "maxReplicas": 3})

        async def begun() -> bool:
            return len(await world.replica_sets("moves")) == 2

        await until("the new revision to begin", begun)
        (operator,) = await world.own_pods("operator")
        kill(operator)

        async def arrived() -> bool:
            nonlocal fewest
            pods, sets = await world.pods("moves"), await world.replica_sets("moves")
            fewest = min(fewest, sum(ready(pod) for pod in pods))
            return len(sets) == 1 and [ready(pod) for pod in pods] == [True] * 3

        await until("three replicas of one revision", arrived, timeout=150)
        await world.until_ready("moves", 3)
    (new,) = await world.replica_sets("moves")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert "--seed=2" in new["spec"]["template"]["spec"]["containers"][0]["args"]
    assert fewest == 2
    assert not unanswered(records)
    (operator,) = await world.own_pods("operator")
    assert operator["status"]["containerStatuses"][0]["restartCount"] >= 1
    await world.until_condition("moves", "Reconciling", "False Converged")


async def test_a_gateway_killed_with_money_in_hand_is_counted_as_having_spent_it(world: ClusterWorld) -> None:
    budget = 50_000
    frontier = await world.frontier("leased", "--ttft=0.05", "--tokens-per-second=50", "--output-tokens=400")
    await world.provider("leased", frontier)
    targets = [{"providerRef": {"name": "leased"}, "model": "big"}]
    await world.model("leased", overflow={"targets": targets, "budget": {"usdPerDay": "0.05"}})
    await world.until_ready("leased")
    await world.until_condition("leased", "OverflowAvailable", "True TargetsAvailable")

    async def ask(tokens: int) -> Answer | None:
        try:
            return await world.chat("leased", headers={"x-weir-overflow": "only"}, max_tokens=tokens, stream=True)
        except aiohttp.ClientError:
            return None

    streams = [asyncio.create_task(ask(400)) for _ in range(4)]

    async def all_there() -> bool:
        return len(await frontier.requests()) == 4

    await until("the streams at the provider", all_there)
    holders = (await world.kube.get(SPENDLEDGERS, SPACE, "modeldeployment.leased"))["status"]["holders"]
    gateways = {pod["metadata"]["uid"]: pod for pod in await world.own_pods("gateway")}
    victim = gateways[holders[0]["holder"].partition(".")[0]]
    kill(victim)
    answers = await asyncio.gather(*streams)
    assert None in answers, "no stream was cut: it had none"
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers if answer)

    async def says() -> tuple[int, int]:
        bill = await frontier.bill()
        return bill, (await world.book("modeldeployment.leased"))[1]

    billed, committed = await says()
    assert 0 < billed <= committed <= budget
    assert committed >= 400 * 15, "what the dead one held stays spent"

    await world.until_restarted(victim)
    statuses: Counter[int] = Counter()

    async def client() -> None:
        status = 200
        while status == 200:
            answer = await ask(100)
            assert answer is not None
            status = answer.status
            statuses[status] += 1

    await asyncio.gather(*(client() for _ in range(5)))
    assert set(statuses) == {200, 429}

    async def given_back() -> bool:
        billed, committed = await says()
        assert billed <= committed <= budget
        spent, _ = await world.book("modeldeployment.leased")
        return spent + 400 * 15 * 4 >= committed

    await until("what the living did not spend to be given back", given_back)


async def test_rolling_restart_and_helm_upgrade_of_the_gateways_lose_nothing(world: ClusterWorld) -> None:
    await world.model("steady", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("steady", 2)
    kubectl = world.release.tools.kubectl
    before = {pod["metadata"]["uid"] for pod in await world.own_pods("gateway")}

    async def replaced() -> bool:
        found = (await world.kube.list(PODS, SYSTEM, label_selector="app.kubernetes.io/component=gateway")).items
        return len(found) == 2 and not before & {pod["metadata"]["uid"] for pod in found}

    async with world.load("steady", clients=5, tokens=120) as records:
        kubectl("rollout", "restart", "deployment/weir-gateway", f"--namespace={SYSTEM}")
        await until("other gateways", replaced)
        before = {pod["metadata"]["uid"] for pod in await world.own_pods("gateway")}
        restarted = len(records)
        changes = {"gateway": {"logLevel": "warning"}, "operator": {"logLevel": "debug"}}
        await asyncio.to_thread(world.release.install, **changes)
        await until("gateways with the new value", replaced)
    assert 0 < restarted < len(records)
    assert not unanswered(records)
    for component, level in (("gateway", "warning"), ("operator", "debug")):
        for pod in await world.own_pods(component):
            assert f"--log-level={level}" in pod["spec"]["containers"][0]["args"]


async def test_requests_flow_while_the_api_server_stands_still_for_half_a_minute(world: ClusterWorld) -> None:
    """SIGSTOP: connections stay and nothing answers, which is worse than a refusal."""
    await world.model("lasting", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("lasting", 2)
    cluster = world.release.cluster
    async with world.load("lasting", clients=4) as records:
        await until("the load", lambda: _has(records, 10))
        cluster.signal("kube-apiserver", signal.SIGSTOP)
        stopped = time.monotonic()
        answered = []
        try:
            while time.monotonic() - stopped < 30:
                seen = len(records)
                await asyncio.sleep(5)
                answered.append(len(records) - seen)
        finally:
            cluster.signal("kube-apiserver", signal.SIGCONT)
        await until("the API server", lambda: asyncio.to_thread(cluster.api.ready))
        await world.kube.patch(MODELDEPLOYMENTS, SPACE, "lasting", {"spec": {"scaling": {"maxReplicas": 3}}})
        await world.kube.patch(MODELDEPLOYMENTS, SPACE, "lasting", {"spec": {"scaling": {"minReplicas": 3}}})
        await world.until_ready("lasting", 3)
    assert min(answered) > 0, f"answers in each 5 s: {answered}"
    assert not unanswered(records)


async def _has(records: Sequence[Record], least: int) -> bool:
    return len(records) >= least


async def test_uninstalling_leaves_models_that_serve_and_nothing_of_weir(world: ClusterWorld) -> None:
    await world.model("stays", scaling={"minReplicas": 2, "maxReplicas": 2})
    await world.until_ready("stays", 2)
    pods = {pod["metadata"]["uid"] for pod in await world.pods("stays")}
    engine = world.release.cluster.door(SPACE, "stays", 80)  # the model's own Service
    await asyncio.to_thread(world.release.uninstall)
    kubectl = world.release.tools.kubectl
    try:
        kinds = "deployments,services,pods,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
        ours = ("--selector=app.kubernetes.io/name=weir", "--output=name", "--ignore-not-found")

        async def all_gone() -> bool:  # helm waits for Deployments, not for pods that still drain
            return not kubectl("get", kinds, "--all-namespaces", *ours)

        await until("everything of Weir to be gone", all_gone)
        assert not kubectl("get", "clusterroles,clusterrolebindings", *ours)
        crds = kubectl("get", "customresourcedefinitions", *ours).split()
        assert [name.partition("/")[2] for name in crds] == [
            "frontierproviders.weir.dev",
            "modeldeployments.weir.dev",
            "spendledgers.weir.dev",
        ]
        assert (await world.status("stays"))["display"]["ready"] == "2/2"
        body = {"model": "stays", "messages": [{"role": "user", "content": "Still there?"}], "max_tokens": 3}
        async with world.http.post(f"{engine}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
        assert {pod["metadata"]["uid"] for pod in await world.pods("stays")} == pods
    finally:
        await asyncio.to_thread(world.release.install)
    lease = await world.kube.get(LEASES, SYSTEM, "weir-operator")
    assert lease["spec"]["holderIdentity"]
    await world.until_ready("stays", 2)
    assert (await world.chat("stays", max_tokens=3)).status == 200
    assert {pod["metadata"]["uid"] for pod in await world.pods("stays")} == pods, "taken over as they were"
