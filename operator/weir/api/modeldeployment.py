"""ModelDeployment: one model, served by vLLM replicas at a target utilization, with overflow to a provider."""

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue

from weir.api.base import ApiModel, CustomResource, ObjectMeta, Rule
from weir.api.conditions import Condition
from weir.api.quantity import Duration, Usd

OWNED_FLAGS = (
    "--model", "--served-model-name", "--revision", "--host", "--port", "--max-num-seqs", "--max-num-queued-reqs",
    "--max-model-len", "--tensor-parallel-size", "--shutdown-timeout", "--config",
)  # fmt: skip
PRODUCT_LABELS = {"nvidia.com/gpu": "nvidia.com/gpu.product", "amd.com/gpu": "amd.com/gpu.product-name"}

# A raw piece of PodSpec: validated by the API server when the pod is made, so its schema is not repeated here.
PASSED_ON: dict[str, JsonValue] = {"x-kubernetes-preserve-unknown-fields": True}
_ENV_VAR: dict[str, JsonValue] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "maxLength": 256}, "value": {"type": "string"}},
    **PASSED_ON,
}


class SecretRef(ApiModel):
    """A Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253)


class ModelCredentials(ApiModel):
    """What the model source needs to be read: a Secret with the key HF_TOKEN."""

    secret_ref: SecretRef


class Model(ApiModel):
    """What is served, and under which names."""

    source: str = Field(
        max_length=1024,
        description="hf://ORG/NAME (Hugging Face), pvc://CLAIM/PATH, or file:///PATH on the node (only where the operator allows it)",
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.matches('^(hf://[^/]+/[^/]+|pvc://[a-z0-9][a-z0-9.-]*(/.*)?|file:///.+)$')",
                    "message": "spec.model.source must be hf://ORG/NAME, pvc://CLAIM/PATH or file:///ABSOLUTE/PATH",
                }
            ]
        },
    )
    revision: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="commit, tag or branch of an hf:// source; default: its main branch",
    )
    served_names: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="names clients ask for; default: metadata.name. The oldest object that claims a name keeps it",
        json_schema_extra={
            "items": {"type": "string", "minLength": 1, "maxLength": 256},
            "x-kubernetes-list-type": "set",
        },
    )
    credentials: ModelCredentials | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.revision) || self.source.startsWith('hf://')",
            message="spec.model.revision belongs to an hf:// source; remove it, or use hf://ORG/NAME",
            field_path=".revision",
        ),
        Rule(
            rule="!has(self.credentials) || self.source.startsWith('hf://')",
            message="spec.model.credentials is read for hf:// sources only; remove it",
            field_path=".credentials",
        ),
    )


class Engine(ApiModel):
    """How vLLM is run."""

    image: str | None = Field(
        None, min_length=1, max_length=512, description="default: the operator's --default-engine-image"
    )
    command: tuple[str, ...] = Field(
        (), max_length=16, description="replaces the image's entrypoint (default: the image's own)"
    )
    args: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="further vLLM arguments, placed before Weir's own so that what Weir owns wins however it is spelled",
        json_schema_extra={"items": {"type": "string", "maxLength": 4096}},
    )
    env: tuple[dict[str, Any], ...] = Field(
        (),
        max_length=64,
        description="as in a container",
        json_schema_extra={"items": _ENV_VAR},
    )
    max_model_len: int | None = Field(
        None, ge=1, le=100_000_000, description="context window in tokens; default: the model's own"
    )
    max_concurrency: int = Field(
        64,
        ge=1,
        le=4096,
        description="requests one replica runs at once: its slots, and what utilization is a share of",
    )
    startup_timeout: Duration = Field(Duration("20m"), description="how long a replica may load before it is restarted")
    drain_timeout: Duration = Field(
        Duration("5m"), description="how long running requests may finish after their replica is told to go"
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.args) || self.args.all(a, !({flags}).exists(f, a == f || a.startsWith(f + '=')))".format(
                flags="[" + ", ".join(f"'{flag}'" for flag in OWNED_FLAGS) + "]"
            ),
            message="spec.engine.args must not set what Weir sets itself: use spec.model.source, revision and servedNames,"
            " spec.engine.maxConcurrency, maxModelLen and drainTimeout, spec.accelerator.count instead",
            field_path=".args",
        ),
        Rule(
            rule="duration(self.startupTimeout) >= duration('10s')",
            message="spec.engine.startupTimeout must be 10s or more",
            field_path=".startupTimeout",
        ),
        Rule(
            rule="duration(self.drainTimeout) <= duration('1h')",
            message="spec.engine.drainTimeout must be 1h or less",
            field_path=".drainTimeout",
        ),
    )


class Accelerator(ApiModel):
    """The GPUs of one replica. Without it the engine runs on the CPU."""

    resource: str = Field(
        "nvidia.com/gpu", min_length=1, max_length=253, description="the extended resource to ask for"
    )
    count: int = Field(1, ge=1, le=64, description="accelerators per replica; vLLM's tensor parallel size")
    product: str | None = Field(
        None, min_length=1, max_length=63, description="value of the node's product label, e.g. NVIDIA-H100-80GB-HBM3"
    )
    product_label: str | None = Field(
        None, min_length=1, max_length=253, description="default: by resource, for NVIDIA and AMD"
    )
    hourly_cost_usd: Usd | None = Field(
        None, alias="hourlyCostUSD", description="per accelerator; shown in status and metrics"
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule=f"!has(self.product) || has(self.productLabel) || self.resource in {list(PRODUCT_LABELS)}",
            message="spec.accelerator.productLabel must name the node label that holds the product of this resource",
            field_path=".product",
        ),
        Rule(
            rule="!has(self.productLabel) || has(self.product)",
            message="spec.accelerator.productLabel does nothing without spec.accelerator.product; set the product too",
            field_path=".productLabel",
        ),
    )


_OBJECT: dict[str, JsonValue] = {"type": "object", **PASSED_ON}
_OBJECTS: dict[str, JsonValue] = {"items": {"type": "object", **PASSED_ON}}
_AMOUNTS: dict[str, JsonValue] = {
    "type": "object",
    "additionalProperties": {
        "x-kubernetes-int-or-string": True,
        "maxLength": 64,
        "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
    },
}
_RESOURCES: dict[str, JsonValue] = _OBJECT | {"properties": {"requests": _AMOUNTS, "limits": _AMOUNTS}}


class Template(ApiModel):
    """Passed on to the replicas' pods as it is."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = Field((), json_schema_extra=_OBJECTS)
    affinity: dict[str, Any] | None = Field(None, json_schema_extra=_OBJECT)
    resources: dict[str, Any] | None = Field(
        None, description="CPU and memory of the engine container", json_schema_extra=_RESOURCES
    )
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    service_account_name: str | None = None
    image_pull_secrets: tuple[dict[str, Any], ...] = Field((), json_schema_extra=_OBJECTS)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    volumes: tuple[dict[str, Any], ...] = Field(
        (), description="hostPath only where the operator allows it", json_schema_extra=_OBJECTS
    )
    volume_mounts: tuple[dict[str, Any], ...] = Field((), json_schema_extra=_OBJECTS)


class ScalingPolicyRule(ApiModel):
    """At most `value` (replicas, or percent of them) in `periodSeconds`, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"]
    value: int = Field(ge=1, le=100_000)
    period_seconds: int = Field(ge=1, le=1800)


class ScalingRules(ApiModel):
    """One direction of `behavior`, as in autoscaling/v2."""

    stabilization_window_seconds: int | None = Field(None, ge=0, le=3600, description="default: 0 up, 300 down")
    policies: tuple[ScalingPolicyRule, ...] = Field((), max_length=16, description="none: no limit on the pace")
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"


class Behavior(ApiModel):
    """Exactly the behavior of autoscaling/v2."""

    scale_up: ScalingRules = ScalingRules()
    scale_down: ScalingRules = ScalingRules()


class Scaling(ApiModel):
    """How many replicas, and what decides it."""

    policy: Literal["Utilization", "Manual"] = Field(
        "Utilization", description="Manual: spec.replicas, through kubectl scale, an HPA or KEDA"
    )
    min_replicas: int = Field(1, ge=0, le=10_000)
    max_replicas: int = Field(1, ge=1, le=10_000)
    target_utilization: int = Field(
        70, ge=10, le=100, description="percent of the replicas' slots that demand should fill"
    )
    idle_timeout: Duration | None = Field(
        None, description="without a request for this long the last replica goes (default 10m); with minReplicas 0 only"
    )
    max_pending: int = Field(4, ge=1, le=1000, description="replicas asked for beyond what the cluster can schedule")
    behavior: Behavior = Behavior()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.minReplicas <= self.maxReplicas",
            message="spec.scaling.minReplicas must not be above spec.scaling.maxReplicas",
            field_path=".minReplicas",
        ),
        Rule(
            rule="!has(self.idleTimeout) || self.minReplicas == 0",
            message="spec.scaling.idleTimeout does nothing unless spec.scaling.minReplicas is 0; set that, or remove it",
            field_path=".idleTimeout",
        ),
    )

    @property
    def idle_seconds(self) -> float:
        """Seconds without a request before the last replica goes."""
        return (self.idle_timeout or Duration("10m")).seconds


class Queue(ApiModel):
    """Requests that wait for a local slot."""

    max_length: int = Field(1000, ge=0, le=1_000_000, description="waiting requests per gateway")
    max_wait: Duration = Field(Duration("30s"), description="the longest a request waits before it is refused with 429")
    cold_start_wait: Duration = Field(
        Duration("10m"), description="the same while no replica is up yet and nothing may spill"
    )


class ProviderRef(ApiModel):
    """A provider in the same namespace."""

    kind: Literal["FrontierProvider"] = "FrontierProvider"
    name: str = Field(min_length=1, max_length=253)


class OverflowTarget(ApiModel):
    """Where a request may go, and what it is called there."""

    provider_ref: ProviderRef
    model: str = Field(min_length=1, max_length=256, description="a name in the provider's spec.models")


class Budget(ApiModel):
    """What may be spent, in a UTC day."""

    usd_per_day: Usd


OverflowCause = Literal["Saturated", "ColdStart", "ReplicaFailure"]


class Overflow(ApiModel):
    """What may leave the cluster, when, and for how much."""

    targets: tuple[OverflowTarget, ...] = Field(min_length=1, max_length=8, description="tried in order")
    hold_time: Duration = Field(
        Duration("500ms"), description="how long a request waits for a local slot before it spills"
    )
    causes: tuple[OverflowCause, ...] = Field(
        ("Saturated", "ColdStart", "ReplicaFailure"),
        min_length=1,
        max_length=3,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    budget: Budget | None = Field(None, description="of this model, beside the provider's own")
    drop_parameters: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="request fields that may be removed on the way out; any other that the provider does not know keeps the request here",
        json_schema_extra={
            "items": {"type": "string", "minLength": 1, "maxLength": 128},
            "x-kubernetes-list-type": "set",
        },
    )
    data_policy: Literal["Allow", "LocalOnly", "RequireHeader"] = Field(
        "Allow", description="RequireHeader: spills only requests that say `x-weir-overflow: allow`"
    )


class Rollout(ApiModel):
    """How a new revision replaces the old one, one replica at a time."""

    strategy: Literal["Surge", "Replace"] = Field(
        "Surge", description="Surge needs a spare accelerator; Replace takes the old replica away first"
    )


class ModelDeploymentSpec(ApiModel):
    """What the user wants."""

    model: Model
    engine: Engine = Engine()
    accelerator: Accelerator | None = None
    template: Template = Template()
    replicas: int | None = Field(
        None, ge=0, le=10_000, description="used by policy Manual, through the scale subresource"
    )
    scaling: Scaling = Scaling()
    queue: Queue = Queue()
    overflow: Overflow | None = None
    rollout: Rollout = Rollout()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.scaling.policy != 'Manual' || has(self.replicas)",
            message="spec.scaling.policy Manual needs spec.replicas; set it, or use policy Utilization",
            field_path=".replicas",
        ),
        Rule(
            rule="!has(self.replicas) || self.scaling.policy == 'Manual'",
            message="spec.replicas is used by spec.scaling.policy Manual only; set spec.scaling.minReplicas and maxReplicas instead",
            field_path=".replicas",
        ),
        Rule(
            rule="!has(self.overflow) || duration(self.overflow.holdTime) <= duration(self.queue.maxWait)",
            message="spec.overflow.holdTime must not be above spec.queue.maxWait",
        ),
        Rule(
            rule="!has(self.model.credentials) || !has(self.engine.env) || !self.engine.env.exists(e, e.name == 'HF_TOKEN')",
            message="spec.engine.env must not set HF_TOKEN beside spec.model.credentials; remove one of them",
        ),
    )


class Display(ApiModel):
    """What the printer columns show."""

    ready: str = ""
    utilization: str = ""
    overflow: str = ""


class ServingStatus(ApiModel):
    """Load and capacity, rounded; `weir_model_*` metrics have it live."""

    utilization_percent: int | None = None
    in_flight: int = 0
    queued: int = 0
    capacity_per_replica: int = 0
    signal: str = Field("", description="where demand was read from: gateways, or none")


class OverflowStatus(ApiModel):
    """What leaves."""

    in_flight: int = 0
    share_percent: int = 0
    usd_today: Usd = Usd("0")
    ledger_uid: str | None = Field(None, alias="ledgerUID")
    ledger_lost_on: str = Field(
        "", description="UTC day on which that SpendLedger was found gone: nothing may be spent until it ends"
    )


class EconomicsStatus(ApiModel):
    """What it costs."""

    replica_usd_per_hour: Usd | None = None
    usd_per_hour: Usd | None = None


class ModelDeploymentStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    desired_replicas: int = 0
    selector: str = ""
    revision: str = ""
    url: str = Field("", description="the Service inside the cluster; the gateway is the way in for clients")
    display: Display = Display()
    serving: ServingStatus = ServingStatus()
    overflow: OverflowStatus = OverflowStatus()
    economics: EconomicsStatus = EconomicsStatus()
    conditions: tuple[Condition, ...] = Field(
        (), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )


class ModelDeployment(CustomResource):
    """A model served on your own accelerators at a target utilization, with overflow to a frontier provider."""

    kind_name: ClassVar[str] = "ModelDeployment"
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus = ModelDeploymentStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')",
            message="metadata.name must begin with a letter and have at most 52 of a-z, 0-9 and -:"
            " Services and ReplicaSets are named after it",
        ),
    )

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names clients ask for."""
        return self.spec.model.served_names or (self.metadata.name,)
