"""An operator that came before its CRDs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from controlplane import ControlPlane
from testbed.gateway import until
from testbed.operator import OperatorProcess

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(120)]
CRDS = Path(__file__).parents[2] / "crds"


async def test_it_says_what_it_waits_for_and_goes_on_when_it_comes() -> None:
    with ControlPlane() as plane:
        operator = OperatorProcess(plane, "default")
        try:
            await until("it to say what it waits for", lambda: "waits for a CRD" in operator.log, timeout=30)
            assert "weir crds | kubectl apply" in operator.log
            for file in CRDS.glob("*.yaml"):
                crd = yaml.safe_load(file.read_text())
                collection = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
                plane.api.apply(f"{collection}/{crd['metadata']['name']}", crd)
            await until("it to work", lambda: operator.leads, timeout=30)
            assert operator.stop() == 0
        finally:
            operator.process.kill()
            operator.process.wait()
