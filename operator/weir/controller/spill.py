"""Whether a model's surplus could leave the cluster now: its targets, their providers and budgets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from weir.api.conditions import ConditionType, find
from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeployment, OverflowTarget
from weir.api.quantity import Usd
from weir.api.spendledger import SpendLedger
from weir.controller.evidence import Evidence
from weir.overflow.ledger import Book

NEARLY = 100
"""A budget counts as spent when less than a hundredth of it is left: most requests no longer fit into that."""


@dataclass(frozen=True)
class Spending:
    """One budget on one UTC day, micro-dollars."""

    limit: int
    spent: int
    leased: int
    window: str

    @property
    def exhausted(self) -> bool:
        """What is left is as good as nothing."""
        return self.limit - self.spent < max(1, self.limit // NEARLY)

    def __str__(self) -> str:
        return f"{Usd.from_micros(self.spent)} of {Usd.from_micros(self.limit)} USD are spent on {self.window} (UTC)"


def spending(ledger: SpendLedger | None, limit: Usd, today: str) -> Spending:
    """What the ledger says of `today`; a window of an earlier day means that nothing was spent yet."""
    book = Book.from_status(ledger.status) if ledger else Book()
    if book.window < today:
        return Spending(limit.micros, 0, 0, today)
    return Spending(limit.micros, book.spent, book.committed - book.spent, book.window)


@dataclass(frozen=True)
class Availability:
    """The condition OverflowAvailable."""

    available: bool
    reason: str
    message: str


def availability(
    mdep: ModelDeployment,
    providers: Mapping[str, FrontierProvider],
    own: Spending | Evidence | None,
    *,
    out_of_budget: bool = False,
    leaves: bool = True,
    keys_in: Collection[str] = (),
) -> Availability:
    """`providers` of the model's namespace by name; `own` is the model's own budget (Evidence: why it cannot be used).

    leaves, keys_in: whether gateways let requests leave, and the namespaces where they may read keys (none: not known).

    out_of_budget: gateways lately found too little left, of this budget or a provider's, for a request.
    """
    overflow = mdep.spec.overflow
    if overflow is None:
        return Availability(
            False, "NotConfigured", "spec.overflow is not set: what does not fit waits, then is refused"
        )
    if overflow.data_policy == "LocalOnly":
        return Availability(False, "DataPolicyLocalOnly", "spec.overflow.dataPolicy LocalOnly keeps every request here")
    if not leaves:
        words = "the gateways let no request leave the cluster: start them with --anonymous-overflow"
        return Availability(False, "OverflowDisabled", f"{words} (chart: gateway.anonymousOverflow)")
    namespace = mdep.metadata.namespace
    if keys_in and namespace not in keys_in:
        words = f"the gateways may read no provider key in namespace {namespace}: start them with --secret-namespace"
        return Availability(False, "KeyNotReadableByGateway", f"{words} {namespace} (chart: gateway.secretNamespaces)")
    if isinstance(own, Evidence):
        return Availability(False, own.reason, own.message)
    if own is not None and own.exhausted:
        return Availability(False, "BudgetExhausted", f"spec.overflow.budget: {own}")
    if own is not None and out_of_budget:
        return Availability(False, "BudgetExhausted", f"spec.overflow.budget: {own}, too little is left for a request")
    obstacles = [_obstacle(target, providers.get(target.provider_ref.name)) for target in overflow.targets]
    words = "; ".join(o.message for o in obstacles if o)
    if all(obstacles):
        first = obstacles[0]
        return Availability(False, first.reason if first else "", words)
    free = [t for t, obstacle in zip(overflow.targets, obstacles, strict=True) if obstacle is None]
    ready = ", ".join(f"{t.model} of {t.provider_ref.name}" for t in free)
    return Availability(True, "TargetsAvailable", ready + (f"; not available: {words}" if words else ""))


def _obstacle(target: OverflowTarget, provider: FrontierProvider | None) -> Evidence | None:
    """Why nothing can go to one target."""
    name = target.provider_ref.name
    if provider is None:
        return Evidence("ProviderMissing", f"there is no FrontierProvider {name} in this namespace")
    model = provider.find_model(target.model)
    if model is None:
        sold = ", ".join(m.name for m in provider.spec.models)
        return Evidence("ModelNotSold", f"FrontierProvider {name} has no model {target.model}; it has: {sold}")
    if model.pricing is None:
        return Evidence(
            "PriceUnknown", f"model {target.model} of FrontierProvider {name} has no pricing: never spilled to"
        )
    for kind in (ConditionType.READY, ConditionType.BUDGET_AVAILABLE):
        condition = find(provider.status.conditions, kind)
        if condition is None or condition.status != "True":
            said = f"{condition.reason}: {condition.message}" if condition else "not looked at yet"
            return Evidence(
                "BudgetExhausted" if kind == ConditionType.BUDGET_AVAILABLE else "ProviderNotReady",
                f"FrontierProvider {name} is not {kind}: {said}",
            )
    return None
