"""FrontierProviders: is the key there, what of the budget is left, which models have a price. Their status, and their book."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from weir.api.base import API_VERSION
from weir.api.conditions import Condition, ConditionType, Status, merge
from weir.api.frontierprovider import FrontierProvider, FrontierProviderStatus, Spend
from weir.api.quantity import Usd
from weir.controller.conditions import changed
from weir.controller.evidence import Evidence
from weir.controller.execute import FIELD_MANAGER
from weir.controller.ledgers import Book, Ledgers
from weir.controller.own import OwnKinds
from weir.controller.secrets import FINE_SECONDS, LACKING_SECONDS, Secrets
from weir.controller.spill import Spending, spending
from weir.controller.status import QUIET_SECONDS
from weir.controller.telling import Teller
from weir.kube.client import KubeClient
from weir.kube.errors import NotFound
from weir.kube.resources import FRONTIERPROVIDERS, Key
from weir.observability import operator_metrics as metrics


@dataclass(frozen=True)
class ProviderFacts:
    """Everything that a provider's status is made of."""

    provider: FrontierProvider
    key: Evidence | None
    """Why its key cannot be used."""
    book: Book
    spent: Spending | None
    """None without a budget."""


def build(facts: ProviderFacts, now: str) -> FrontierProviderStatus:
    """The status that `facts` make; `now` is RFC 3339. Pure."""
    provider, spent = facts.provider, facts.spent
    made = tuple(
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            observed_generation=provider.metadata.generation,
            last_transition_time=now,
        )
        for kind, (status, reason, message) in (
            (ConditionType.READY, _ready(facts)),
            (ConditionType.BUDGET_AVAILABLE, _budget(facts)),
            (ConditionType.PRICES_KNOWN, _prices(provider)),
        )
    )
    return FrontierProviderStatus(
        observed_generation=provider.metadata.generation,
        spend=Spend(
            usd_today=Usd.from_micros(spent.spent), leased_usd=Usd.from_micros(spent.leased), window_start=spent.window
        )
        if spent
        else Spend(),
        ledger_uid=facts.book.uid,
        ledger_lost_on=facts.book.lost_on,
        conditions=merge(provider.status.conditions, made),
    )


def _ready(facts: ProviderFacts) -> tuple[Status, str, str]:
    if facts.key:
        return "False", facts.key.reason, f"spec.credentials.secretRef: {facts.key.message}"
    return "True", "KeyPresent", "the key is there and may be sent to this host"


def _budget(facts: ProviderFacts) -> tuple[Status, str, str]:
    if facts.spent is None:
        return "True", "NoBudget", "spec.budget is not set: spending here is not limited"
    if facts.book.problem:
        return "False", facts.book.problem.reason, facts.book.problem.message
    return (
        ("False", "Exhausted", str(facts.spent)) if facts.spent.exhausted else ("True", "MoneyLeft", str(facts.spent))
    )


def _prices(provider: FrontierProvider) -> tuple[Status, str, str]:
    unpriced = [model.name for model in provider.spec.models if model.pricing is None]
    if unpriced:
        return "False", "PriceUnknown", f"no pricing for {', '.join(unpriced)}: nothing is ever sent there"
    return "True", "AllPriced", "every model has a price"


class ProviderReconciler:
    """Looks at one FrontierProvider."""

    def __init__(self, kube: KubeClient, own: OwnKinds, secrets: Secrets, ledgers: Ledgers, teller: Teller) -> None:
        self._kube = kube
        self._own = own
        self._secrets = secrets
        self._ledgers = ledgers
        self._teller = teller
        self._written: dict[str, float] = {}  # uid -> monotonic seconds

    async def reconcile(self, key: Key) -> float | None:
        """Answers in how many seconds to look again: Secrets are not watched."""
        try:
            provider = FrontierProvider.from_object(await self._kube.get(FRONTIERPROVIDERS, *key))
        except NotFound:
            self.forget(key)
            return None
        if provider.metadata.deletion_timestamp:
            return None
        self._own.providers[key] = provider
        now = self._kube.server_now()
        facts = await self._observe(key, provider, now)
        self._measure(key, facts)
        status = build(facts, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for condition in status.conditions:
            metrics.PROVIDER_CONDITION.labels(*key, condition.type).set(condition.status == "True")
        again = LACKING_SECONDS if facts.key else FINE_SECONDS
        if facts.spent:
            again = min(again, seconds_to_midnight(now))
        return min(again, await self._write(provider, status))

    def forget(self, key: Key) -> None:
        """It is gone. Its book stays."""
        gone = self._own.providers.pop(key, None)
        if gone is not None:
            self._written.pop(gone.metadata.uid, None)
        metrics.forget_provider(*key)
        metrics.forget_budget(key.namespace, FrontierProvider.kind_name, key.name)

    async def _observe(self, key: Key, provider: FrontierProvider, now: datetime) -> ProviderFacts:
        spec, today = provider.spec, now.strftime("%Y-%m-%d")
        reference = spec.credentials.secret_ref
        lacking = await self._secrets.lacks(key.namespace, reference.name, reference.key, spec.base_url)
        if spec.budget is None:
            return ProviderFacts(provider, lacking, Book(None), None)
        noted = provider.status
        book = await self._ledgers.book("FrontierProvider", key, noted.ledger_uid, noted.ledger_lost_on, today)
        return ProviderFacts(provider, lacking, book, spending(book.ledger, spec.budget.usd_per_day, today))

    async def _write(self, provider: FrontierProvider, status: FrontierProviderStatus) -> float:
        """Seconds until something is left to write; infinite where nothing is."""
        old, uid = provider.status, provider.metadata.uid
        if status == old.model_copy(update={"conditions": tuple(sorted(old.conditions, key=lambda c: c.type))}):
            return float("inf")
        quiet = self._written.get(uid, 0.0) + QUIET_SECONDS - time.monotonic()
        news = changed(old.conditions, status.conditions)
        numbers_only = status.model_copy(update={"spend": old.spend, "conditions": old.conditions}) == old
        same_generation = {c.observed_generation for c in old.conditions} == {provider.metadata.generation}
        if numbers_only and same_generation and not news and quiet > 0:
            return quiet
        await self._kube.apply(
            FRONTIERPROVIDERS,
            {
                "apiVersion": API_VERSION,
                "kind": provider.kind_name,
                "metadata": {"namespace": provider.metadata.namespace, "name": provider.metadata.name, "uid": uid},
                "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
            },
            field_manager=FIELD_MANAGER,
            subresource="status",
        )
        self._written[uid] = time.monotonic()
        self._teller.conditions(provider, news)
        return float("inf")

    def _measure(self, key: Key, facts: ProviderFacts) -> None:
        measure_budget(key, FrontierProvider.kind_name, facts.spent)


def measure_budget(key: Key, kind: str, spent: Spending | None) -> None:
    """Shows a budget to Prometheus, in dollars."""
    if spent is None:
        metrics.forget_budget(key.namespace, kind, key.name)
        return
    for gauge, micros in (
        (metrics.BUDGET_LIMIT, spent.limit),
        (metrics.BUDGET_SPENT, spent.spent),
        (metrics.BUDGET_LEASED, spent.leased),
    ):
        gauge.labels(key.namespace, kind, key.name).set(micros / 1_000_000)


def seconds_to_midnight(now: datetime) -> float:
    """Until the next UTC day has surely begun for the API server as well."""
    tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (tomorrow - now).total_seconds() + 1.0
