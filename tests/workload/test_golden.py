"""ModelDeployments and the very objects made for them. Where the difference is meant: UPDATE_GOLDEN=1 pytest tests/workload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from weir.api.modeldeployment import ModelDeployment
from weir.workload.defaults import WorkloadDefaults
from weir.workload.names import revision_of
from weir.workload.objects import replica_set, service

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path for path in GOLDEN.glob("*.yaml") if not path.name.endswith(".out.yaml"))
DEFAULTS = WorkloadDefaults(engine_image="vllm/vllm-openai:v0.32.0", allow_host_paths=True)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_objects(path: Path) -> None:
    mdep = ModelDeployment.from_object(yaml.safe_load(path.read_text()))
    revision = revision_of(mdep, DEFAULTS)
    made = [service(mdep), replica_set(mdep, revision, replicas=2, desired=3, defaults=DEFAULTS)]
    expected = path.with_suffix(".out.yaml")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(yaml.safe_dump_all(made, sort_keys=False, width=130))
    assert made == list(yaml.safe_load_all(expected.read_text()))


def test_there_are_cases() -> None:
    assert len(CASES) >= 4
