"""`make demo`: says what it does and waits for, shows a live table, ends with a summary; exits 1 if it did not keep its promises."""

import asyncio
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import orjson

from controlplane import programs
from controlplane.programs import progress
from controlplane.run import RunError
from demo import client, summary, watch
from devcluster import DevCluster, Node, images
from devcluster.tools import ROOT, Tools
from weir.api.spendledger import SpendLedger, ledger_name
from weir.economics.pricing import Price
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.resources import SPENDLEDGERS
from weir.simulate import report, trace
from weir.simulate.report import Moment

HERE = Path(__file__).parent
OUTPUT = ROOT / "build" / "demo"
TRACE = HERE / "trace" / "azure2023-conv-8min.csv"
SPEED_UP = 6.0
SLOTS, USD_PER_HOUR, MINIMUM, MAXIMUM = 32, 2.95, 1, 8  # as in manifests/models.yaml
PRICE = Price(input=3_000_000, cached_input=300_000, output=15_000_000)
BUDGETS = {"modeldeployment/chat-small-budget": 100_000, "frontierprovider/frontier": 50_000_000}
FALL_SECONDS = 150
"""By then the replicas must be the minimum again: a minute of demand, the stabilization window, the panic window."""


class Demo:
    """One run on one cluster."""

    def __init__(self, cluster: DevCluster) -> None:
        self.cluster = cluster
        self.tools = Tools(cluster)

    def install(self) -> None:
        """Images, helm, YAML; returns when both models are Ready."""
        kubectl, manifests = self.tools.kubectl, HERE / "manifests"
        with progress("assembling and importing images", "demo:images"):
            self.cluster.import_image(images.build(self.cluster.folder / "images"))
        with progress("helm install weir", "demo:helm"):
            kubectl("apply", "-f", str(manifests / "namespaces.yaml"))
            self.tools.helm_install(HERE / "values.yaml")
        with progress("kubectl apply: a frontier API, a provider, two models", "demo:apply"):
            kubectl("apply", "-f", str(manifests / "frontier.yaml"))
            service = "--output=jsonpath={.spec.clusterIP}"
            address = kubectl("get", "service", "frontier", "--namespace=frontier", service)
            models = (manifests / "models.yaml").read_text().replace("FRONTIER_IP", address)
            kubectl("apply", "-f", "-", text=models)
            kubectl("rollout", "status", "deployment/frontier", "--namespace=frontier", "--timeout=60s")
            ready = ["wait", "--for=condition=Ready", "modeldeployments.weir.dev", "--all"]
            kubectl(*ready, "--namespace=inference", "--timeout=120s")

    async def play(self) -> tuple[summary.Summary, list[str], list[Moment]]:
        """The trace, then the fall back to the minimum; the summary, and what was promised and not kept."""
        arrivals = trace.speed_up(trace.read(TRACE), SPEED_UP)
        gateway = self.cluster.door("weir-system", "weir-gateway", 80)
        load_url = self.cluster.door("weir-system", self._gateway_pod(), 8081) + "/load"
        frontier = self.cluster.door("frontier", "frontier", 9000)
        print(
            f"\n{len(arrivals)} requests of a production chat service ({TRACE.name}), arriving {SPEED_UP:g} times as fast;"
            f"\ntarget 70 %, {SLOTS} slots a replica, {MINIMUM} to {MAXIMUM} replicas. The model's scale-down window is 10 s here"
            " (default 300 s), so that the demo ends soon.\n"
        )
        records: list[client.Record] = []
        async with KubeClient(load_config(self.cluster.kubeconfig)) as kube:
            began = time.monotonic()
            watcher = watch.Watcher(kube, load_url, SLOTS, USD_PER_HOUR, began, _show)
            watching = asyncio.create_task(watcher.run())
            try:
                await client.replay(gateway, ("chat", "chat-small-budget"), arrivals, records, began)
                load_ended = time.monotonic() - began
                print(f"\nthe last answer came after {load_ended:.0f} s; now the replicas must fall to {MINIMUM}\n")
                await self._until_minimum(watcher, watching)
            finally:
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
            bill = await _bill(frontier)
            budgets = {name: (await _spent(kube, name), limit) for name, limit in BUDGETS.items()}
        result = summary.summarize(
            records,
            watcher.moments,
            minimum=MINIMUM,
            price=PRICE,
            frontier_micros=round(watcher.moments[-1].usd_frontier * 1_000_000),
            trace=f"{TRACE.name} at {SPEED_UP:g}x arrivals",
            load_ended=load_ended,
            duration=time.monotonic() - began,
        )
        return (
            result,
            summary.broken_promises(result, minimum=MINIMUM, billed_micros=bill, budgets=budgets),
            watcher.moments,
        )

    def _gateway_pod(self) -> str:
        labels = "--selector=app.kubernetes.io/component=gateway"
        name = "--output=jsonpath={.items[0].metadata.name}"
        return self.tools.kubectl("get", "pods", "--namespace=weir-system", labels, name)

    @staticmethod
    async def _until_minimum(watcher: watch.Watcher, watching: asyncio.Task[None]) -> None:
        deadline = time.monotonic() + FALL_SECONDS
        while time.monotonic() < deadline and not watching.done():
            latest = watcher.moments[-1]
            if latest.replicas == latest.ready == MINIMUM:
                return
            await asyncio.sleep(0.5)
        if watching.done():
            await watching  # raises what ended it


async def _bill(frontier: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{frontier}/bill") as response:
        return int(orjson.loads(await response.read())["microUsd"])


async def _spent(kube: KubeClient, name: str) -> int:
    ledger = await kube.get(SPENDLEDGERS, "inference", ledger_name(*name.split("/")))
    return SpendLedger.from_object(ledger).status.spent_usd.micros


def _show(moment: Moment) -> None:
    """A row of the live table, every other second."""
    number = int(moment.at)
    if number % 30 == 0:
        print("  time  demand  slots   util  replicas      local  spilled  refused       GPU   frontier")
    if number % 2 == 0:
        utilization = f"{moment.utilization:6.0%}" if moment.utilization is not None else "     -"
        replicas = f"{moment.ready} of {moment.replicas}".rjust(9)
        counts = f"{moment.local:7}/s {moment.spilled:6}/s {moment.refused:6}/s"
        money = f"{moment.usd_gpu:9.4f} {moment.usd_frontier:10.4f}"
        print(
            f"{moment.at:5.0f}s {moment.demand:7.1f} {moment.slots:6} {utilization} {replicas} {counts} {money}",
            flush=True,
        )


def _write(result: summary.Summary, moments: list[Moment]) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "summary.json").write_bytes(orjson.dumps(result.to_json(), option=orjson.OPT_INDENT_2))
    facts = [(name.replace("_", " "), json.dumps(value)) for name, value in result.to_json().items()]
    subtitle = (
        f"{result.requests} requests, {result.trace}; simulated vLLM at the speed of Qwen3-32B on H100, frontier stub"
    )
    run = report.Run("Weir: one model held at 70 %", subtitle, summary.TARGET, MAXIMUM, moments, facts)
    report.write_page(run, OUTPUT / "report.html", OUTPUT / "report.png")


def main() -> int:
    """The whole demo."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C does
    start = time.monotonic()
    cluster = DevCluster([Node("gpu-a", gpus=10)])
    try:
        DevCluster.find_programs("kubectl", "helm")
        with progress("starting a cluster with 10 fake GPUs", "demo:cluster"):
            cluster.start()
        try:
            demo = Demo(cluster)
            demo.install()
            result, broken, moments = asyncio.run(demo.play())
        finally:
            cluster.stop()
    except (programs.UnavailableError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _write(result, moments)
    print(orjson.dumps(result.to_json(), option=orjson.OPT_INDENT_2).decode())
    print(
        f"\n{OUTPUT.relative_to(ROOT)}/summary.json, report.html, report.png; {time.monotonic() - start:.0f} s in all"
    )
    for sentence in broken:
        print(f"not as promised: {sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
