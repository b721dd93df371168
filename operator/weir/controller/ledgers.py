"""Opens the account books of budgets, and says when one is lost.

A book has no owner and is taken over by name on purpose: deleting and applying a provider again must not refill its till. Its uid is
noted in the status of whose budget it is, so that a book which was deleted is missed: what it held may have been spent, so
nothing more is until the UTC day ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weir.api.base import API_VERSION
from weir.api.spendledger import LedgerOwner, SpendLedger, SpendLedgerSpec, ledger_name
from weir.controller.evidence import Evidence
from weir.controller.execute import FIELD_MANAGER
from weir.kube.client import KubeClient
from weir.kube.errors import AlreadyExists, NotFound
from weir.kube.resources import SPENDLEDGERS, Key
from weir.workload.names import MANAGED_BY


@dataclass(frozen=True)
class Book:
    """A budget's book, as it is to be noted in status."""

    uid: str | None
    ledger: SpendLedger | None = None
    lost_on: str = ""
    """UTC day on which it was found gone."""
    problem: Evidence | None = None


class Ledgers:
    """Finds or opens books."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def book(
        self,
        owner: Literal["FrontierProvider", "ModelDeployment"],
        key: Key,
        noted_uid: str | None,
        lost_on: str,
        today: str,
    ) -> Book:
        """The book of an object's budget; `noted_uid` and `lost_on` are what its status says, `today` is the UTC day."""
        name = ledger_name(owner, key.name)
        found = await self._find(key.namespace, name)
        if found is not None and found.metadata.uid == noted_uid:
            return Book(noted_uid, found)
        lost_on = lost_on or today
        if noted_uid and lost_on >= today:
            message = (
                f"SpendLedger {name} was deleted on {lost_on}, and with it the record of what was spent:"
                " nothing more is spent until that UTC day ends"
            )
            return Book(noted_uid, None, lost_on, Evidence("LedgerLost", message))
        ledger = found or await self._open(owner, key, name)
        return Book(ledger.metadata.uid, ledger)

    async def _find(self, namespace: str, name: str) -> SpendLedger | None:
        try:
            return SpendLedger.from_object(await self._kube.get(SPENDLEDGERS, namespace, name))
        except NotFound:
            return None

    async def _open(self, owner: Literal["FrontierProvider", "ModelDeployment"], key: Key, name: str) -> SpendLedger:
        spec = SpendLedgerSpec(owner=LedgerOwner(kind=owner, name=key.name))
        ledger = {
            "apiVersion": API_VERSION,
            "kind": SpendLedger.kind_name,
            "metadata": {"namespace": key.namespace, "name": name, "labels": dict(MANAGED_BY)},
            "spec": spec.model_dump(mode="json", by_alias=True),
        }
        try:
            return SpendLedger.from_object(await self._kube.create(SPENDLEDGERS, ledger, field_manager=FIELD_MANAGER))
        except AlreadyExists:
            return SpendLedger.from_object(await self._kube.get(SPENDLEDGERS, key.namespace, name))
