"""The engine container: vLLM's command line, its probes, how it is told to stop. Pure."""

import math
from typing import Any

from weir.api.modeldeployment import Accelerator, Engine, ModelDeployment
from weir.workload.defaults import WorkloadDefaults
from weir.workload.names import ENGINE_CONTAINER, ENGINE_PORT, ENGINE_PORT_NAME
from weir.workload.source import Source

Json = dict[str, Any]

ADMISSION_SLACK = 8
"""Requests that an engine takes beyond its slots. vLLM counts admissions approximately and gateways see each other's counts
a fraction of a second late; with none it would refuse requests that have a slot."""
STARTUP_PERIOD = 2
"""Seconds between startup probes: what a cold start loses at most between being ready and being seen to be."""
NOTICE_SECONDS = 5
"""Between a pod's deletion and SIGTERM: gateways see the deletion in milliseconds, one that watches anew in seconds."""
EXIT_SECONDS = 10
"""For the engine to end after its last request, before SIGKILL."""


def container(mdep: ModelDeployment, source: Source, defaults: WorkloadDefaults) -> Json:
    """The container named `engine`."""
    engine, template = mdep.spec.engine, mdep.spec.template
    built: Json = {
        "name": ENGINE_CONTAINER,
        "image": engine.image or defaults.engine_image,
        "args": arguments(mdep, source),
        "env": environment(engine, source),
        "ports": [{"name": ENGINE_PORT_NAME, "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": resources(template.resources, mdep.spec.accelerator),
        "startupProbe": _probe(STARTUP_PERIOD, math.ceil(engine.startup_timeout.seconds / STARTUP_PERIOD)),
        "readinessProbe": _probe(5, 3),
        # A busy engine answers late, and a restart would cut every stream it runs: only a minute of silence is death.
        "livenessProbe": _probe(10, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": NOTICE_SECONDS}}},
        # The end of the log becomes part of the pod's status, and from there of the ModelDeployment's conditions.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # runAsNonRoot, which Pod Security "restricted" also wants, is not set: vllm/vllm-openai runs as root.
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "weir-shm", "mountPath": "/dev/shm"}, *source.mounts, *template.volume_mounts],  # noqa: S108 - in the pod
    }
    if engine.command:
        built["command"] = list(engine.command)
    if template.image_pull_policy:
        built["imagePullPolicy"] = template.image_pull_policy
    return built


def arguments(mdep: ModelDeployment, source: Source) -> list[str]:
    """vLLM's arguments. The user's come first: of a repeated or abbreviated flag vLLM takes the last."""
    engine, accelerator = mdep.spec.engine, mdep.spec.accelerator
    own = [f"--model={source.model}"]
    if mdep.spec.model.revision:
        own.append(f"--revision={mdep.spec.model.revision}")
    own += ["--served-model-name", *mdep.served_names]
    own += [
        "--host=0.0.0.0",
        f"--port={ENGINE_PORT}",
        f"--max-num-seqs={engine.max_concurrency}",
        f"--max-num-queued-reqs={engine.max_concurrency + ADMISSION_SLACK}",
        f"--shutdown-timeout={_drain_seconds(engine)}",  # the default of 0 cuts live streams
        "--enable-prompt-tokens-details",
    ]
    if engine.max_model_len:
        own.append(f"--max-model-len={engine.max_model_len}")
    if accelerator and accelerator.count > 1:
        own.append(f"--tensor-parallel-size={accelerator.count}")
    return [*engine.args, *own]


def environment(engine: Engine, source: Source) -> list[Json]:
    """What the source needs, except where the user sets the same, then the user's."""
    theirs = {entry["name"] for entry in engine.env}
    return [entry for entry in source.env if entry["name"] not in theirs] + [dict(entry) for entry in engine.env]


def resources(template: Json | None, accelerator: Accelerator | None) -> Json:
    """The user's CPU and memory, and the accelerators: extended resources need a limit equal to the request."""
    merged: Json = {key: value for key, value in (template or {}).items() if key not in ("requests", "limits")}
    for side in ("requests", "limits"):
        amounts = dict((template or {}).get(side) or {})
        if accelerator:
            amounts[accelerator.resource] = str(accelerator.count)
        if amounts:
            merged[side] = amounts
    return merged


def grace_seconds(engine: Engine) -> int:
    """terminationGracePeriodSeconds: notice to gateways, then running requests, then the exit."""
    return NOTICE_SECONDS + _drain_seconds(engine) + EXIT_SECONDS


def _drain_seconds(engine: Engine) -> int:
    return math.ceil(engine.drain_timeout.seconds)


def _probe(period: int, failures: int) -> Json:
    # The timeout is longer than the default of 1 s: vLLM answers /health from the loop that also streams.
    check = {"httpGet": {"path": "/health", "port": ENGINE_PORT_NAME}, "timeoutSeconds": 5}
    return check | {"periodSeconds": period, "failureThreshold": failures}
