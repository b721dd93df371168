"""The real engine as a user would run it: a ModelDeployment on the dev cluster, asked through the gateway by OpenAI's SDK."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import openai
import orjson

from controlplane.programs import progress
from devcluster import DevCluster, Node, images
from devcluster.tools import ROOT, Tools
from real.install import VERSION, Environment, environment

HERE = Path(__file__).parent
OUTPUT = ROOT / "build" / "real" / "summary.json"
QUESTION = "What is the capital of France?"
ANSWER = "Paris"


@dataclass(frozen=True)
class Summary:
    """`build/real/summary.json`. `ready_seconds`: from kubectl apply until the ModelDeployment was Ready."""

    engine: str
    model: str
    ready_seconds: float
    whole: str
    streamed: str
    events: int
    completion_tokens: int

    def wrong(self) -> list[str]:
        """What is not as it should be, a sentence each. A wrong answer tells a broken engine, whatever its status says."""
        checks = [
            (ANSWER in self.whole, f"the answer to {QUESTION!r} was {self.whole!r}"),
            (self.whole == self.streamed, f"streamed it was {self.streamed!r}, at once {self.whole!r}"),
            (self.events > 1, f"the stream had {self.events} events with text"),
            (self.completion_tokens > 0, "no usage was reported"),
        ]
        return [sentence for good, sentence in checks if not good]


def run() -> Summary:
    """Starts the cluster, installs, applies, asks. Raises UnavailableError or RunError."""
    installed = environment()
    DevCluster.find_programs("kubectl", "helm")
    cluster = DevCluster([Node(gpus=0)])
    with progress("starting a cluster", "real:cluster"):
        cluster.start()
    try:
        tools = Tools(cluster)
        with progress("installing Weir", "real:helm"):
            cluster.import_image(images.build(cluster.folder / "images"))
            tools.kubectl("create", "namespace", "real")
            tools.helm_install(HERE / "values.yaml")
        began = time.monotonic()
        with progress(f"vLLM {VERSION} becoming Ready", "real:ready"):
            tools.kubectl("apply", "-f", "-", text=manifest(installed))
            wait = ["wait", "--for=condition=Ready", "modeldeployments.weir.dev/smollm2", "--namespace=real"]
            tools.kubectl(*wait, "--timeout=900s")
        ready = time.monotonic() - began
        with progress("asking it through the gateway", "real:ask"):
            summary = _ask(cluster.door("weir-system", "weir-gateway", 80), ready)
    finally:
        cluster.stop()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_bytes(orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2))
    return summary


def manifest(installed: Environment) -> str:
    """model.yaml with the folders of this machine."""
    folders = {"VENV": installed.venv, "PYTHON_HOME": installed.python, "MODEL": installed.model}
    text = (HERE / "model.yaml").read_text()
    for name, folder in folders.items():
        text = text.replace(f"${name}", str(folder))
    return text


def _ask(gateway: str, ready: float) -> Summary:
    client = openai.OpenAI(base_url=f"{gateway}/v1", api_key="none", timeout=300, max_retries=0)
    whole = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24
    )
    stream = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24, stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    return Summary(
        engine=f"vLLM {VERSION} on CPU",
        model="SmolLM2-135M-Instruct",
        ready_seconds=round(ready, 1),
        whole=whole.choices[0].message.content or "",
        streamed="".join(pieces),
        events=len(pieces),
        completion_tokens=whole.usage.completion_tokens if whole.usage else 0,
    )
