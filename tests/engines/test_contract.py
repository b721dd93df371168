"""The simulated engine against recorded answers of the real one, and the recording against the real one itself."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import contract
from engines.contract import PROBES, Answer, Family, comparable
from engines.process import Stub
from engines.vllm import VERSION
from engines.vllm.arguments import parse
from engines.vllm.server import Server
from real import RealEngine

RECORDING: dict[str, Any] = json.loads((Path(__file__).with_name(f"vllm-{VERSION}.json")).read_text())
RECORDED = {name: Answer(**answer) for name, answer in RECORDING["answers"].items()}
FAMILIES = {name: Family(**family) for name, family in RECORDING["families"].items()}
NOT_SIMULATED = {
    "vllm:cache_config_info"  # its labels are the whole configuration
}


@pytest.fixture(scope="module")
def simulated() -> Iterator[Stub]:
    with Stub(
        "engines.vllm", "serve", "--model=/models/smol", "--sim-model=llama-3.1-8b-h100", *contract.ARGUMENTS
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def simulated_answers(simulated: Stub) -> dict[str, Answer]:
    return asyncio.run(contract.observe(simulated.url))


def test_recording_is_of_these_probes_and_arguments() -> None:
    """Else: python -m real record."""
    assert set(RECORDED) == set(PROBES)
    assert tuple(RECORDING["arguments"]) == contract.ARGUMENTS


@pytest.mark.parametrize("name", PROBES)
def test_simulated_engine_answers_like_the_real_one(name: str, simulated_answers: dict[str, Answer]) -> None:
    assert comparable(simulated_answers[name]) == comparable(RECORDED[name])


def test_simulated_engine_shows_the_metrics_of_the_real_one(
    simulated: Stub, simulated_answers: dict[str, Answer]
) -> None:
    shown = asyncio.run(contract.families(simulated.url))
    assert set(shown) == set(FAMILIES)
    for name in FAMILIES.keys() - NOT_SIMULATED:
        assert shown[name] == FAMILIES[name], name


def test_simulated_engine_has_no_route_that_the_real_one_lacks() -> None:
    app = Server(parse([])).app()
    routes = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.resource}
    own = {route for route in routes if "/sim/" in route}
    assert own == {"GET /sim/fault", "POST /sim/fault"}
    assert routes - own <= set(RECORDING["routes"])
    assert {"POST /v1/chat/completions", "POST /v1/completions", "GET /health", "GET /metrics"} <= routes


@pytest.fixture(scope="module")
def real() -> Iterator[RealEngine]:
    with RealEngine(*contract.ARGUMENTS) as engine:
        yield engine


@pytest.fixture(scope="module")
def real_answers(real: RealEngine) -> dict[str, Answer]:
    return asyncio.run(contract.observe(real.url))


@pytest.mark.real
@pytest.mark.parametrize("name", PROBES)
def test_real_engine_answers_as_recorded(name: str, real_answers: dict[str, Answer]) -> None:
    assert comparable(real_answers[name]) == comparable(RECORDED[name])


@pytest.mark.real
def test_real_engine_shows_the_metrics_and_routes_recorded(real: RealEngine, real_answers: dict[str, Answer]) -> None:
    assert asyncio.run(contract.families(real.url)) == FAMILIES
    assert asyncio.run(contract.routes(real.url)) == RECORDING["routes"]


@pytest.mark.real
def test_real_engine_speaks_sense(real: RealEngine) -> None:
    """A status of 200 is not enough: with the wrong number format some CPUs answer nonsense."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = {"model": "smol", "messages": messages, "max_tokens": 12, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{real.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = json.load(response)
    assert "Paris" in answer["choices"][0]["message"]["content"]
