"""Paths name exactly what is meant, or are refused."""

from __future__ import annotations

import pytest

from weir.kube.resources import LEASES, MODELDEPLOYMENTS, NODES, PODS, Key, ObjectRef, Resource


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "subresource", "path"),
    [
        (PODS, None, None, None, "/api/v1/pods"),
        (PODS, "a", None, None, "/api/v1/namespaces/a/pods"),
        (PODS, "a", "p", None, "/api/v1/namespaces/a/pods/p"),
        (PODS, "a", "p", "status", "/api/v1/namespaces/a/pods/p/status"),
        (NODES, None, "n", None, "/api/v1/nodes/n"),
        (NODES, "", "n", None, "/api/v1/nodes/n"),
        (LEASES, "a", "l", None, "/apis/coordination.k8s.io/v1/namespaces/a/leases/l"),
        (MODELDEPLOYMENTS, None, None, None, "/apis/weir.dev/v1alpha1/modeldeployments"),
        (PODS, "a", "system:x", None, "/api/v1/namespaces/a/pods/system:x"),
    ],
)
def test_a_path(
    resource: Resource, namespace: str | None, name: str | None, subresource: str | None, path: str
) -> None:
    assert resource.path(namespace, name, subresource) == path


@pytest.mark.parametrize(
    ("resource", "namespace", "name"), [(NODES, "a", "n"), (PODS, None, "p"), (PODS, "", "p"), (PODS, "a", "")]
)
def test_a_path_that_would_name_something_else_is_refused(resource: Resource, namespace: str | None, name: str) -> None:
    with pytest.raises(ValueError, match=resource.plural):
        resource.path(namespace, name)


def test_a_name_cannot_climb_out_of_its_collection() -> None:
    assert PODS.path("a", "../secrets/s") == "/api/v1/namespaces/a/pods/..%2Fsecrets%2Fs"


def test_keys_read_as_people_write_them() -> None:
    assert [str(Key("a", "p")), str(Key("", "n"))] == ["a/p", "n"]


def test_a_reference_to_an_object() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "p", "uid": "u"}}
    assert ObjectRef.of(pod) == ObjectRef("v1", "Pod", "a", "p", "u")
    assert ObjectRef.of(pod).key == Key("a", "p")
