"""Generates CustomResourceDefinitions from the pydantic models: JSON Schema to Kubernetes' structural schema."""

from dataclasses import dataclass
from typing import Any

import yaml

from weir.api.base import GROUP, VERSION, CustomResource
from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeployment
from weir.api.spendledger import SpendLedger

Schema = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A printer column; `priority` 1 shows with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""

    def to_crd(self) -> Schema:
        """The entry of `additionalPrinterColumns`."""
        entry: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return (
            entry
            | ({"priority": self.priority} if self.priority else {})
            | ({"description": self.description} if self.description else {})
        )


@dataclass(frozen=True)
class Kind:
    """What a CRD says besides its schema."""

    model: type[CustomResource]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: Schema | None = None

    @property
    def file_name(self) -> str:
        """The name of the generated file."""
        return f"{GROUP}_{self.plural}.yaml"


AGE = Column("AGE", ".metadata.creationTimestamp", "date")
KINDS = (
    Kind(
        ModelDeployment,
        "modeldeployments",
        "mdep",
        (
            Column("READY", ".status.display.ready", description="ready replicas of those wanted"),
            Column("UTIL", ".status.display.utilization", description="demand as a share of the ready replicas' slots"),
            Column("TARGET", ".spec.scaling.targetUtilization", "integer"),
            Column("OVERFLOW", ".status.display.overflow", description="share of requests that left the cluster"),
            AGE,
            Column("MODEL", ".spec.model.source", priority=1),
            Column("IN-FLIGHT", ".status.serving.inFlight", "integer", 1),
            Column("USD/H", ".status.economics.usdPerHour", priority=1),
        ),
        {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        FrontierProvider,
        "frontierproviders",
        "fpr",
        (
            Column("READY", ".status.conditions[?(@.type=='Ready')].status"),
            Column("URL", ".spec.baseURL"),
            Column("BUDGET", ".spec.budget.usdPerDay"),
            Column("SPENT", ".status.spend.usdToday"),
            AGE,
        ),
    ),
    Kind(
        SpendLedger,
        "spendledgers",
        "spend",
        (
            Column("BUDGET", ".status.budgetUsd"),
            Column("SPENT", ".status.spentUsd"),
            Column("LEASED", ".status.leasedUsd"),
            Column("WINDOW", ".status.windowStart"),
            AGE,
        ),
    ),
)


def generate() -> dict[str, str]:
    """All CRDs as YAML, by file name."""
    return {
        kind.file_name: _HEADER + yaml.dump(definition(kind), Dumper=_WithoutAnchors, sort_keys=False, width=130)
        for kind in KINDS
    }


class _WithoutAnchors(yaml.SafeDumper):
    """Writes a part that several fields share where each of them is: a reader and a diff see every field whole."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_HEADER = "# Generated from operator/weir/api by `make generate`; edit the models, not this.\n"


def definition(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind."""
    name = kind.model.kind_name
    subresources: Schema = {"status": {}} | ({"scale": kind.scale} if kind.scale else {})
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [column.to_crd() for column in kind.columns],
        "schema": {"openAPIV3Schema": _root_schema(kind.model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": ["weir"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _root_schema(model: type[CustomResource]) -> Schema:
    raw = model.model_json_schema(by_alias=True)
    definitions = raw.get("$defs", {})
    root = _structural(raw, definitions)
    spec, status = root["properties"]["spec"], root["properties"]["status"]
    status.pop("default", None)
    schema: Schema = {
        "description": root.get("description", ""),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _without_defaults(status),
        },
    }
    if "x-kubernetes-validations" in root:
        schema["x-kubernetes-validations"] = root["x-kubernetes-validations"]
    return schema


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """One schema node without $ref, anyOf-null and titles, which structural schemas do not know."""
    node = dict(node)
    for union in ("anyOf", "allOf"):
        alternatives = [a for a in node.pop(union, ()) if a.get("type") != "null"]
        if len(alternatives) > 1:
            raise ValueError(f"a structural schema has no unions: {alternatives}")
        node = alternatives[0] | node if alternatives else node
    if "$ref" in node:
        referred = definitions[node.pop("$ref").removeprefix("#/$defs/")]
        return _structural(referred | node, definitions)
    node.pop("title", None)
    node.pop("$defs", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if node.get("type") == "array":
        node["items"] = _structural(node["items"], definitions)
    if "properties" in node:
        node["properties"] = {name: _structural(child, definitions) for name, child in node["properties"].items()}
        node.pop("additionalProperties", None)
        if isinstance(node.get("default"), dict):
            # Whole, not {} for the API server to fill in: it runs the CEL rules on a default as it stands here.
            node["default"] = {k: child["default"] for k, child in node["properties"].items() if "default" in child}
    elif isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    else:
        node.pop("additionalProperties", None)
    if node.get("default", 0) is None or (node.get("default") in ([], {}) and "properties" not in node):
        del node["default"]  # absent and empty mean the same to the models
    return node


def _without_defaults(node: Schema) -> Schema:
    """Status is what was observed: nothing in it is filled in by the API server, and nothing but the parts of a list entry is required."""
    node = {key: value for key, value in node.items() if key != "default"}
    if "properties" in node:
        node["properties"] = {name: _without_defaults(child) for name, child in node["properties"].items()}
    if "items" in node:
        node["items"] = _without_defaults(node["items"])
    return node
