"""The kinds of object that Weir touches: names, paths, keys and references. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

Json = dict[str, Any]
"""A raw Kubernetes object. Only this floor and the code that builds manifests handle objects in this form."""


class Key(NamedTuple):
    """What an object is called within its kind. A cluster-scoped object has the namespace ""."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: Json) -> Key:
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def is_object(value: object, *, named: bool = True) -> bool:
    """Whether this can be followed as an object: it has a version and, unless not `named` (lists, bookmarks), a name."""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("resourceVersion"), str):
        return False
    return not named or (isinstance(metadata.get("name"), str) and isinstance(metadata.get("namespace", ""), str))


@dataclass(frozen=True)
class ObjectRef:
    """Points at one object for events and log lines. `uid` may be empty where it is not known."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""

    @classmethod
    def of(cls, obj: Json) -> ObjectRef:
        metadata = obj["metadata"]
        return cls(
            api_version=obj["apiVersion"],
            kind=obj["kind"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            uid=metadata.get("uid", ""),
        )

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)


@dataclass(frozen=True)
class Resource:
    """One resource type of the API. `group` is "" for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, or of one object. No namespace means all of them, for a collection only.

        Raises ValueError where the scope does not fit, since such a path would silently name something else.
        """
        if namespace and not self.namespaced:
            raise ValueError(f"{self.plural} are cluster-scoped, so they have no namespace (got {namespace!r})")
        if name is not None and not name:
            raise ValueError(f"an empty name would address the whole collection of {self.plural}")
        if name and self.namespaced and not namespace:
            raise ValueError(f"{self.plural} are namespaced: {name!r} needs a namespace")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
            if subresource:
                parts.append(subresource)
        return "/" + "/".join(quote(part, safe=":") for part in parts)


PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIGMAPS = Resource("", "v1", "configmaps", "ConfigMap")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CUSTOMRESOURCEDEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
MODELDEPLOYMENTS = Resource("weir.dev", "v1alpha1", "modeldeployments", "ModelDeployment")
FRONTIERPROVIDERS = Resource("weir.dev", "v1alpha1", "frontierproviders", "FrontierProvider")
SPENDLEDGERS = Resource("weir.dev", "v1alpha1", "spendledgers", "SpendLedger")
