"""Where a model is read from: what each form of spec.model.source means to the engine and to its pod. Pure."""

from dataclasses import dataclass
from posixpath import basename
from typing import Any

from weir.api.modeldeployment import Model
from weir.workload.defaults import Refused, WorkloadDefaults

Json = dict[str, Any]

HF_CACHE = "/var/cache/huggingface"
MODELS = "/models"


@dataclass(frozen=True)
class Source:
    """What a pod needs to read its model."""

    model: str
    """What vLLM is told: a Hugging Face id, or a path in the container."""
    env: tuple[Json, ...] = ()
    volumes: tuple[Json, ...] = ()
    mounts: tuple[Json, ...] = ()


def resolve(model: Model, defaults: WorkloadDefaults) -> Source:
    """Raises Refused(HostPathNotAllowed) for file:// where the operator's configuration forbids it."""
    scheme, _, rest = model.source.partition("://")
    if scheme == "hf":
        return _hugging_face(rest, model)
    if scheme == "pvc":
        return _claim(rest)
    return _host_path(rest, defaults)


def _hugging_face(model_id: str, model: Model) -> Source:
    env: list[Json] = [{"name": "HF_HOME", "value": HF_CACHE}]
    if model.credentials:
        reference = {"name": model.credentials.secret_ref.name, "key": "HF_TOKEN"}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return Source(
        model=model_id,
        env=tuple(env),
        # An emptyDir outlives the container, so a crashed engine does not fetch its weights again.
        volumes=({"name": "weir-cache", "emptyDir": {}},),
        mounts=({"name": "weir-cache", "mountPath": HF_CACHE},),
    )


# A model on disk needs nothing from the hub: without this vLLM still asks it for newer files, and an air-gapped cluster
# waits for those requests to time out.
_OFFLINE: tuple[Json, ...] = ({"name": "HF_HUB_OFFLINE", "value": "1"},)


def _claim(rest: str) -> Source:
    claim, _, path = rest.partition("/")
    mount = f"{MODELS}/{claim}"
    return Source(
        # The whole claim is mounted: a subPath that is not there would be created on the volume instead of reported.
        model=f"{mount}/{path}".rstrip("/"),
        env=_OFFLINE,
        volumes=({"name": "weir-model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},),
        mounts=({"name": "weir-model", "mountPath": mount, "readOnly": True},),
    )


def _host_path(path: str, defaults: WorkloadDefaults) -> Source:
    if not defaults.allow_host_paths:
        raise Refused(
            "HostPathNotAllowed",
            f"spec.model.source file://{path} reads a folder of the node, which this operator does not allow;"
            " use hf:// or pvc://, or start the operator with --allow-host-paths",
        )
    path = path.rstrip("/")
    mount = f"{MODELS}/{basename(path)}"
    # With a type the kubelet reports a missing path; without one it makes an empty folder on the node.
    kind = "File" if path.endswith(".gguf") else "Directory"
    return Source(
        model=mount,
        env=_OFFLINE,
        volumes=({"name": "weir-model", "hostPath": {"path": path, "type": kind}},),
        mounts=({"name": "weir-model", "mountPath": mount, "readOnly": True},),
    )
