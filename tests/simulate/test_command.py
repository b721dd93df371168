"""`weir simulate` on the shipped trace: conserves requests, follows its policy, and refuses what it cannot do in a sentence."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from weir.cli import main

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "hack/demo/manifests/models.yaml"
TRACE = ROOT / "hack/demo/trace/azure2023-conv-8min.csv"


def run(*arguments: str, manifest: Path = MODELS) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["simulate", "-f", str(manifest), "--trace", str(TRACE), *arguments])
    return result.exit_code, result.output


def test_the_demo_before_it_runs(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    code, output = run("--speed-up=6", "--cold-start=6", "-o", "json", "--report", str(page))
    assert code == 0, output
    result = json.loads(output)
    assert result["requests"] == 2247
    assert 0 < result["spilled_share"] < 0.5
    assert result["refused_share"] == 0
    assert 0.5 < result["utilization"] < 1.2
    assert result["usd"]["total"] == pytest.approx(result["usd"]["gpu"] + result["usd"]["frontier"])
    assert result["slo"]["local"]["ttft_ms"]["p50"] < 1000
    assert "data:image/svg+xml" in page.read_text()


def test_a_longer_cold_start_spills_more() -> None:
    shares = [json.loads(run("--speed-up=6", f"--cold-start={s}", "-o", "json")[1])["spilled_share"] for s in (2, 30)]
    assert shares[0] < shares[1]


def test_a_run_repeats_itself() -> None:
    first, second = (json.loads(run("-o", "json")[1]) for _ in range(2))
    assert first | {"wall_seconds": 0} == second | {"wall_seconds": 0}


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("kind: Secret\n")
    assert run(manifest=empty) == (1, f"Error: {empty} has no ModelDeployment\n")
    model = MODELS.read_text().split("---")[2]
    assert "kind: ModelDeployment" in model
    empty.write_text(model)
    code, output = run(manifest=empty)
    assert code == 1
    assert "add that FrontierProvider to the file" in output
