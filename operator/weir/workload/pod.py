"""The pod template of a revision: where it may run, what it mounts, what it may do. Pure."""

from typing import Any

from weir.api.modeldeployment import PRODUCT_LABELS, Accelerator, ModelDeployment
from weir.workload import engine, source
from weir.workload.defaults import Refused, WorkloadDefaults
from weir.workload.names import MAX_CONCURRENCY_ANNOTATION, pod_selector, revision_labels

Json = dict[str, Any]


def pod_template(mdep: ModelDeployment, revision: str, defaults: WorkloadDefaults) -> Json:
    """Raises Refused where the operator's configuration forbids what the spec asks for."""
    template, accelerator = mdep.spec.template, mdep.spec.accelerator
    refuse_host_paths(mdep, defaults)
    read_from = source.resolve(mdep.spec.model, defaults)
    spec: Json = {
        "containers": [engine.container(mdep, read_from, defaults)],
        "terminationGracePeriodSeconds": engine.grace_seconds(mdep.spec.engine),
        "automountServiceAccountToken": False,
        # A Service called "vllm" would otherwise set VLLM_PORT=tcp://..., which vLLM takes for its own setting.
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": dict(template.node_selector) | product_selector(accelerator),
        "tolerations": [*map(dict, template.tolerations), *_tolerations(accelerator)],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": pod_selector(mdep)},
            }
        ],
        "volumes": [
            # Tensor-parallel workers talk through it, and the runtime's default of 64 MiB is too small.
            {"name": "weir-shm", "emptyDir": {"medium": "Memory"}},
            *read_from.volumes,
            *map(dict, template.volumes),
        ],
    }
    optional: Json = {
        "affinity": template.affinity,
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "serviceAccountName": template.service_account_name,
        "imagePullSecrets": [dict(reference) for reference in template.image_pull_secrets],
    }
    annotations = dict(template.annotations) | {MAX_CONCURRENCY_ANNOTATION: str(mdep.spec.engine.max_concurrency)}
    return {
        "metadata": {"labels": dict(template.labels) | revision_labels(mdep, revision), "annotations": annotations},
        "spec": {key: value for key, value in (spec | optional).items() if value not in (None, {}, [])},
    }


def refuse_host_paths(mdep: ModelDeployment, defaults: WorkloadDefaults) -> None:
    """Raises Refused(HostPathNotAllowed) for a volume of the template that is a folder of the node."""
    names = [volume.get("name", "?") for volume in mdep.spec.template.volumes if "hostPath" in volume]
    if names and not defaults.allow_host_paths:
        raise Refused(
            "HostPathNotAllowed",
            f"spec.template.volumes {', '.join(names)} mount folders of the node, which this operator does not allow;"
            " use another kind of volume, or start the operator with --allow-host-paths",
        )


def product_selector(accelerator: Accelerator | None) -> dict[str, str]:
    """The node label that the accelerator's product asks for; empty where any will do."""
    if accelerator is None or accelerator.product is None:
        return {}
    return {accelerator.product_label or PRODUCT_LABELS[accelerator.resource]: accelerator.product}


def _tolerations(accelerator: Accelerator | None) -> list[Json]:
    # Accelerator nodes are tainted with their resource's name, so that nothing else fills them.
    if accelerator is None:
        return []
    return [{"key": accelerator.resource, "operator": "Exists", "effect": "NoSchedule"}]
