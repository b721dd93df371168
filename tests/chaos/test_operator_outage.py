"""The API server goes away under the operator and comes back."""

from __future__ import annotations

import pytest

from controlplane import ControlPlane
from testbed.gateway import until
from testbed.operator import OperatorWorld
from weir.kube.errors import Unreachable
from weir.kube.resources import SERVICES, Json

pytestmark = pytest.mark.timeout(180)
MANUAL: Json = {"scaling": {"policy": "Manual"}, "replicas": 2}


async def three_replicas(operators: OperatorWorld) -> None:
    """Asks for them; the first request after an outage may meet a connection that is dead."""

    async def asked() -> bool:
        try:
            await operators.change(replicas=3)
        except Unreachable:
            return False
        return True

    await until("the API server to take a change", asked)


async def test_a_short_outage_is_lived_through(control_plane: ControlPlane, operators: OperatorWorld) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    control_plane.stop_api()
    control_plane.start_api()
    await three_replicas(operators)
    await operators.until_ready(3, timeout=60)
    await operators.kube.delete(SERVICES, operators.namespace, "m")
    await until("the Service to come back", lambda: operators.get(SERVICES, "m"), timeout=60)
    assert operator.process.poll() is None


async def test_a_long_outage_ends_the_leader_and_the_next_one_heals(
    control_plane: ControlPlane, operators: OperatorWorld
) -> None:
    operator = await operators.operator()
    await operators.model(**MANUAL)
    await operators.until_ready(2)
    control_plane.stop_api()
    try:
        await until("the leader to end", lambda: operator.process.poll() is not None, timeout=40)
        assert operator.process.returncode == 1
        assert "Lease" in operator.log
        # As a kubelet would, while the API server is still away: it waits instead of crashing over and over.
        again = await operators.operator(leads=False)
        await until("the next one to wait for the Lease", lambda: "waits for the Lease" in again.log)
    finally:
        control_plane.start_api()
    await three_replicas(operators)
    await until("the next one to lead", lambda: again.leads, timeout=60)
    await operators.until_ready(3, timeout=60)
