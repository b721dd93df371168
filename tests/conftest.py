"""What tests run against: a real control plane, a real cluster, namespaces of their own in them.

There is one way to leave a test out: where the machine cannot give what it runs against, it is deselected, and the end of the
output names it and why. With CI=true that is a failure: a build that tests less than it should must not look green.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from controlplane import ControlPlane, components, programs
from devcluster import DevCluster, images, machine, node

if TYPE_CHECKING:
    from weir.kube.client import KubeClient

ROOT = Path(__file__).parents[1]
NOT_RUN = pytest.StashKey[dict[str, list[str]]]()
"""Reason -> ids of the tests that it kept from running."""


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    for marker, fixture in (("controlplane", "control_plane"), ("helm", "helm"), ("devcluster", "dev_cluster")):
        if fixture in fixtures and item.get_closest_marker(marker) is None:
            item.add_marker(marker)


@pytest.hookimpl(trylast=True)  # after -m and -k, so that nothing is built for tests nobody asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    not_run: dict[str, list[str]] = {}
    config.stash[NOT_RUN] = not_run
    if config.option.collectonly:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    for marker, obstacle in _SUBSTRATES.items():
        concerned = [item for item in items if item.get_closest_marker(marker)]
        if not concerned:
            continue
        with capture.global_and_fixture_disabled():  # a first build takes minutes, and says so
            reason = obstacle()
        if reason:
            not_run.setdefault(reason, []).extend(item.nodeid for item in concerned)
            config.hook.pytest_deselected(items=concerned)
            items[:] = [item for item in items if item not in concerned]


def _no_control_plane() -> str | None:
    try:
        programs.find(*components.PROGRAMS)
    except programs.UnavailableError as error:
        return str(error)
    return None


def _no_helm() -> str | None:
    try:
        programs.find("helm")
    except programs.UnavailableError as error:
        return str(error)
    return None


def _no_dev_cluster() -> str | None:
    if reason := machine.obstacle():
        return reason
    try:
        programs.find(*components.PROGRAMS, *node.PROGRAMS, "kubectl", "helm", "pause")
    except programs.UnavailableError as error:
        return str(error)
    return None


_SUBSTRATES: dict[str, Callable[[], str | None]] = {
    "controlplane": _no_control_plane,
    "helm": _no_helm,
    "devcluster": _no_dev_cluster,
}
"""Marker -> what finds or builds what such tests run against, and answers in a sentence why it cannot."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for reason, tests in config.stash.get(NOT_RUN, {}).items():
        terminalreporter.section(f"{len(tests)} tests did not run", red=bool(_in_ci()))
        terminalreporter.write_line(reason)
        terminalreporter.write_line("\n".join(f"  {test}" for test in tests))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci() and session.config.stash.get(NOT_RUN, {}):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One for the whole run; tests keep apart by namespaces. Whoever stops its API server starts it again."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def crds_installed(control_plane: ControlPlane) -> None:
    """The CRDs of crds/, served."""
    collection = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    paths = []
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(file.read_text())
        paths.append(f"{collection}/{crd['metadata']['name']}")
        control_plane.api.apply(paths[-1], crd)
    _until("the CRDs to be served", lambda: all(_established(control_plane, path) for path in paths))


def _established(plane: ControlPlane, path: str) -> bool:
    conditions = plane.api.request("GET", path).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="session")
def dev_cluster() -> Iterator[DevCluster]:
    """One for the whole run, with our images in it: a node `gpu-a` with 8 GPUs. Tests keep apart by namespaces."""
    with DevCluster() as cluster:
        cluster.import_image(images.build(cluster.folder / "images.tar"))
        yield cluster


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a fresh namespace in which pods can be created. Its deletion is not waited for."""
    name = f"test-{secrets.token_hex(4)}"
    api = control_plane.api
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"  # without it every pod is refused
    _until(f"the service account of {name}", lambda: api.exists(account))
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """Our own client, as a cluster administrator."""
    from weir.kube.client import KubeClient
    from weir.kube.config import load_config

    async with KubeClient(load_config(control_plane.kubeconfig)) as client:
        yield client


def _until(what: str, holds: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        time.sleep(0.02)
