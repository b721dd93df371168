"""Whether a model's surplus could leave, and if not, why not."""

from __future__ import annotations

from typing import Any

import pytest

from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeployment
from weir.api.quantity import Usd
from weir.api.spendledger import SpendLedger
from weir.controller.evidence import Evidence
from weir.controller.spill import Spending, availability, spending

TODAY = "2026-11-21"


def model(*targets: str, **overflow: Any) -> ModelDeployment:
    refs = [{"providerRef": {"name": t.partition("/")[0]}, "model": t.partition("/")[2]} for t in targets]
    spec: dict[str, Any] = {"model": {"source": "hf://org/m"}}
    if refs:
        spec["overflow"] = {"targets": refs} | overflow
    return ModelDeployment.from_object({"metadata": {"name": "m", "namespace": "n"}, "spec": spec})


def provider(ready: str = "True", budget: str = "True") -> FrontierProvider:
    price = {"inputUsdPerMTok": "1", "outputUsdPerMTok": "2"}
    sold: list[dict[str, Any]] = [{"name": "big", "pricing": price}, {"name": "unpriced"}]
    said = [("Ready", ready, "SecretMissing"), ("BudgetAvailable", budget, "Exhausted")]
    return FrontierProvider.from_object(
        {
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "baseURL": "https://x.example/v1",
                "credentials": {"secretRef": {"name": "s"}},
                "models": [m | {"contextTokens": 10, "maxOutputTokens": 10} for m in sold],
            },
            "status": {
                "conditions": [
                    {"type": t, "status": s, "reason": r, "message": "words", "lastTransitionTime": "t"}
                    for t, s, r in said
                ]
            },
        }
    )


FULL = Spending(1_000_000, 0, 0, TODAY)
SPENT = Spending(1_000_000, 999_000, 0, TODAY)
GOOD = {"p": provider()}


@pytest.mark.parametrize(
    ("mdep", "providers", "own", "reason"),
    [
        (model(), GOOD, None, "NotConfigured"),
        (model("p/big"), GOOD, None, "TargetsAvailable"),
        (model("p/big"), GOOD, FULL, "TargetsAvailable"),
        (model("p/big"), GOOD, SPENT, "BudgetExhausted"),
        (model("p/big"), GOOD, Evidence("LedgerLost", ""), "LedgerLost"),
        (model("p/big", dataPolicy="LocalOnly"), GOOD, None, "DataPolicyLocalOnly"),
        (model("q/big"), GOOD, None, "ProviderMissing"),
        (model("p/small"), GOOD, None, "ModelNotSold"),
        (model("p/unpriced"), GOOD, None, "PriceUnknown"),
        (model("p/big"), {"p": provider(ready="False")}, None, "ProviderNotReady"),
        (model("p/big"), {"p": provider(budget="False")}, None, "BudgetExhausted"),
        (model("q/big", "p/big"), GOOD, None, "TargetsAvailable"),
    ],
)
def test_availability(mdep: ModelDeployment, providers: dict[str, FrontierProvider], own: Any, reason: str) -> None:
    found = availability(mdep, providers, own)
    assert found.reason == reason
    assert found.available is (reason == "TargetsAvailable")


@pytest.mark.parametrize(
    ("gateways", "reason"),
    [
        ({"leaves": False}, "OverflowDisabled"),
        ({"keys_in": ("weir-system",)}, "KeyNotReadableByGateway"),
        ({"keys_in": ("weir-system", "n")}, "TargetsAvailable"),
        ({"keys_in": ()}, "TargetsAvailable"),
    ],
)
def test_what_the_gateways_may_not_do_is_said(gateways: dict[str, Any], reason: str) -> None:
    found = availability(model("p/big"), GOOD, None, **gateways)
    assert (found.reason, found.available) == (reason, reason == "TargetsAvailable")
    assert availability(model(), GOOD, None, **gateways).reason == "NotConfigured"


def test_what_gateways_could_not_pay_counts() -> None:
    left = Spending(1_000_000, 900_000, 0, TODAY)
    assert availability(model("p/big"), GOOD, left).available
    assert not availability(model("p/big"), GOOD, left, out_of_budget=True).available
    assert availability(model("p/big"), GOOD, None, out_of_budget=True).available, "it was another target's budget"


def test_targets_that_do_not_work_are_named_beside_those_that_do() -> None:
    message = availability(model("q/big", "p/big"), GOOD, None).message
    assert message == "big of p; not available: there is no FrontierProvider q in this namespace"


def ledger(window: str) -> SpendLedger:
    return SpendLedger.from_object(
        {
            "metadata": {"name": "frontierprovider.p", "namespace": "n"},
            "spec": {"for": {"kind": "FrontierProvider", "name": "p"}},
            "status": {
                "windowStart": window,
                "settledUsd": "1",
                "holders": [{"holder": "g", "grantedUsd": "3", "spentUsd": "0.5"}],
            },
        }
    )


def test_spending_of_today_and_of_another_day() -> None:
    assert spending(ledger(TODAY), Usd("10"), TODAY) == Spending(10_000_000, 1_500_000, 2_500_000, TODAY)
    assert spending(ledger("2026-11-20"), Usd("10"), TODAY) == Spending(10_000_000, 0, 0, TODAY)
    assert spending(None, Usd("10"), TODAY) == Spending(10_000_000, 0, 0, TODAY)


@pytest.mark.parametrize(
    ("limit", "spent", "exhausted"),
    [(1_000_000, 990_000, False), (1_000_000, 990_001, True), (0, 0, True), (50, 49, False), (50, 50, True)],
)
def test_exhausted_is_less_than_a_hundredth_left(limit: int, spent: int, *, exhausted: bool) -> None:
    assert Spending(limit, spent, 0, TODAY).exhausted is exhausted
