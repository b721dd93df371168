"""Runs the simulated engine: start-up, listening, and SIGTERM as vLLM takes it."""

import asyncio
import contextlib
import logging
import signal
import sys

import uvloop
from aiohttp import web

from engines.vllm import VERSION
from engines.vllm.arguments import Settings, parse
from engines.vllm.server import Server

log = logging.getLogger("engines.vllm")
_FOREVER = 7 * 24 * 3600.0


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; then as --shutdown-timeout says. A second signal ends it at once."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    if settings.startup_seconds:
        log.info("starting: connections are refused for %gs", settings.startup_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.get(), settings.startup_seconds)
            log.info("told to stop while starting")
            return
    server = Server(settings)
    # a client that goes away cancels its handler; a server told to stop waits for its connections, as uvicorn does
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=_FOREVER)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    port = runner.addresses[0][1]
    log.info("simulated vLLM %s serving %s on %s:%d", VERSION, ", ".join(settings.names), settings.host, port)
    await signals.get()
    log.info("stopping: %d requests run, shutdown timeout %gs", server.engine.unfinished, settings.shutdown_timeout)
    ending = asyncio.ensure_future(_end(server, site, runner))
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not ending.done():
        log.warning("told twice: leaving %d requests unanswered", server.engine.unfinished)
        ending.cancel()


async def _end(server: Server, site: web.TCPSite, runner: web.AppRunner) -> None:
    await server.drain()
    await site.stop()
    await runner.cleanup()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(asctime)s [%(name)s] %(message)s", stream=sys.stderr
    )
    settings = parse(sys.argv[1:])
    if settings.ignored:
        log.info("arguments without effect on the simulation: %s", " ".join(settings.ignored))
    kind = settings.fault.kind if settings.fault else None
    if kind == "crash-on-start":
        log.error("EngineCore failed to start. RuntimeError: Engine core initialization failed. See root cause above.")
        return 1
    if kind == "oom-on-start":
        log.error(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
        )
        return 1
    uvloop.run(serve(settings))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
