"""`weir`: the two programs, and the tools around them. Exit codes: 0 done, 1 the answer is no, 2 bad usage.

Each command imports what it runs when it runs: the gateway never loads kopf.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from weir.api import crd, reference
from weir.simulate.step_model import PRESETS

readable = click.Path(exists=True, dir_okay=False, path_type=Path)
kubeconfig = click.option(
    "--kubeconfig",
    type=readable,
    help="Default: KUBECONFIG, the pod's service account, ~/.kube/config.",
)
namespaces = click.option(
    "--namespace", "-n", "namespaces", multiple=True, help="May be repeated. Default: all namespaces."
)
admin_port = click.option("--admin-port", type=click.IntRange(0, 65535), default=8081, show_default=True)
log_level = click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(version("weir"), prog_name="weir")
def main() -> None:
    """Holds self-hosted language models at a target utilization; what does not fit spills to a frontier API."""


@main.command()
@namespaces
@kubeconfig
@admin_port
@log_level
@click.option(
    "--lease-namespace",
    envvar="POD_NAMESPACE",
    default="default",
    show_default=True,
    help="Where the leader's Lease is.",
)
@click.option(
    "--gateway-namespace", envvar="POD_NAMESPACE", default="default", show_default=True, help="Where the gateways run."
)
@click.option("--default-engine-image", help="For models that name none. Default: a pinned vllm/vllm-openai.")
@click.option(
    "--allow-host-paths", is_flag=True, help="Models may mount paths of their node (file:// sources, hostPath volumes)."
)
@click.option(
    "--anonymous-overflow/--no-anonymous-overflow",
    default=True,
    show_default=True,
    help="As the gateways have it: whether requests may leave the cluster. For conditions only.",
)
@click.option(
    "--secret-namespace",
    "secret_namespaces",
    multiple=True,
    help="As the gateways have it: where they may read provider keys. May be repeated. For conditions only.",
)
def operator(**options: Any) -> None:
    """Run the operator: turns ModelDeployments into pods and holds each model at its target utilization."""
    from weir.controller.app import run
    from weir.controller.config import OperatorConfig

    run(OperatorConfig(**_said(options)))


@main.command()
@namespaces
@kubeconfig
@admin_port
@log_level
@click.option("--host", default="0.0.0.0", show_default=True)  # noqa: S104 - it is there to be reached
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--default-namespace",
    envvar="POD_NAMESPACE",
    default="default",
    show_default=True,
    help="Its models go by their bare names.",
)
@click.option(
    "--secret-namespace", "secret_namespaces", multiple=True, help="Where provider keys may be read. May be repeated."
)
@click.option("--anonymous-overflow", is_flag=True, help="Requests without an API key may leave the cluster.")
@click.option(
    "--allow-private-providers", is_flag=True, help="Providers may have private, loopback or link-local addresses."
)
@click.option("--max-body-bytes", type=click.IntRange(1024), default=32 * 1024 * 1024, show_default=True)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=300,
    show_default=True,
    help="For requests in flight after SIGTERM.",
)
@click.option(
    "--stale-seconds",
    type=click.FloatRange(1),
    default=60,
    show_default=True,
    help="Nothing leaves on a view older than this.",
)
def gateway(**options: Any) -> None:
    """Run the gateway: serves OpenAI clients from the replicas, and spills what does not fit."""
    from weir.gateway.app import run
    from weir.gateway.config import GatewayConfig

    run(GatewayConfig(**_said(options)))


@main.command()
@click.option(
    "-f", "--filename", "manifest", required=True, type=readable, help="A ModelDeployment, with its FrontierProvider."
)
@click.option("--trace", "trace_file", required=True, type=readable, help="Azure LLM inference CSV.")
@click.option(
    "--speed-up", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Of the arrivals."
)
@click.option(
    "--engine",
    type=click.Choice(sorted(PRESETS)),
    default="qwen3-32b-h100-tp2",
    show_default=True,
    help="Calibrated speed.",
)
@click.option(
    "--cold-start",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Seconds until a new replica is ready.",
)
@click.option(
    "--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page with plots."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def simulate(output: str, **options: Any) -> None:
    """Replay a trace through the decisions that production makes: what would it cost, how well would it serve?"""
    from weir.simulate.command import SimulationError, simulate
    from weir.simulate.trace import TraceError

    try:
        result = simulate(options.pop("manifest"), options.pop("trace_file"), **options)
    except (SimulationError, TraceError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        raise click.ClickException("--report needs matplotlib: pip install 'weir[report]'") from error
    click.echo(result.to_json() if output == "json" else result.to_table())


@main.command()
@click.option(
    "--output-dir",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file a kind; default: print.",
)
@click.option(
    "--reference", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write the API reference there too."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file there is not what would be written.")
def crds(output_dir: Path | None, page: Path | None, *, check: bool) -> None:
    """Print or write the CustomResourceDefinitions."""
    files = {output_dir / name: text for name, text in crd.generate().items()} if output_dir else {}
    files |= {page: reference.generate()} if page else {}
    if not files:
        click.echo("---\n".join(crd.generate().values()), nl=False)
        return
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        raise click.ClickException(f"out of date: {', '.join(map(str, stale))}; run `make generate`")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")


def _said(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that were left out and have their default elsewhere."""
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
