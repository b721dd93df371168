"""Events about our objects: what changed, in the words of the condition."""

from __future__ import annotations

from collections.abc import Iterable

from weir.api.base import API_VERSION, CustomResource
from weir.api.conditions import Condition, ConditionType
from weir.kube.events import EventRecorder, EventType
from weir.kube.resources import ObjectRef

_WARNING_WHEN = {
    ConditionType.READY: "False",
    ConditionType.STALLED: "True",
    ConditionType.CAPACITY_AVAILABLE: "False",
    ConditionType.METRICS_AVAILABLE: "False",
    ConditionType.OVERFLOW_AVAILABLE: "False",
    ConditionType.BUDGET_AVAILABLE: "False",
    ConditionType.PRICES_KNOWN: "False",
}
"""Conditions worth an Event, and the status that is bad news."""
_EXPECTED = ("Starting", "NotConfigured")
"""Reasons that are no news although the status is."""


class Teller:
    """Writes Events about ModelDeployments and FrontierProviders."""

    def __init__(self, events: EventRecorder) -> None:
        self._events = events

    def conditions(self, about: CustomResource, changed: Iterable[Condition]) -> None:
        """One Event for each changed condition that a person may care about; good news only of Ready."""
        told = set()
        for condition in changed:
            bad = _WARNING_WHEN.get(ConditionType(condition.type)) == condition.status
            if condition.reason in _EXPECTED or condition.reason in told:
                continue
            if bad or condition.type == ConditionType.READY:
                told.add(condition.reason)
                self.say(about, "Warning" if bad else "Normal", condition.reason, condition.message)

    def say(self, about: CustomResource, kind: EventType, reason: str, message: str) -> None:
        """One Event."""
        meta = about.metadata
        reference = ObjectRef(API_VERSION, about.kind_name, meta.namespace, meta.name, meta.uid)
        self._events.record(reference, kind, reason, message)
