"""A served name belongs to the oldest object that claims it."""

from __future__ import annotations

from weir.api.claims import owners
from weir.api.modeldeployment import ModelDeployment


def mdep(name: str, created: str, *served: str, uid: str = "") -> ModelDeployment:
    metadata = {"name": name, "namespace": "n", "uid": uid or name, "creationTimestamp": created}
    spec = {"model": {"source": "hf://org/m", "servedNames": list(served)}}
    return ModelDeployment.from_object({"metadata": metadata, "spec": spec})


def test_the_oldest_keeps_each_name() -> None:
    old = mdep("old", "2026-01-01T00:00:00Z", "gpt", "a")
    young = mdep("young", "2026-01-02T00:00:00Z", "gpt", "b")
    found = owners([young, old])
    assert {name: m.metadata.name for name, m in found.items()} == {"gpt": "old", "a": "old", "b": "young"}


def test_within_a_second_the_lesser_uid_is_the_elder_in_any_order() -> None:
    one = mdep("one", "2026-01-01T00:00:00Z", "gpt", uid="2")
    two = mdep("two", "2026-01-01T00:00:00Z", "gpt", uid="1")
    assert owners([one, two])["gpt"] is owners([two, one])["gpt"] is two


def test_the_default_name_is_the_objects_own() -> None:
    plain, claimant = mdep("gpt", "2026-01-02T00:00:00Z"), mdep("x", "2026-01-01T00:00:00Z", "gpt")
    assert owners([plain, claimant])["gpt"] is claimant
