"""Our own objects as last seen, and who is concerned when one of them changes."""

from __future__ import annotations

from collections.abc import Iterable

import pydantic
import structlog

from weir.api.base import CustomResource
from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeployment
from weir.api.spendledger import SpendLedger
from weir.controller.names import WorkKey
from weir.kube.resources import FRONTIERPROVIDERS, MODELDEPLOYMENTS, SPENDLEDGERS, Json, Key, Resource, key_of

log = structlog.get_logger(__name__)

RESOURCES: dict[Resource, type[CustomResource]] = {
    MODELDEPLOYMENTS: ModelDeployment,
    FRONTIERPROVIDERS: FrontierProvider,
    SPENDLEDGERS: SpendLedger,
}


class OwnKinds:
    """ModelDeployments and FrontierProviders. What decides is read afresh by whoever reconciles; this is for looking around."""

    def __init__(self) -> None:
        self.models: dict[Key, ModelDeployment] = {}
        self.providers: dict[Key, FrontierProvider] = {}

    def models_of(self, namespace: str) -> list[ModelDeployment]:
        """All of one namespace."""
        return [mdep for key, mdep in self.models.items() if key.namespace == namespace]

    def providers_of(self, namespace: str) -> dict[str, FrontierProvider]:
        """All of one namespace, by name."""
        return {key.name: provider for key, provider in self.providers.items() if key.namespace == namespace}

    def keys(self) -> set[WorkKey]:
        """Everything known."""
        models = {WorkKey("ModelDeployment", *key) for key in self.models}
        return models | {WorkKey("FrontierProvider", *key) for key in self.providers}

    def see(self, resource: Resource, obj: Json, *, gone: bool) -> set[WorkKey]:
        """Take in one object as the API server sent it. Answers with all that must be looked at now."""
        key, kind = key_of(obj), RESOURCES[resource]
        try:
            value = kind.from_object(obj)
        except pydantic.ValidationError as error:
            log.error(
                "object cannot be understood and is left as it is",
                kind=kind.kind_name,
                object=str(key),
                error=[".".join(map(str, e["loc"])) for e in error.errors(include_input=False)],
                fix="apply the CRDs of this version of Weir, and the object again",
            )
            return set()
        match value:
            case ModelDeployment():
                return self._model(key, None if gone else value)
            case FrontierProvider():
                return self._provider(key, None if gone else value)
            case SpendLedger():
                return {WorkKey(value.spec.owner.kind, key.namespace, value.spec.owner.name)}
        raise TypeError(f"{kind.kind_name} is not a kind of ours")

    def _model(self, key: Key, new: ModelDeployment | None) -> set[WorkKey]:
        """Itself, and those of its namespace that claim a name which it claims or claimed."""
        names = {name for mdep in (self.models.get(key), new) if mdep for name in mdep.served_names}
        if new:
            self.models[key] = new
        else:
            self.models.pop(key, None)
        rivals = (m for m in self.models_of(key.namespace) if names.intersection(m.served_names))
        return {WorkKey("ModelDeployment", *key)} | _keys_of(rivals)

    def _provider(self, key: Key, new: FrontierProvider | None) -> set[WorkKey]:
        """Itself, and the models that may spill there."""
        if new:
            self.providers[key] = new
        else:
            self.providers.pop(key, None)
        return {WorkKey("FrontierProvider", *key)} | _keys_of(
            mdep
            for mdep in self.models_of(key.namespace)
            if mdep.spec.overflow and any(t.provider_ref.name == key.name for t in mdep.spec.overflow.targets)
        )


def _keys_of(mdeps: Iterable[ModelDeployment]) -> set[WorkKey]:
    return {WorkKey("ModelDeployment", mdep.metadata.namespace, mdep.metadata.name) for mdep in mdeps}
