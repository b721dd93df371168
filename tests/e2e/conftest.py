"""One release of Weir on the run's dev cluster, and a world of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devcluster import DevCluster
from testbed.cluster import ClusterWorld, Release, new_cluster_world


@pytest.fixture(scope="session")
def weir_release(dev_cluster: DevCluster) -> Release:
    """Installed by helm and Ready. Whoever uninstalls it installs it again."""
    return Release(dev_cluster)


@pytest.fixture
async def world(weir_release: Release) -> AsyncIterator[ClusterWorld]:
    """The means to fill the cluster; gone, with what it made, when the test ends."""
    async with new_cluster_world(weir_release) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo takes minutes: what is wrong should show before it."""
    items.sort(key=lambda item: item.path.name == "test_demo.py")
