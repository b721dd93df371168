"""FrontierProvider and SpendLedger: reading them, and the names that tie them together."""

from typing import Any

from weir.api.frontierprovider import FrontierProvider
from weir.api.spendledger import SpendLedger, ledger_name

PROVIDER: dict[str, Any] = {
    "metadata": {"name": "openai", "namespace": "ml"},
    "spec": {
        "baseURL": "https://api.openai.com/v1",
        "credentials": {"secretRef": {"name": "openai"}},
        "models": [
            {
                "name": "big",
                "contextTokens": 1000,
                "maxOutputTokens": 100,
                "pricing": {"inputUsdPerMTok": "1.25", "outputUsdPerMTok": "10"},
            },
            {"name": "unpriced", "contextTokens": 1000, "maxOutputTokens": 100},
        ],
    },
}


def test_a_provider_as_the_user_writes_it() -> None:
    provider = FrontierProvider.from_object(PROVIDER)
    assert provider.spec.base_url == "https://api.openai.com/v1"
    assert provider.spec.credentials.secret_ref.key == "api-key"
    assert provider.spec.limits.max_concurrency == 64
    assert provider.spec.timeouts.total.seconds == 600


def test_a_model_is_found_by_its_exact_name_only() -> None:
    provider = FrontierProvider.from_object(PROVIDER)
    found = provider.find_model("big")
    assert found is not None
    assert found.pricing is not None
    assert found.pricing.output_usd_per_m_tok.micros == 10_000_000
    assert provider.find_model("big-preview") is None
    assert provider.find_model("bi") is None


def test_a_model_without_a_price_has_none_rather_than_zero() -> None:
    unpriced = FrontierProvider.from_object(PROVIDER).find_model("unpriced")
    assert unpriced is not None
    assert unpriced.pricing is None


def test_ledger_names_keep_kinds_apart() -> None:
    assert ledger_name("FrontierProvider", "openai") == "frontierprovider.openai"
    assert ledger_name("ModelDeployment", "openai") == "modeldeployment.openai"


def test_a_ledger_says_whose_it_is() -> None:
    ledger = SpendLedger.from_object(
        {
            "metadata": {"name": "frontierprovider.openai", "namespace": "ml", "resourceVersion": "7"},
            "spec": {"for": {"kind": "FrontierProvider", "name": "openai"}},
            "status": {"windowStart": "2026-11-21", "holders": [{"holder": "a", "grantedUsd": "1", "spentUsd": "0.5"}]},
        }
    )
    assert (ledger.spec.owner.kind, ledger.spec.owner.name, ledger.spec.window) == ("FrontierProvider", "openai", "Day")
    assert ledger.status.holders[0].granted_usd.micros == 1_000_000
    assert ledger.metadata.resource_version == "7"
    dumped = ledger.model_dump(mode="json", by_alias=True)
    assert dumped["spec"]["for"] == {"kind": "FrontierProvider", "name": "openai"}
