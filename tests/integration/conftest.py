"""The worlds of gateway and operator on the real control plane."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from controlplane import ControlPlane
from testbed.gateway import World, new_world
from testbed.operator import OperatorWorld, new_operator_world


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], AbstractEventLoop]]:
    """The loop that the programs run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world(control_plane: ControlPlane, crds_installed: None, namespace: str) -> AsyncIterator[World]:
    """A namespace of its own, and the means to fill it."""
    async with new_world(control_plane, namespace) as made:
        yield made


@pytest.fixture
async def operators(control_plane: ControlPlane, crds_installed: None, namespace: str) -> AsyncIterator[OperatorWorld]:
    """The same for operators, with a node."""
    async with new_operator_world(control_plane, namespace) as made:
        yield made
