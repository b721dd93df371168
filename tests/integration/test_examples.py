"""Every example is what the API server of a fresh installation accepts, and what its own comments say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from controlplane import ControlPlane
from weir.api.crd import KINDS
from weir.api.frontierprovider import ALLOWED_HOSTS_ANNOTATION, FrontierProvider
from weir.api.modeldeployment import ModelDeployment

T = TypeVar("T", ModelDeployment, FrontierProvider)
EXAMPLES = Path(__file__).parents[2] / "examples"
COLLECTIONS = {
    ("v1", "Secret"): "/api/v1/namespaces/{namespace}/secrets",
    ("v1", "PersistentVolumeClaim"): "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
} | {
    ("weir.dev/v1alpha1", kind.model.kind_name): f"/apis/weir.dev/v1alpha1/namespaces/{{namespace}}/{kind.plural}"
    for kind in KINDS
}


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of every file, with an id."""
    for file in sorted(EXAMPLES.glob("*.yaml")):
        for obj in yaml.safe_load_all(file.read_text()):
            yield f"{file.name}:{obj['kind']}/{obj['metadata']['name']}", obj


OBJECTS = dict(objects())


@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)
def test_the_api_server_accepts_it(
    control_plane: ControlPlane, crds_installed: None, namespace: str, obj: dict[str, Any]
) -> None:
    path = COLLECTIONS[obj["apiVersion"], obj["kind"]].format(namespace=namespace)
    # Strict: a field that the schema does not know is an error here, where kubectl would only warn.
    created = control_plane.api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", obj)
    assert created["metadata"]["name"] == obj["metadata"]["name"]


def test_every_provider_that_is_named_is_there_and_sells_the_model() -> None:
    providers = {p.metadata.name: p for p in read(FrontierProvider)}
    targets = [t for m in read(ModelDeployment) for t in (m.spec.overflow.targets if m.spec.overflow else ())]
    assert targets
    for target in targets:
        model = providers[target.provider_ref.name].find_model(target.model)
        assert model is not None, target
        assert model.pricing is not None, target


def test_every_key_may_go_to_its_provider_and_is_none() -> None:
    secrets = {obj["metadata"]["name"]: obj for obj in OBJECTS.values() if obj["kind"] == "Secret"}
    for provider in read(FrontierProvider):
        secret = secrets[provider.spec.credentials.secret_ref.name]
        assert secret["metadata"]["annotations"][ALLOWED_HOSTS_ANNOTATION] in provider.spec.base_url
        assert secret["stringData"][provider.spec.credentials.secret_ref.key] == "REPLACE-ME"
    for model in read(ModelDeployment):
        if model.spec.model.credentials:
            assert secrets[model.spec.model.credentials.secret_ref.name]["stringData"] == {"HF_TOKEN": "REPLACE-ME"}


def test_names_do_not_collide_when_all_are_applied() -> None:
    names = [name for m in read(ModelDeployment) for name in m.served_names]
    assert len(names) == len(set(names))


def read(model: type[T]) -> list[T]:
    """The examples of one kind."""
    return [model.from_object(obj) for obj in OBJECTS.values() if obj["kind"] == model.kind_name]
