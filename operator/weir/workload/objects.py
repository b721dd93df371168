"""The objects made for a ModelDeployment: its Service, and a ReplicaSet for each revision. Pure."""

from typing import Any

from weir.api.modeldeployment import ModelDeployment
from weir.workload.defaults import WorkloadDefaults
from weir.workload.names import (
    DESIRED_ANNOTATION,
    ENGINE_PORT_NAME,
    MODEL_LABEL,
    REVISION_LABEL,
    SERVICE_PORT,
    child_labels,
    owner_reference,
    pod_selector,
    replica_set_name,
    revision_labels,
)
from weir.workload.pod import pod_template

Json = dict[str, Any]


def service(mdep: ModelDeployment) -> Json:
    """ClusterIP over the ready replicas of all revisions: for probes and for traffic that passes the gateway by."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(mdep, mdep.metadata.name, child_labels(mdep)),
        "spec": {
            "type": "ClusterIP",
            "selector": pod_selector(mdep),
            "ports": [
                {
                    "name": "http",
                    "port": SERVICE_PORT,
                    "protocol": "TCP",
                    "targetPort": ENGINE_PORT_NAME,
                    "appProtocol": "http",
                }
            ],
        },
    }


def replica_set(mdep: ModelDeployment, revision: str, replicas: int, desired: int, defaults: WorkloadDefaults) -> Json:
    """The ReplicaSet of a revision, with `replicas` of the `desired` that the model is to have over all revisions.

    Raises Refused where the operator's configuration forbids what the spec asks for.
    """
    metadata = _metadata(mdep, replica_set_name(mdep, revision), revision_labels(mdep, revision))
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": metadata | {"annotations": {DESIRED_ANNOTATION: str(desired)}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {MODEL_LABEL: mdep.metadata.name, REVISION_LABEL: revision}},
            "template": pod_template(mdep, revision, defaults),
        },
    }


def scaled_replica_set(namespace: str, name: str, uid: str, replicas: int, desired: int) -> Json:
    """What server-side apply needs to scale that very ReplicaSet and no other of its name."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "annotations": {DESIRED_ANNOTATION: str(desired)},
        },
        "spec": {"replicas": replicas},
    }


def _metadata(mdep: ModelDeployment, name: str, labels: dict[str, str]) -> Json:
    return {
        "namespace": mdep.metadata.namespace,
        "name": name,
        "labels": labels,
        "ownerReferences": [owner_reference(mdep)],
    }
