"""Carries out what was planned, one write an action, each of them safe to repeat."""

from __future__ import annotations

import structlog

from weir.api.modeldeployment import ModelDeployment
from weir.controller import plan
from weir.controller.errors import Stalled, Waiting
from weir.controller.evidence import said
from weir.controller.observed import DELETION_COST
from weir.kube.client import KubeClient
from weir.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unreachable,
)
from weir.kube.resources import PODS, REPLICASETS, SERVICES, Json, Resource
from weir.workload import objects
from weir.workload.names import SERVED_ANNOTATION

log = structlog.get_logger(__name__)

FIELD_MANAGER = "weir-operator"
VIEW_SECONDS = 0.5
"""After which a view that lagged behind a write should have caught up."""
LABELS_SECONDS = 10.0
"""The next look, where labels put back did not bring the object into the view: something takes them away at once."""


class Executor:
    """Writes the children of ModelDeployments."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def carry_out(self, mdep: ModelDeployment, actions: list[plan.Action]) -> None:
        """All of them, in order, whatever becomes of the others: one child that cannot be must not stop the scaling of another.

        Then raises the gravest that happened: Stalled where a person must help, ApiError, Waiting where the view is behind.
        Unreachable is raised at once.
        """
        failures: list[Exception] = []
        for action in actions:
            log.info("acts", model=mdep.key, action=type(action).__name__, **_fields(action))
            try:
                await self._one(mdep, action)
            except Unreachable:
                raise
            except ApiError as error:
                failures.append(_verdict(action, error))
            except (Stalled, Waiting) as error:
                failures.append(error)
        if failures:
            raise min(failures, key=_gravity)

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
            case plan.NoteServed(name, uid):
                served = {"metadata": {"uid": uid, "annotations": {SERVED_ANNOTATION: "true"}}}
                await kube.patch(REPLICASETS, namespace, name, served, field_manager=FIELD_MANAGER)
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
                raise await self._unseen(resource, obj, found) from error
            if (owner.get("kind"), owner.get("name")) == (mdep.kind_name, mdep.metadata.name):
                message = f"{resource.kind} {name} of the deleted ModelDeployment of this name is still being removed"
                raise Waiting("PredecessorLeaving", message, 1.0) from error
            whose = f"belongs to {owner['kind']} {owner['name']}" if owner else "is not Weir's"
            raise Stalled(
                "NameTaken",
                f"{resource.kind} {name} {whose}: remove it, or give the ModelDeployment another name",
                recheck=10.0,
            ) from error

    async def _unseen(self, resource: Resource, obj: Json, found: Json) -> Waiting:
        """A child of ours that the view does not show: it will in a moment, or somebody took the labels that it goes by."""
        wanted, has = obj["metadata"]["labels"], found["metadata"]
        what = f"{resource.kind} {has['name']}"
        if "deletionTimestamp" in has or wanted.items() <= has.get("labels", {}).items():
            return Waiting("ViewBehind", f"{what} is there already", VIEW_SECONDS)
        patch = {"metadata": {"uid": has["uid"], "labels": wanted}}
        await self._kube.patch(resource, has["namespace"], has["name"], patch, field_manager=FIELD_MANAGER)
        log.warning("labels put back", object=what, namespace=has["namespace"])
        return Waiting("LabelsPutBack", f"{what} had lost labels that Weir finds it by", LABELS_SECONDS)


def _verdict(action: plan.Action, error: ApiError) -> Exception:
    """What the API server's refusal of an action means for its ModelDeployment."""
    words = said(error.message)
    match error:
        case Invalid() | BadRequest():
            return Stalled("RefusedByApiServer", f"the API server refuses what the spec asks for: {words}")
        case Forbidden() if "exceeded quota" in error.message:
            return Stalled("QuotaExceeded", f"a ResourceQuota of the namespace leaves no room: {words}")
        case Forbidden():
            return Stalled("Forbidden", f"the API server forbids {type(action).__name__}: {words}")
        case Conflict() | NotFound():  # gone, or replaced by another of its name, since it was seen
            return Waiting("ViewBehind", f"{type(action).__name__}: {words}", VIEW_SECONDS)
    return error


def _gravity(error: Exception) -> int:
    return 0 if isinstance(error, Stalled) else 2 if isinstance(error, Waiting) else 1


def _fields(action: plan.Action) -> dict[str, object]:
    """What a log line tells of an action: all but manifests."""
    obj = getattr(action, "obj", None)
    if obj is not None:
        return {"name": obj["metadata"]["name"], "replicas": obj["spec"].get("replicas")}
    return dict(vars(action))
