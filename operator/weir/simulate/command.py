"""`weir simulate`: reads a manifest and a trace, replays them, and says what it would have cost and how well it would have served."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from weir.api.frontierprovider import FrontierProvider
from weir.api.modeldeployment import ModelDeployment
from weir.economics.pricing import Price
from weir.overflow.policy import Route
from weir.simulate import report, trace
from weir.simulate.replay import Finished, Outcome, World, replay
from weir.simulate.step_model import PRESETS


class SimulationError(ValueError):
    """What was asked for cannot be simulated; the message says what to change."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds; 0 where nothing was served."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """The quantiles of a sample: the smallest value that at least that share does not exceed."""
        ordered = sorted(seconds) or [0.0]
        return cls(*(round(1000 * ordered[math.ceil(q * len(ordered)) - 1], 1) for q in (0.5, 0.95, 0.99)))


@dataclass(frozen=True)
class Result:
    """`weir simulate -o json`; its names are a contract."""

    trace: str
    policy: str
    requests: int
    usd: dict[str, float]
    slo: dict[str, dict[str, Latency]]
    """By route: local, frontier."""
    spilled_share: float
    refused_share: float
    utilization: float
    replica_changes: int
    wall_seconds: float

    def to_json(self) -> bytes:
        """Indented, for people and programs."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    def to_table(self) -> str:
        """Two columns."""
        rows: list[tuple[str, Any]] = [
            ("TRACE", self.trace),
            ("POLICY", self.policy),
            ("REQUESTS", self.requests),
            ("SPILLED", f"{self.spilled_share:.1%}"),
            ("REFUSED", f"{self.refused_share:.1%}"),
            ("UTILIZATION", f"{self.utilization:.0%}"),
            ("REPLICA CHANGES", self.replica_changes),
            *((f"USD {name.upper()}", f"{value:.4f}") for name, value in self.usd.items()),
            *(
                (f"{route} {name} p50/p95/p99 ms".upper(), f"{q.p50:g} / {q.p95:g} / {q.p99:g}")
                for route, both in self.slo.items()
                for name, q in both.items()
            ),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def simulate(
    manifest: Path, trace_file: Path, *, speed_up: float, engine: str, cold_start: float, page: Path | None
) -> Result:
    """Replays the first ModelDeployment of `manifest`. Raises SimulationError, trace.TraceError or OSError."""
    began = time.monotonic()
    model, price = _read(manifest)
    accelerator = model.spec.accelerator
    hourly = accelerator.hourly_cost_usd if accelerator else None
    per_hour = hourly.micros / 1e6 * accelerator.count if accelerator and hourly else 0.0
    arrivals = trace.speed_up(trace.read(trace_file), speed_up)
    world = World(PRESETS[engine], cold_start, per_hour, price)
    outcome = replay(model.spec, arrivals, world)
    name = trace_file.name + (f" at {speed_up:g}x arrivals" if speed_up != 1 else "")
    policy = f"{model.spec.scaling.policy} {model.spec.scaling.target_utilization}"
    result = _result(name, policy, outcome, time.monotonic() - began)
    if page:
        assumptions = f"{name}; engine {engine}, cold start {cold_start:g} s, provider's first token after {world.frontier_first_token} s"
        facts = [tuple(line.split("  ", 1)) for line in result.to_table().splitlines()]
        rows = [(name, value.strip()) for name, value in facts]
        target = model.spec.scaling.target_utilization / 100
        run = report.Run(
            f"{model.key}: {policy}", assumptions, target, model.spec.scaling.max_replicas, outcome.moments, rows
        )
        report.write_page(run, page)
    return result


def _read(manifest: Path) -> tuple[ModelDeployment, Price | None]:
    """The model, and the price of its first overflow target where the manifest has the provider too."""
    try:
        documents = [d for d in yaml.safe_load_all(manifest.read_text(encoding="utf-8")) if isinstance(d, dict)]
        models = [ModelDeployment.from_object(d) for d in documents if d.get("kind") == "ModelDeployment"]
        found = [FrontierProvider.from_object(d) for d in documents if d.get("kind") == "FrontierProvider"]
    except (yaml.YAMLError, ValidationError) as error:
        raise SimulationError(f"{manifest}: {error}") from error
    if not models:
        raise SimulationError(f"{manifest} has no ModelDeployment")
    if models[0].spec.scaling.policy != "Utilization":
        raise SimulationError(f"{manifest}: only spec.scaling.policy Utilization can be simulated")
    if models[0].spec.overflow is None:
        return models[0], None
    target = models[0].spec.overflow.targets[0]
    provider = next((p for p in found if p.metadata.name == target.provider_ref.name), None)
    sold = provider.find_model(target.model) if provider else None
    if sold is None or sold.pricing is None:
        wanted = f"{target.model} of FrontierProvider {target.provider_ref.name}"
        raise SimulationError(f"{manifest} lacks the price of {wanted}; add that FrontierProvider to the file")
    return models[0], Price.from_api(sold.pricing)


def _result(name: str, policy: str, outcome: Outcome, wall: float) -> Result:
    def latency(route: Route) -> dict[str, Latency]:
        of_route: list[Finished] = [f for f in outcome.finished if f.route is route]
        return {
            "ttft_ms": Latency.of([f.first_token for f in of_route]),
            "tpot_ms": Latency.of([f.per_token for f in of_route]),
        }

    total = max(len(outcome.finished), 1)
    share = {route: sum(f.route is route for f in outcome.finished) / total for route in Route}
    # Until the last request ended: the fall back to the minimum has no demand and says nothing about the target.
    busy = [m.utilization for m in outcome.moments if m.utilization is not None and m.demand > 0]
    return Result(
        trace=name,
        policy=policy,
        requests=len(outcome.finished),
        usd={
            "gpu": round(outcome.usd_gpu, 6),
            "frontier": round(outcome.usd_frontier, 6),
            "total": round(outcome.usd_gpu + outcome.usd_frontier, 6),
        },
        slo={"local": latency(Route.LOCAL), "frontier": latency(Route.SPILL)},
        spilled_share=round(share[Route.SPILL], 4),
        refused_share=round(share[Route.REFUSE], 4),
        utilization=round(statistics.fmean(busy), 4) if busy else 0.0,
        replica_changes=outcome.replica_changes,
        wall_seconds=round(wall, 2),
    )
