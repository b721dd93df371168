"""What chaos tests of the operator run in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from controlplane import ControlPlane
from testbed.operator import OperatorWorld, new_operator_world


@pytest.fixture
async def operators(control_plane: ControlPlane, crds_installed: None, namespace: str) -> AsyncIterator[OperatorWorld]:
    """A namespace with a node, and the means to start operators and to kill them."""
    async with new_operator_world(control_plane, namespace) as made:
        yield made
