"""One page with plots of a run: demand against capacity, utilization, replicas, where requests went, dollars.

Draws from a `Run`, whether it was measured (the demo) or replayed. matplotlib is an optional dependency (`weir[report]`).
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHEST_PERCENT = 200
"""Above it a model is merely full: the first plot shows by how much."""
BLUE, ORANGE, GREEN, GREY, RED = "#1f6feb", "#d9730d", "#2da44e", "#8c959f", "#cf222e"


@dataclass(frozen=True)
class Moment:
    """The state at one second of a run. `demand` and `slots` are requests at once; dollars have accrued since its start."""

    at: float
    demand: float
    slots: int
    replicas: int
    ready: int
    utilization: float | None
    local: int
    """Requests that began here since the last moment, and so on."""
    spilled: int
    refused: int
    usd_gpu: float
    usd_frontier: float


@dataclass(frozen=True)
class Run:
    """What a report shows. `facts` are rows of a table under the plots."""

    title: str
    subtitle: str
    target: float
    """Utilization aimed at, 0 to 1."""
    maximum: int
    moments: Sequence[Moment]
    facts: Sequence[tuple[str, str]] = field(default=())


def write_page(run: Run, page: Path, picture: Path | None = None) -> None:
    """Writes a self-contained HTML page, and the plots as a PNG where asked. Raises OSError, or ImportError without matplotlib."""
    figure = _draw(run)
    image = io.BytesIO()
    figure.savefig(image, format="svg")
    if picture:
        figure.savefig(picture, format="png", dpi=110)
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in run.facts)
    page.write_text(
        _PAGE.format(
            title=html.escape(run.title),
            subtitle=html.escape(run.subtitle),
            image=base64.b64encode(image.getvalue()).decode(),
            rows=rows,
        ),
        encoding="utf-8",
    )


def _draw(run: Run) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and half a second to import

    figure = Figure(figsize=(11, 11), layout="constrained")
    load, utilization, replicas, routes, dollars = figure.subplots(5, 1, sharex=True)
    times = [m.at for m in run.moments]

    load.fill_between(
        times, [m.slots for m in run.moments], step="post", color=BLUE, alpha=0.15, label="capacity (slots)"
    )
    load.plot(times, [m.demand for m in run.moments], color=BLUE, label="demand (requests at once, spilled included)")
    _finish(load, "requests")

    utilization.axhline(100 * run.target, color=GREY, linestyle="--", label=f"target {run.target:.0%}")
    known = [(m.at, 100 * m.utilization) for m in run.moments if m.utilization is not None]
    utilization.plot([at for at, _ in known], [value for _, value in known], color=BLUE, label="demand / capacity")
    _finish(utilization, "percent")
    utilization.set_ylim(0, HIGHEST_PERCENT)

    replicas.step(times, [m.replicas for m in run.moments], where="post", color=ORANGE, label="asked for")
    replicas.step(times, [m.ready for m in run.moments], where="post", color=GREEN, label="ready")
    replicas.axhline(run.maximum, color=GREY, linestyle=":", label="maximum")
    _finish(replicas, "replicas")

    local, spilled, refused = ([getattr(m, name) for m in run.moments] for name in ("local", "spilled", "refused"))
    labels = ["served here", "spilled", "refused"]
    routes.stackplot(times, local, spilled, refused, labels=labels, colors=[GREEN, ORANGE, RED], step="post")
    _finish(routes, "requests / s")

    gpu, frontier = [m.usd_gpu for m in run.moments], [m.usd_frontier for m in run.moments]
    dollars.stackplot(times, gpu, frontier, labels=["GPUs", "frontier"], colors=[GREEN, ORANGE])
    _finish(dollars, "USD", legend="upper left")
    dollars.set_xlabel("seconds")
    return figure


def _finish(axes: "Axes", unit: str, legend: Literal["upper right", "upper left"] = "upper right") -> None:
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.legend(loc=legend, fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }}
 h1 {{ margin-bottom: 0; }} p {{ color: #59636e; margin-top: .2rem; }} img {{ width: 100%; }}
 table {{ border-collapse: collapse; }} th, td {{ text-align: left; padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid #d1d9e0; }}
 th {{ font-weight: 500; }}
</style></head>
<body><h1>{title}</h1><p>{subtitle}</p><img alt="demand, utilization, replicas, routes and dollars over time"
 src="data:image/svg+xml;base64,{image}"><table>{rows}</table></body></html>
"""
