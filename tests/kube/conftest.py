"""Waiting for what a real server does: polling with a deadline, never a fixed sleep."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from controlplane import ControlPlane


class Eventually(Protocol):
    async def __call__(self, holds: Callable[[], object], *, within: float = 15.0) -> None: ...


@pytest.fixture
def eventually() -> Eventually:
    """`await eventually(lambda: condition)`; `within` seconds."""

    async def poll(holds: Callable[[], object], *, within: float = 15.0) -> None:
        deadline = asyncio.get_running_loop().time() + within
        while not holds():
            assert asyncio.get_running_loop().time() < deadline, f"not within {within:g} s"
            await asyncio.sleep(0.01)

    return poll


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh one that need not hold pods: after each restart of the API server its service account would take 16 s to come."""
    name = f"test-{secrets.token_hex(4)}"
    control_plane.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    control_plane.api.request("DELETE", f"/api/v1/namespaces/{name}")
