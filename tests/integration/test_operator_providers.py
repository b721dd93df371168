"""FrontierProviders and budgets as the operator sees them; books are opened by it and written here as gateways do."""

from __future__ import annotations

import pytest

from testbed.gateway import until
from testbed.operator import OperatorWorld
from weir.kube.resources import FRONTIERPROVIDERS, SECRETS, SPENDLEDGERS, Json

pytestmark = pytest.mark.timeout(120)
PRICING = {"inputUsdPerMTok": "3", "outputUsdPerMTok": "15"}
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 1}
OVERFLOW: Json = {"targets": [{"providerRef": {"name": "p"}, "model": "big"}]}


async def provider(operators: OperatorWorld, **spec: object) -> None:
    sold = [{"name": "big", "contextTokens": 1000, "maxOutputTokens": 100, "pricing": PRICING}]
    base = {
        "baseURL": "https://api.example.com/v1",
        "credentials": {"secretRef": {"name": "key"}},
        "models": sold,
        "budget": {"usdPerDay": "10"},
    }
    metadata = {"name": "p", "namespace": operators.namespace}
    await operators.kube.create(FRONTIERPROVIDERS, {"metadata": metadata, "spec": base | spec})


async def key(operators: OperatorWorld, hosts: str = "api.example.com") -> None:
    metadata = {"name": "key", "namespace": operators.namespace, "annotations": {"weir.dev/allowed-hosts": hosts}}
    await operators.kube.create(SECRETS, {"metadata": metadata, "stringData": {"api-key": "sk-verysecretverysecret"}})


async def until_provider(operators: OperatorWorld, kind: str, status: str, reason: str) -> str:
    return await operators.until_condition(kind, status, reason, name="p", resource=FRONTIERPROVIDERS)


async def book(operators: OperatorWorld, name: str = "frontierprovider.p") -> Json:
    """The ledger, once it is there."""

    async def found() -> Json | None:
        return await operators.get(SPENDLEDGERS, name)

    made: Json = await until(f"SpendLedger {name}", found)
    return made


async def spend(operators: OperatorWorld, spent: str, leased: str = "0", name: str = "frontierprovider.p") -> None:
    """What a gateway writes."""
    ledger = await book(operators, name)
    today = operators.kube.server_now().strftime("%Y-%m-%d")
    ledger["status"] = {"windowStart": today, "settledUsd": spent, "holders": []}
    if leased != "0":
        ledger["status"]["holders"] = [{"holder": "g", "grantedUsd": leased, "spentUsd": "0", "sequence": 1}]
    await operators.kube.update(SPENDLEDGERS, ledger, subresource="status")


async def test_a_key_that_is_missing_or_may_not_go_there(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await provider(operators)
    assert "there is no Secret key" in await until_provider(operators, "Ready", "False", "SecretMissing")
    await key(operators, hosts="elsewhere.example.com")
    message = await until_provider(operators, "Ready", "False", "HostNotAllowed")
    assert "weir.dev/allowed-hosts: api.example.com" in message
    annotations = {"metadata": {"annotations": {"weir.dev/allowed-hosts": "api.example.com"}}}
    await operators.kube.patch(SECRETS, operators.namespace, "key", annotations)
    await until_provider(operators, "Ready", "True", "KeyPresent")
    assert "verysecret" not in operator.log


async def test_a_model_without_a_price_is_named(operators: OperatorWorld) -> None:
    await operators.operator()
    sold = [{"name": name, "contextTokens": 1000, "maxOutputTokens": 100} for name in ("free", "unknown")]
    await provider(operators, models=sold)
    assert "no pricing for free, unknown" in await until_provider(operators, "PricesKnown", "False", "PriceUnknown")


async def test_a_missing_provider_leaves_ready_alone(operators: OperatorWorld) -> None:
    await operators.operator()
    await operators.model(**MANUAL, overflow=OVERFLOW)
    await operators.until_ready(1)
    message = await operators.until_condition("OverflowAvailable", "False", "ProviderMissing")
    assert message == "there is no FrontierProvider p in this namespace"
    await operators.until_condition("Ready", "True", "Serving")
    await key(operators)
    await provider(operators)
    assert await operators.until_condition("OverflowAvailable", "True", "TargetsAvailable") == "big of p"
    await operators.kube.delete(FRONTIERPROVIDERS, operators.namespace, "p")
    await operators.until_condition("OverflowAvailable", "False", "ProviderMissing")


async def test_a_budget_runs_out_and_the_model_says_so(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await key(operators)
    await provider(operators)
    await operators.model(**MANUAL, overflow=OVERFLOW)
    await until_provider(operators, "BudgetAvailable", "True", "MoneyLeft")
    await operators.until_condition("OverflowAvailable", "True", "TargetsAvailable")
    ledger = await book(operators)
    assert ledger["spec"] == {"for": {"kind": "FrontierProvider", "name": "p"}, "window": "Day"}
    assert "ownerReferences" not in ledger["metadata"]
    assert (await operators.status("p", FRONTIERPROVIDERS))["ledgerUID"] == ledger["metadata"]["uid"]
    await spend(operators, "9.95")
    message = await until_provider(operators, "BudgetAvailable", "False", "Exhausted")
    assert "9.95 of 10 USD are spent" in message
    message = await operators.until_condition("OverflowAvailable", "False", "BudgetExhausted")
    assert "9.95 of 10 USD" in message
    spent = (await operators.status("p", FRONTIERPROVIDERS))["spend"]
    assert spent["usdToday"] == "9.95"
    where = f'kind="FrontierProvider",name="p",namespace="{operators.namespace}"'
    metrics = await operator.metrics()
    assert metrics[f"weir_budget_spent_usd{{{where}}}"] == 9.95
    assert metrics[f"weir_budget_limit_usd{{{where}}}"] == 10
    await operators.kube.patch(FRONTIERPROVIDERS, operators.namespace, "p", {"spec": {"budget": {"usdPerDay": "20"}}})
    await operators.until_condition("OverflowAvailable", "True", "TargetsAvailable")


async def test_a_models_own_budget(operators: OperatorWorld) -> None:
    await operators.operator()
    await key(operators)
    await provider(operators, budget=None)
    await operators.model(**MANUAL, overflow=OVERFLOW | {"budget": {"usdPerDay": "1"}})
    await operators.until_condition("OverflowAvailable", "True", "TargetsAvailable")
    ledger = await book(operators, "modeldeployment.m")
    assert (await operators.status())["overflow"]["ledgerUID"] == ledger["metadata"]["uid"]
    await spend(operators, "1", name="modeldeployment.m")
    await operators.until_condition("OverflowAvailable", "False", "BudgetExhausted")


async def test_deleting_a_provider_does_not_refill_its_till(operators: OperatorWorld) -> None:
    await operators.operator()
    await key(operators)
    await provider(operators)
    await until_provider(operators, "BudgetAvailable", "True", "MoneyLeft")
    before = (await book(operators))["metadata"]["uid"]
    await spend(operators, "10")
    await operators.kube.delete(FRONTIERPROVIDERS, operators.namespace, "p")
    await provider(operators)
    await until_provider(operators, "BudgetAvailable", "False", "Exhausted")
    assert (await operators.status("p", FRONTIERPROVIDERS))["ledgerUID"] == before


async def test_a_deleted_book_is_not_opened_again_that_day(operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await key(operators)
    await provider(operators)
    await until_provider(operators, "BudgetAvailable", "True", "MoneyLeft")
    await operators.kube.delete(SPENDLEDGERS, operators.namespace, "frontierprovider.p")
    message = await until_provider(operators, "BudgetAvailable", "False", "LedgerLost")
    assert "nothing more is spent until that UTC day ends" in message
    assert operator.stop() == 0
    await operators.operator()
    await until_provider(operators, "BudgetAvailable", "False", "LedgerLost")
    assert await operators.get(SPENDLEDGERS, "frontierprovider.p") is None
    # As if that had been another day.
    status = {"status": {"ledgerLostOn": "2020-01-01"}}
    await operators.kube.patch(FRONTIERPROVIDERS, operators.namespace, "p", status, subresource="status")
    await until_provider(operators, "BudgetAvailable", "True", "MoneyLeft")
    assert (await operators.status("p", FRONTIERPROVIDERS))["ledgerUID"] == (await book(operators))["metadata"]["uid"]
