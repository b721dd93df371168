"""`make demo`, as it is: what it promises it keeps, and what it writes is what others read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build" / "demo"
KEYS = {
    *("requests", "succeeded", "lost", "rejected", "local", "frontier", "reasons", "replicas", "utilization", "usd"),
    *("reaction_seconds", "duration_seconds", "trace"),
}


@pytest.mark.devcluster
@pytest.mark.timeout(900)
def test_the_demo_keeps_its_promises() -> None:
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "operator:hack"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr}"
    assert "not as promised" not in done.stderr
    written = OUTPUT / "summary.json"
    assert written.stat().st_mtime >= began
    summary = json.loads(written.read_text())
    assert set(summary) >= KEYS
    assert summary["requests"] >= 2000
    assert summary["lost"] == 0
    assert summary["succeeded"] + summary["rejected"] <= summary["requests"]
    assert summary["frontier"] > 0
    assert summary["reasons"]["saturated"] > 0
    assert summary["reasons"]["budget-exhausted"] > 0
    assert summary["replicas"]["max"] >= 3
    assert summary["replicas"]["final"] == summary["replicas"]["min"] == 1
    page = (OUTPUT / "report.html").read_text()
    assert (OUTPUT / "report.html").stat().st_mtime >= began
    assert str(summary["requests"]) in page
    assert "data:image/svg+xml" in page, "the plots"
    assert (OUTPUT / "report.png").stat().st_mtime >= began
