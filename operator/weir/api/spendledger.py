"""SpendLedger: the account book of one budget. The operator opens it, gateways alone write in it."""

from typing import ClassVar, Literal

from pydantic import Field

from weir.api.base import ApiModel, CustomResource, ObjectMeta
from weir.api.quantity import Usd


class LedgerOwner(ApiModel):
    """Whose budget it is."""

    kind: Literal["FrontierProvider", "ModelDeployment"]
    name: str


class SpendLedgerSpec(ApiModel):
    """Written by the operator when it opens the book."""

    owner: LedgerOwner = Field(alias="for")
    window: Literal["Day"] = "Day"


class Holder(ApiModel):
    """A gateway's slice of the window's budget. A holder that crashed keeps its whole grant spent until the window ends."""

    holder: str = Field(
        min_length=1, max_length=128, description="uid of the gateway's pod, or a process id where there is none"
    )
    granted_usd: Usd = Field(description="what it may have spent at most")
    spent_usd: Usd = Field(description="what it reported to have spent or reserved")
    sequence: int = Field(0, ge=0, description="rises with each write of this holder")


class SpendLedgerStatus(ApiModel):
    """One window. Spent for certain: settledUsd + sum of spentUsd; possibly spent: settledUsd + sum of grantedUsd."""

    window_start: str = Field("", description="the UTC day, 2026-11-21")
    budget_usd: Usd = Field(Usd("0"), description="the limit when it was last written")
    spent_usd: Usd = Usd("0")
    leased_usd: Usd = Field(Usd("0"), description="granted to gateways and not reported spent")
    settled_usd: Usd = Field(Usd("0"), description="spent by holders that gave their slice back")
    holders: tuple[Holder, ...] = Field(
        (),
        max_length=1024,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["holder"]},
    )


class SpendLedger(CustomResource):
    """The account book of one budget."""

    kind_name: ClassVar[str] = "SpendLedger"
    metadata: ObjectMeta
    spec: SpendLedgerSpec
    status: SpendLedgerStatus = SpendLedgerStatus()


def ledger_name(kind: str, name: str) -> str:
    """The name of the book of an object's budget."""
    return f"{kind.lower()}.{name}"
