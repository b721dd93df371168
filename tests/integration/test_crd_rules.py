"""Each CEL rule of the API, on a real API server: one object that it lets pass, one that it refuses with its own words.

The rules are read from the CRDs, so a rule without a case here fails the last test.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from controlplane import ControlPlane
from controlplane.api import ApiError
from weir.api.crd import KINDS, generate

Json = dict[str, Any]

MDEP: Json = {"kind": "ModelDeployment", "spec": {"model": {"source": "hf://Qwen/Qwen3-8B"}}}
FPR: Json = {
    "kind": "FrontierProvider",
    "spec": {
        "baseURL": "https://api.example.com/v1",
        "credentials": {"secretRef": {"name": "key"}},
        "models": [{"name": "big", "contextTokens": 1000, "maxOutputTokens": 100}],
    },
}
TARGETS = [{"providerRef": {"name": "openai"}, "model": "big"}]


@dataclass(frozen=True)
class Case:
    """Two changes to the base object (merge patches); `says` is a part of the rule's message that no other has."""

    says: str
    passes: Json
    refused: Json
    base: Json = None  # type: ignore[assignment]


def spec(**fields: Any) -> Json:
    return {"spec": fields}


CASES = (
    Case(
        "metadata.name must begin with a letter",
        {"metadata": {"name": "a" * 52}},
        {"metadata": {"name": "a" * 53}},
    ),
    Case(
        "spec.model.source must be",
        spec(model={"source": "pvc://models/llama"}),
        spec(model={"source": "s3://bucket/llama"}),
    ),
    Case(
        "spec.model.revision belongs to",
        spec(model={"revision": "main"}),
        spec(model={"source": "pvc://models", "revision": "main"}),
    ),
    Case(
        "spec.model.credentials is read for hf://",
        spec(model={"credentials": {"secretRef": {"name": "hf"}}}),
        spec(model={"source": "file:///models", "credentials": {"secretRef": {"name": "hf"}}}),
    ),
    Case(
        "spec.engine.args must not set what Weir sets",
        spec(engine={"args": ["--model-impl=vllm", "--max-num-batched-tokens=8192", "--portable"]}),
        spec(engine={"args": ["--enforce-eager", "--max-num-seqs=8"]}),
    ),
    Case(
        "spec.engine.startupTimeout must be 10s or more",
        spec(engine={"startupTimeout": "10s"}),
        spec(engine={"startupTimeout": "9s999ms"}),
    ),
    Case(
        "spec.engine.drainTimeout must be 1h or less",
        spec(engine={"drainTimeout": "60m"}),
        spec(engine={"drainTimeout": "1h1ms"}),
    ),
    Case(
        "spec.accelerator.productLabel must name the node label",
        spec(accelerator={"resource": "intel.com/gpu", "product": "Max_1550", "productLabel": "intel.com/gpu.product"}),
        spec(accelerator={"resource": "intel.com/gpu", "product": "Max_1550"}),
    ),
    Case(
        "spec.accelerator.productLabel does nothing without",
        spec(accelerator={"product": "A100", "productLabel": "gpu"}),
        spec(accelerator={"productLabel": "gpu"}),
    ),
    Case(
        "spec.scaling.minReplicas must not be above",
        spec(scaling={"minReplicas": 2, "maxReplicas": 2}),
        spec(scaling={"minReplicas": 2}),
    ),
    Case(
        "spec.scaling.idleTimeout does nothing unless",
        spec(scaling={"minReplicas": 0, "idleTimeout": "5m"}),
        spec(scaling={"idleTimeout": "5m"}),
    ),
    Case(
        "spec.scaling.policy Manual needs spec.replicas",
        spec(scaling={"policy": "Manual"}, replicas=0),
        spec(scaling={"policy": "Manual"}),
    ),
    Case(
        "spec.replicas is used by spec.scaling.policy Manual only",
        spec(scaling={"minReplicas": 1}),
        spec(replicas=1),
    ),
    Case(
        "spec.overflow.holdTime must not be above spec.queue.maxWait",
        spec(overflow={"targets": TARGETS, "holdTime": "30s"}),
        spec(overflow={"targets": TARGETS}, queue={"maxWait": "499ms"}),
    ),
    Case(
        "spec.engine.env must not set HF_TOKEN",
        spec(engine={"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "t"}}}]}),
        spec(
            model={"credentials": {"secretRef": {"name": "hf"}}},
            engine={"env": [{"name": "HF_TOKEN", "value": "x"}]},
        ),
    ),
    Case(
        "spec.baseURL must be http(s)",
        spec(baseURL="http://[::1]:9000/api/v1"),
        spec(baseURL="https://user@api.example.com/v1"),
        base=FPR,
    ),
    Case(
        "metadata.name must have at most 200 characters",
        {"metadata": {"name": "a" * 200}},
        {"metadata": {"name": "a" * 201}},
        base=FPR,
    ),
)


def rules() -> Iterator[tuple[str, str]]:
    """Kind and message of every rule of every CRD."""
    for kind in KINDS:
        version = yaml.safe_load(generate()[kind.file_name])["spec"]["versions"][0]
        for message in messages(version["schema"]["openAPIV3Schema"]):
            yield kind.model.kind_name, message


def messages(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", ()))
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from messages(child)


def merged(base: Json, patch: Json) -> Json:
    """A merge patch (RFC 7386) without the deletions."""
    return base | {k: merged(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in patch.items()}


def create(plane: ControlPlane, namespace: str, case: Case, patch: Json) -> None:
    obj = merged({"apiVersion": "weir.dev/v1alpha1", "metadata": {"name": "case"}} | (case.base or MDEP), patch)
    plural = next(kind.plural for kind in KINDS if kind.model.kind_name == obj["kind"])
    path = f"/apis/weir.dev/v1alpha1/namespaces/{namespace}/{plural}?dryRun=All&fieldValidation=Strict"
    plane.api.request("POST", path, obj)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_what_is_right_passes(control_plane: ControlPlane, crds_installed: None, namespace: str, case: Case) -> None:
    create(control_plane, namespace, case, case.passes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_what_is_wrong_is_refused_in_the_words_of_the_rule(
    control_plane: ControlPlane, crds_installed: None, namespace: str, case: Case
) -> None:
    (message,) = [message for _, message in rules() if case.says in message]
    with pytest.raises(ApiError) as refused:
        create(control_plane, namespace, case, case.refused)
    causes = yaml.safe_load(str(refused.value).partition(": ")[2])["details"]["causes"]
    assert refused.value.status == 422
    assert [cause["message"] for cause in causes if message in cause["message"]], causes
    others = [m for _, m in rules() if m != message and any(m in cause["message"] for cause in causes)]
    assert not others, "an object that breaks one rule is told of one"


@pytest.mark.parametrize(
    "args",
    [["--model=x"], ["--model", "x"], ["--port", "1"], ["--config=a"], ["--tensor-parallel-size=2"], ["--host=::"]],
    ids=" ".join,
)
def test_every_spelling_of_an_owned_flag_is_refused(
    control_plane: ControlPlane, crds_installed: None, namespace: str, args: list[str]
) -> None:
    with pytest.raises(ApiError, match=r"spec\.engine\.args must not set what Weir sets itself"):
        create(control_plane, namespace, CASES[0], spec(engine={"args": args}))


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("https://api.openai.com/v1", True),
        ("http://10.0.0.1:8080", True),
        ("https://h/openai/deployments/x_y.z-1", True),
        ("https://h/it's~(fine)/v1", True),
        ("https://api.openai.com/v1/", False),
        ("https://api.openai.com/v1?key=1", False),
        ("https://api.openai.com/v1#x", False),
        ("https://a:b@api.openai.com/v1", False),
        ("ftp://api.openai.com", False),
        ("api.openai.com/v1", False),
        ("https://h:65535/v1", True),
        ("https://h:123456/v1", False),
        ("https://h:abc/v1", False),
        ("http://[::1/v1", False),
        ("http://:80/v1", False),
        ("https://", False),
        ("https://h/v1\r\nhost: evil", False),
        ("https://h/\u2028v1", False),
    ],
)
def test_base_urls(control_plane: ControlPlane, crds_installed: None, namespace: str, url: str, fits: bool) -> None:
    case = Case("", {}, {}, base=FPR)
    if fits:
        create(control_plane, namespace, case, spec(baseURL=url))
    else:
        with pytest.raises(ApiError, match=r"spec\.baseURL must be"):
            create(control_plane, namespace, case, spec(baseURL=url))


@pytest.mark.parametrize(
    "source", ["hf://a", "hf://a/b/c", "pvc://", "pvc://Claim", "file://relative", "Qwen/Qwen3-8B", ""]
)
def test_sources_that_are_none(control_plane: ControlPlane, crds_installed: None, namespace: str, source: str) -> None:
    with pytest.raises(ApiError, match=r"spec\.model\.source must be"):
        create(control_plane, namespace, CASES[0], spec(model={"source": source}))


def test_every_rule_has_its_case() -> None:
    without = [message for _, message in rules() if not any(case.says in message for case in CASES)]
    assert without == []
    assert len({message for _, message in rules()}) == len(CASES)
