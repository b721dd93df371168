"""`make demo` keeps its promises, and writes what its readers rely on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    *("requests", "succeeded", "lost", "rejected", "local", "frontier", "reasons", "replicas", "utilization"),
    *("usd", "reaction_seconds", "duration_seconds", "trace"),
}


@pytest.mark.devcluster
@pytest.mark.timeout(900)
def test_the_demo_keeps_its_promises() -> None:
    output = ROOT / "build" / "demo"
    for name in ("summary.json", "report.html"):
        (output / name).unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": "operator:hack"}
    done = subprocess.run([sys.executable, "-m", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((output / "summary.json").read_text())
    assert summary.keys() >= KEYS
    assert summary["lost"] == 0
    assert summary["replicas"].keys() == {"min", "max", "final"}
    assert "data:image/svg+xml" in (output / "report.html").read_text()
