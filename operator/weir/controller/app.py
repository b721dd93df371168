"""The operator process: waits for the Lease, then watches, works and scales until it loses it. The way in is `run`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack

import structlog

from weir.controller.admin import admin_server
from weir.controller.config import OperatorConfig
from weir.controller.leader import Leader
from weir.kube.client import KubeClient
from weir.kube.config import load_config
from weir.kube.kubeconfig import ConfigError
from weir.kube.lease import LeaderElection, LeaseLost
from weir.observability.logs import configure_logging

log = structlog.get_logger(__name__)

STUCK_SECONDS = 180.0
"""Work on one object that takes longer, or an autoscale loop that stands still for so long, means a restart."""


def run(config: OperatorConfig) -> None:
    """Runs until SIGTERM or SIGINT (exit code 0), or until the Lease or a watch is lost (1)."""
    configure_logging(config.log_level)
    sys.exit(asyncio.run(_main(config)))


async def _main(config: OperatorConfig) -> int:
    work = asyncio.ensure_future(operate(config))
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped", why="told to")
        return 0
    except LeaseLost as error:
        log.error("exits", why=str(error) or "the Lease is lost", fix="none: the process is restarted and stands by")
    except ConfigError as error:
        log.error("exits", why=str(error))
    except Exception:
        log.exception("exits", why="an unexpected error")
    return 1


async def operate(config: OperatorConfig) -> None:
    """The operator, until cancelled. Raises LeaseLost, ConfigError, or what went wrong."""
    cluster = load_config(config.kubeconfig)
    home = config.lease_namespace or cluster.namespace
    leader: Leader | None = None

    def alive() -> str:
        return leader.stuck(STUCK_SECONDS) if leader else ""

    async with AsyncExitStack() as stack:
        # Ready while standing by, too: a Deployment's rollout must not wait for the old leader to go.
        await stack.enter_async_context(admin_server(config.admin_host, config.admin_port, alive, lambda: ""))
        kube = await stack.enter_async_context(KubeClient(cluster, user_agent="weir-operator"))
        election = LeaderElection(kube, namespace=home, name=config.lease_name, identity=config.identity)
        log.info("waits for the Lease", lease=f"{home}/{config.lease_name}", identity=config.identity)

        async def lead() -> None:
            nonlocal leader
            leader = Leader(kube, cluster, config, home)
            await leader.run()

        await election.run(lead)
