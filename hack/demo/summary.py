"""What the demo shows in the end, and whether that is what it promised."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from demo.client import Outcome, Record
from weir.economics.pricing import Price, Usage, cost_micros
from weir.simulate.report import Moment

MICROS = 1_000_000
TARGET = 0.70
MINIMUM_REQUESTS = 2000
MINIMUM_PEAK = 3
MINIMUM_SUCCESS = 0.99
_NO_ANSWER = (Outcome.FAILED, Outcome.LOST)


@dataclass(frozen=True)
class Reaction:
    """Seconds after the first request of the replay; None for what did not happen."""

    first_spill: float | None
    scale_up_decision: float | None
    scale_up_ready: float | None


@dataclass(frozen=True)
class Summary:
    """`build/demo/summary.json`; its names are a contract."""

    requests: int
    succeeded: int
    lost: int
    rejected: int
    rejected_by_budget: int
    failures: dict[str, int]
    """By status and code: what was neither answered nor rejected."""
    local: int
    frontier: int
    reasons: dict[str, int]
    replicas: dict[str, int]
    utilization: dict[str, float]
    usd: dict[str, float]
    reaction_seconds: Reaction
    duration_seconds: float
    trace: str

    def to_json(self) -> dict[str, Any]:
        """For orjson."""
        return asdict(self)


def summarize(
    records: Sequence[Record],
    moments: Sequence[Moment],
    *,
    minimum: int,
    price: Price,
    frontier_micros: int,
    trace: str,
    load_ended: float,
    duration: float,
) -> Summary:
    """Counts the clients' records and the watcher's moments. Utilization is that of the time under load, replicas ready."""
    answered = [r for r in records if r.outcome is Outcome.ANSWER]
    rejected = [r for r in records if r.outcome is Outcome.REJECTED]
    busy = sorted(m.utilization for m in moments if m.utilization is not None and m.at <= load_ended)
    counts = [m.replicas for m in moments]
    gpu = moments[-1].usd_gpu
    everything = sum(cost_micros(price, Usage(r.prompt_tokens, r.completion_tokens)) for r in answered) / MICROS
    frontier = frontier_micros / MICROS
    return Summary(
        requests=len(records),
        succeeded=len(answered),
        lost=sum(r.outcome is Outcome.LOST for r in records),
        rejected=len(rejected),
        rejected_by_budget=sum(r.code == "budget_exhausted" for r in rejected),
        failures=dict(Counter(f"{r.status} {r.code}" for r in records if r.outcome in _NO_ANSWER).most_common()),
        local=sum(r.backend == "local" for r in answered),
        frontier=sum(r.backend == "frontier" for r in answered),
        reasons=dict(Counter(r.reason for r in records if r.reason).most_common()),
        replicas={"min": min(counts), "max": max(counts), "final": counts[-1]},
        utilization={
            "target": TARGET,
            "mean": round(statistics.fmean(busy), 3) if busy else 0.0,
            "p95": round(busy[int(0.95 * (len(busy) - 1))], 3) if busy else 0.0,
        },
        usd={
            "gpu": round(gpu, 4),
            "frontier": round(frontier, 4),
            "all_frontier": round(everything, 4),
            "saved": round(everything - gpu - frontier, 4),
        },
        reaction_seconds=Reaction(
            first_spill=min((round(r.at, 2) for r in records if r.backend == "frontier"), default=None),
            scale_up_decision=next((m.at for m in moments if m.replicas > minimum), None),
            scale_up_ready=next((m.at for m in moments if m.ready > minimum), None),
        ),
        duration_seconds=round(duration, 1),
        trace=trace,
    )


def broken_promises(
    summary: Summary, *, minimum: int, billed_micros: int, budgets: dict[str, tuple[int, int]]
) -> list[str]:
    """What the demo promised and this run did not keep, a sentence each. `budgets`: name -> (spent, limit), micro-dollars."""
    rest = summary.requests - summary.rejected_by_budget
    share = summary.succeeded / rest if rest else 0.0
    frontier = round(summary.usd["frontier"] * MICROS)
    promises = [
        (summary.requests >= MINIMUM_REQUESTS, f"{summary.requests} requests, promised at least {MINIMUM_REQUESTS}"),
        (summary.lost == 0, f"{summary.lost} requests were lost, promised none"),
        (share >= MINIMUM_SUCCESS, f"{share:.2%} of what no budget refused succeeded, promised {MINIMUM_SUCCESS:.0%}"),
        (
            summary.replicas["max"] >= MINIMUM_PEAK,
            f"{summary.replicas['max']} replicas at the peak, promised {MINIMUM_PEAK}",
        ),
        (summary.replicas["final"] == minimum, f"{summary.replicas['final']} replicas at the end, promised {minimum}"),
        (summary.frontier > 0, "nothing spilled"),
        (summary.rejected_by_budget > 0, "no request was refused for its budget"),
        # The gateway writes its last settlements within seconds; a bill above what it counted would be money lost track of.
        (frontier >= billed_micros, f"the provider billed {billed_micros} micro-dollars, Weir counted {frontier}"),
        *(
            (spent <= limit, f"{spent} micro-dollars were spent of {name}'s budget of {limit}")
            for name, (spent, limit) in budgets.items()
        ),
    ]
    return [sentence for kept, sentence in promises if not kept]
