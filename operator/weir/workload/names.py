"""What the children of a ModelDeployment are called and labelled, and which revision of it they belong to. Pure."""

import hashlib
import json

from weir.api.modeldeployment import ModelDeployment
from weir.workload.defaults import WorkloadDefaults

MODEL_LABEL = "weir.dev/model"
REVISION_LABEL = "weir.dev/revision"
MANAGED_BY = {"app.kubernetes.io/managed-by": "weir"}
APP = {"app.kubernetes.io/name": "weir-model"}

MAX_CONCURRENCY_ANNOTATION = "weir.dev/max-concurrency"
"""On pods: the slots that this pod has, which is what gateways count against."""
DESIRED_ANNOTATION = "weir.dev/desired-replicas"
"""On ReplicaSets: how many replicas the model was wanted to have, over all revisions, when this one was last scaled.

It is written in the same request as spec.replicas, so a restarted operator reads back what it had decided."""
SERVED_ANNOTATION = "weir.dev/served"
"""On ReplicaSets: a replica of this revision was Ready once. Written once, never taken back."""

ENGINE_CONTAINER = "engine"
ENGINE_PORT_NAME = "http"
ENGINE_PORT = 8000
SERVICE_PORT = 80

# Part of every revision. Raise it only where replicas that run must be replaced because of how pods were rendered before:
# it restarts every model of every user.
_RENDERING = 1


def revision_of(mdep: ModelDeployment, defaults: WorkloadDefaults) -> str:
    """Ten hex digits that change when, and only when, the user changes what shapes the pod.

    It hashes what goes into the pod, not the manifest that comes out, so that an upgrade of Weir, which may render better, restarts
    no replica. Values equal to their default do not count: spelling one out is no change, nor is a new field of the API.
    """
    image = mdep.spec.engine.image or defaults.engine_image
    shape = mdep.spec.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, include={"model", "engine", "accelerator", "template"}
    )
    shape.get("accelerator", {}).pop("hourlyCostUSD", None)  # a price is no part of a pod
    text = json.dumps([_RENDERING, image, mdep.served_names, shape], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def replica_set_name(mdep: ModelDeployment, revision: str) -> str:
    """At most 63 characters, since the API holds names of ModelDeployments to 52."""
    return f"{mdep.metadata.name}-{revision}"


def service_url(mdep: ModelDeployment) -> str:
    """Inside the cluster. Clients go through the gateway instead, which knows where there is room."""
    return f"http://{mdep.metadata.name}.{mdep.metadata.namespace}.svc"


def child_labels(mdep: ModelDeployment) -> dict[str, str]:
    """Labels of everything made for it."""
    name = mdep.metadata.name
    return APP | MANAGED_BY | {"app.kubernetes.io/instance": name, MODEL_LABEL: name}


def revision_labels(mdep: ModelDeployment, revision: str) -> dict[str, str]:
    """Labels of the ReplicaSet and the pods of one revision."""
    return child_labels(mdep) | {REVISION_LABEL: revision}


def pod_selector(mdep: ModelDeployment) -> dict[str, str]:
    """Finds the pods of all its revisions."""
    return APP | {MODEL_LABEL: mdep.metadata.name}


def selector_text(labels: dict[str, str]) -> str:
    """As `kubectl -l` and the scale subresource take it."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def owner_reference(mdep: ModelDeployment) -> dict[str, object]:
    """Makes the garbage collector remove the child when its ModelDeployment goes.

    blockOwnerDeletion stays out: setting it needs the right to update finalizers of the owner, and would only serve foreground
    deletion.
    """
    return {
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": mdep.metadata.name,
        "uid": mdep.metadata.uid,
        "controller": True,
    }
