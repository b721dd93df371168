"""Carries out what was planned, one write an action, each of them safe to repeat."""

from __future__ import annotations

import structlog

from weir.api.modeldeployment import ModelDeployment
from weir.controller import plan
from weir.controller.errors import Stalled, Waiting
from weir.controller.observed import DELETION_COST
from weir.kube.client import KubeClient
from weir.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from weir.kube.resources import PODS, REPLICASETS, SERVICES, Json, Resource
from weir.workload import objects

log = structlog.get_logger(__name__)

FIELD_MANAGER = "weir-operator"
VIEW_SECONDS = 0.5
"""After which a view that lagged behind a write should have caught up."""


class Executor:
    """Writes the children of ModelDeployments."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def carry_out(self, mdep: ModelDeployment, actions: list[plan.Action]) -> None:
        """In order. Raises Stalled where a person must help, Waiting where the view is behind, and ApiError for the rest."""
        for action in actions:
            log.info("acts", model=mdep.key, action=type(action).__name__, **_fields(action))
            try:
                await self._one(mdep, action)
            except Invalid as error:
                raise Stalled(
                    "RefusedByApiServer", f"the API server refuses what the spec asks for: {error}"
                ) from error
            except Forbidden as error:
                raise Stalled("Forbidden", f"the operator lacks a right: {error.message}") from error
            except (Conflict, NotFound) as error:  # gone, or replaced by another of its name, since it was seen
                raise Waiting("ViewBehind", f"{type(action).__name__}: {error.message}", VIEW_SECONDS) from error

    async def _one(self, mdep: ModelDeployment, action: plan.Action) -> None:
        kube, namespace = self._kube, mdep.metadata.namespace
        match action:
            case plan.CreateService(obj):
                await self._create(SERVICES, obj, mdep)
            case plan.CreateReplicaSet(obj):
                await self._create(REPLICASETS, obj, mdep)
            case plan.ApplyService(obj):
                await kube.apply(SERVICES, obj, field_manager=FIELD_MANAGER)
            case plan.ScaleReplicaSet(name, uid, replicas, desired):
                scaled = objects.scaled_replica_set(namespace, name, uid, replicas, desired)
                await kube.apply(REPLICASETS, scaled, field_manager=FIELD_MANAGER)
            case plan.DeleteReplicaSet(name, uid):
                await kube.delete(REPLICASETS, namespace, name, uid=uid)
            case plan.DeletePod(name, uid):
                await kube.delete(PODS, namespace, name, uid=uid, grace_period_seconds=0)
            case plan.MarkPod(name, uid, first):
                cost = "-1" if first else None
                patch = {"metadata": {"uid": uid, "annotations": {DELETION_COST: cost}}}
                await kube.patch(PODS, namespace, name, patch, field_manager=FIELD_MANAGER)

    async def _create(self, resource: Resource, obj: Json, mdep: ModelDeployment) -> None:
        """Raises Stalled(NameTaken) where the name is somebody else's: nothing is adopted by its name."""
        try:
            await self._kube.create(resource, obj, field_manager=FIELD_MANAGER)
        except AlreadyExists as error:
            name = obj["metadata"]["name"]
            found = await self._kube.get(resource, mdep.metadata.namespace, name)
            owner: Json = next(
                (ref for ref in found["metadata"].get("ownerReferences", ()) if ref.get("controller")), {}
            )
            if owner.get("uid") == mdep.metadata.uid:
                raise Waiting("ViewBehind", f"{resource.kind} {name} is there already", VIEW_SECONDS) from error
            if (owner.get("kind"), owner.get("name")) == (mdep.kind_name, mdep.metadata.name):
                message = f"{resource.kind} {name} of the deleted ModelDeployment of this name is still being removed"
                raise Waiting("PredecessorLeaving", message, 1.0) from error
            whose = f"belongs to {owner['kind']} {owner['name']}" if owner else "is not Weir's"
            raise Stalled(
                "NameTaken",
                f"{resource.kind} {name} {whose}: remove it, or give the ModelDeployment another name",
                recheck=10.0,
            ) from error


def _fields(action: plan.Action) -> dict[str, object]:
    """What a log line tells of an action: all but manifests."""
    obj = getattr(action, "obj", None)
    if obj is not None:
        return {"name": obj["metadata"]["name"], "replicas": obj["spec"].get("replicas")}
    return dict(vars(action))
