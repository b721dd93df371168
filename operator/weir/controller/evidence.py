"""Why replicas are not Ready: from what kubelet and scheduler say to one reason and one sentence. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from weir.api.modeldeployment import ModelDeployment
from weir.controller.observed import NodeView, PodView, ReplicaSetView
from weir.observability.logs import redact
from weir.workload.pod import product_selector

LONGEST = 600
"""Characters of somebody else's words in a message."""


@dataclass(frozen=True)
class Evidence:
    """A condition's reason, and the words that prove it."""

    reason: str
    message: str


def replicas(count: int) -> str:
    """ "1 replica", "2 replicas"."""
    return f"{count} replica{'' if count == 1 else 's'}"


def said(words: str) -> str:
    """Other people's words in one line, without credentials, cut."""
    text = redact(" ".join(words.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def of_pods(pods: Sequence[PodView]) -> Evidence | None:
    """The first of the rules below that a replica which is not Ready meets; None where all is well or just takes its time.

    A pod that failed says nothing any more once a later one got further: a kubelet took it, or the scheduler looks for a node.
    """
    further = (p.created for p in pods if p.live and (p.phase == "Running" or p.container.waiting or p.unschedulable))
    latest = max(further, default="")
    suffering = sorted(
        (p for p in pods if not p.ready and not p.deleting and (p.live or p.created >= latest)),
        key=lambda p: (p.created, p.name),
    )
    for rule in (_image, _configuration, _memory, _crash, _failed):
        found = [(pod, words) for pod in suffering if (words := rule(pod))]
        if found:
            pod, evidence = found[0]
            others = f" (and {replicas(len(found) - 1)} more)" if len(found) > 1 else ""
            return Evidence(evidence.reason, f"{pod.name}{others}: {evidence.message}")
    return None


def of_replica_sets(replica_sets: Sequence[ReplicaSetView]) -> Evidence | None:
    """Pods that could not even be made: quota, Pod Security, a missing service account."""
    words = next((rs.failure for rs in replica_sets if rs.failure), "")
    return Evidence("PodsRefused", f"the API server refuses the pods: {said(words)}") if words else None


def of_capacity(mdep: ModelDeployment, pods: Sequence[PodView], nodes: Sequence[NodeView]) -> Evidence | None:
    """Replicas that no node takes, in the scheduler's words, and what there is instead."""
    waiting = [pod for pod in pods if pod.state == "unschedulable"]
    if not waiting:
        return None
    hint = _products(mdep, nodes)
    message = f"{replicas(len(waiting))} without a node: {said(waiting[0].unschedulable)}"
    return Evidence("Unschedulable", message + (f" {hint}" if hint else ""))


def _products(mdep: ModelDeployment, nodes: Sequence[NodeView]) -> str:
    """Names the accelerators that there are, where none is of the product asked for."""
    if mdep.spec.accelerator is None or not nodes:
        return ""
    resource = mdep.spec.accelerator.resource
    having = [node for node in nodes if node.allocatable.get(resource, "0") != "0"]
    if not having:
        return f"No node has {resource}."
    for label, product in product_selector(mdep.spec.accelerator).items():
        found = sorted({node.labels.get(label, "(unlabelled)") for node in having})
        if product not in found:
            return f"No node with {resource} has {label}={product}; there are: {', '.join(found)}."
    return ""


def _image(pod: PodView) -> Evidence | None:
    names = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
    if pod.container.waiting not in names:
        return None
    return Evidence("ImagePullFailed", f"{pod.container.waiting}: {said(pod.container.waiting_message)}")


def _configuration(pod: PodView) -> Evidence | None:
    if pod.container.waiting not in ("CreateContainerConfigError", "CreateContainerError"):
        return None
    words = pod.container.waiting_message
    return Evidence("SecretMissing" if "secret" in words.lower() else "ContainerNotCreated", said(words))


def _memory(pod: PodView) -> Evidence | None:
    if pod.container.ended != "OOMKilled":
        return None
    fix = "raise spec.template.resources.limits.memory"
    return Evidence("OutOfMemory", f"the engine was killed for using more memory than its limit (OOMKilled); {fix}")


def _crash(pod: PodView) -> Evidence | None:
    container = pod.container
    if not container.ended:
        return None
    words = last_line(container.last_words)
    text = f"the engine ended with exit code {container.exit_code} ({container.ended}), restarted {container.restarts} times"
    return Evidence("EngineCrashed", f"{text}: {words}" if words else text)


def _failed(pod: PodView) -> Evidence | None:
    return Evidence("PodFailed", said(pod.failure or "the pod failed")) if pod.phase == "Failed" else None


_ERROR_LINE = re.compile(r"(?:Error|Exception|error):\s*\S")
_WRAPPERS = ("See root cause above", "Engine core initialization failed")


def last_line(log: str) -> str:
    """The line of a log's end that tells most: the last error that is no mere wrapper, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.search(line) and not any(w in line for w in _WRAPPERS)]
    return said((errors or lines or [""])[-1])
