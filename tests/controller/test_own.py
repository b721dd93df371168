"""Who must be looked at when one of our own objects changes."""

from __future__ import annotations

from typing import Any

from weir.controller.names import WorkKey
from weir.controller.own import OwnKinds
from weir.kube.resources import FRONTIERPROVIDERS, MODELDEPLOYMENTS, SPENDLEDGERS


def mdep(name: str, *names: str, provider: str = "", namespace: str = "n") -> Any:
    spec: dict[str, Any] = {"model": {"source": "hf://org/m", "servedNames": list(names)}}
    if provider:
        spec["overflow"] = {"targets": [{"providerRef": {"name": provider}, "model": "x"}]}
    return {"metadata": {"name": name, "namespace": namespace, "uid": name}, "spec": spec}


def model_key(name: str, namespace: str = "n") -> WorkKey:
    return WorkKey("ModelDeployment", namespace, name)


def test_rivals_for_a_name_of_one_namespace() -> None:
    own = OwnKinds()
    assert own.see(MODELDEPLOYMENTS, mdep("a", "gpt"), gone=False) == {model_key("a")}
    own.see(MODELDEPLOYMENTS, mdep("x", "gpt", namespace="other"), gone=False)
    assert own.see(MODELDEPLOYMENTS, mdep("b", "gpt", "b"), gone=False) == {model_key("a"), model_key("b")}
    # It gives the name up: the other one has it now.
    assert own.see(MODELDEPLOYMENTS, mdep("b", "b"), gone=False) == {model_key("a"), model_key("b")}
    assert own.see(MODELDEPLOYMENTS, mdep("a", "gpt"), gone=True) == {model_key("a")}
    assert {m.metadata.name for m in own.models_of("n")} == {"b"}


def test_a_provider_concerns_the_models_that_may_spill_there() -> None:
    own = OwnKinds()
    own.see(MODELDEPLOYMENTS, mdep("a", provider="p"), gone=False)
    own.see(MODELDEPLOYMENTS, mdep("b", provider="q"), gone=False)
    spec = {
        "baseURL": "https://x.example/v1",
        "credentials": {"secretRef": {"name": "s"}},
        "models": [{"name": "x", "contextTokens": 1, "maxOutputTokens": 1}],
    }
    provider = {"metadata": {"name": "p", "namespace": "n"}, "spec": spec}
    concerned = {WorkKey("FrontierProvider", "n", "p"), model_key("a")}
    assert own.see(FRONTIERPROVIDERS, provider, gone=False) == concerned
    assert own.see(FRONTIERPROVIDERS, provider, gone=True) == concerned
    assert own.providers_of("n") == {}


def test_a_ledger_concerns_whose_budget_it_is() -> None:
    ledger = {
        "metadata": {"name": "modeldeployment.a", "namespace": "n"},
        "spec": {"for": {"kind": "ModelDeployment", "name": "a"}},
    }
    assert OwnKinds().see(SPENDLEDGERS, ledger, gone=False) == {model_key("a")}


def test_what_cannot_be_understood_is_left_as_it_is() -> None:
    own = OwnKinds()
    own.see(MODELDEPLOYMENTS, mdep("a"), gone=False)
    broken = {"metadata": {"name": "a", "namespace": "n"}, "spec": {}}
    assert own.see(MODELDEPLOYMENTS, broken, gone=False) == set()
    assert own.models
