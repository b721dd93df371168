"""A revision changes when, and only when, the user changes what shapes the pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weir.api.modeldeployment import ModelDeployment
from weir.workload.defaults import Refused, WorkloadDefaults
from weir.workload.engine import grace_seconds
from weir.workload.names import replica_set_name, revision_of
from weir.workload.pod import pod_template
from weir.workload.source import resolve

DEFAULTS = WorkloadDefaults(engine_image="vllm/vllm-openai:v0.32.0")


def mdep(**spec: Any) -> ModelDeployment:
    body = {"model": {"source": "hf://org/m"}} | spec
    return ModelDeployment.from_object({"metadata": {"name": "m", "namespace": "n", "uid": "u"}, "spec": body})


BASE = mdep(accelerator={"count": 1})


@pytest.mark.parametrize(
    "other",
    [
        {"scaling": {"maxReplicas": 8, "minReplicas": 0}},
        {"overflow": {"targets": [{"providerRef": {"name": "p"}, "model": "x"}]}},
        {"queue": {"maxLength": 5}},
        {"rollout": {"strategy": "Replace"}},
        {"engine": {"maxConcurrency": 64}},  # the default, spelled out
        {"accelerator": {"count": 1, "resource": "nvidia.com/gpu", "hourlyCostUSD": "3"}},
        {"template": {"labels": {}}},
    ],
)
def test_what_does_not_shape_the_pod(other: dict[str, Any]) -> None:
    assert revision_of(mdep(**({"accelerator": {"count": 1}} | other)), DEFAULTS) == revision_of(BASE, DEFAULTS)


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"source": "hf://org/m", "revision": "abc"}},
        {"model": {"source": "hf://org/m", "servedNames": ["x"]}},
        {"engine": {"maxConcurrency": 65}},
        {"engine": {"args": ["--enforce-eager"]}},
        {"engine": {"image": "other:v1"}},
        {"accelerator": {"count": 2}},
        {"template": {"labels": {"a": "b"}}},
    ],
)
def test_what_shapes_the_pod(other: dict[str, Any]) -> None:
    assert revision_of(mdep(**({"accelerator": {"count": 1}} | other)), DEFAULTS) != revision_of(BASE, DEFAULTS)


def test_another_default_image_is_another_revision_only_where_it_is_used() -> None:
    newer = replace(DEFAULTS, engine_image="vllm/vllm-openai:v0.33.0")
    assert revision_of(BASE, newer) != revision_of(BASE, DEFAULTS)
    pinned = mdep(engine={"image": "mine:v1"})
    assert revision_of(pinned, newer) == revision_of(pinned, DEFAULTS)


def test_names_fit() -> None:
    body = {"metadata": {"name": "m" * 52, "namespace": "n"}, "spec": {"model": {"source": "hf://org/m"}}}
    longest = ModelDeployment.from_object(body)
    assert len(replica_set_name(longest, revision_of(longest, DEFAULTS))) == 63


def test_host_paths_only_where_the_configuration_allows_them() -> None:
    volumes = mdep(template={"volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]})
    model = mdep(model={"source": "file:///srv/m"})
    for refused, word in ((volumes, "spec.template.volumes v"), (model, "spec.model.source")):
        with pytest.raises(Refused, match=word) as caught:
            pod_template(refused, "r", DEFAULTS)
        assert caught.value.reason == "HostPathNotAllowed"
        pod_template(refused, "r", replace(DEFAULTS, allow_host_paths=True))


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("hf://org/m", "org/m"),
        ("pvc://claim", "/models/claim"),
        ("pvc://claim/", "/models/claim"),
        ("pvc://claim/a/b", "/models/claim/a/b"),
        ("file:///srv/models/m/", "/models/m"),
        ("file:///srv/models/m.gguf", "/models/m.gguf"),
    ],
)
def test_what_vllm_is_told(source: str, model: str) -> None:
    allowed = replace(DEFAULTS, allow_host_paths=True)
    assert resolve(mdep(model={"source": source}).spec.model, allowed).model == model


def test_grace_covers_notice_drain_and_exit() -> None:
    assert grace_seconds(mdep(engine={"drainTimeout": "1m30s"}).spec.engine) == 5 + 90 + 10
