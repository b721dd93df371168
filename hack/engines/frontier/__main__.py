"""Runs the frontier stub until SIGTERM."""

import argparse
import asyncio
import logging
import os
import signal
import sys

import uvloop
from aiohttp import web

from engines.faults import Fault
from engines.frontier.catalog import DEFAULT_MODELS, Model
from engines.frontier.server import FAULTS, Server, Settings

log = logging.getLogger("engines.frontier")


def parse(argv: list[str]) -> Settings:
    """Settings from a command line. Exits with usage on what cannot be understood."""
    parser = argparse.ArgumentParser("engines.frontier", description=__doc__)
    add = parser.add_argument
    add("--host", default="0.0.0.0")
    add("--port", type=int, default=9000)
    add(
        "--key",
        action="append",
        help="an API key that is let in; repeatable (default: FRONTIER_API_KEY, comma-separated)",
    )
    add(
        "--model",
        action="append",
        help="NAME=INPUT/CACHED/OUTPUT in USD per million tokens [,CONTEXT[,MAX_OUTPUT]]; repeatable",
    )
    add("--ttft", type=float, default=0.2, help="seconds to the first token")
    add("--tokens-per-second", type=float, default=100.0, help="of one stream")
    add("--output-tokens", type=int, default=64, help="length of an answer, if the client's cap allows it")
    add("--requests-per-minute", type=int, default=0)
    add("--tokens-per-minute", type=int, default=0)
    add("--keep", type=int, default=1000, help="requests remembered for GET /requests")
    add("--fault", default="none", help=f"one of {', '.join(FAULTS)}, none")
    for name in ("probability", "after", "times", "tokens", "factor", "seed"):
        add(f"--fault-{name}")
    args = parser.parse_args(argv)
    keys = args.key or [key for key in os.environ.get("FRONTIER_API_KEY", "").split(",") if key]
    if not keys:
        parser.error("no key: give --key or set FRONTIER_API_KEY")
    if args.tokens_per_second <= 0 or args.ttft < 0 or args.output_tokens < 1:
        parser.error("--tokens-per-second and --output-tokens must be positive, --ttft not negative")
    try:
        models = [Model.parse(text) for text in args.model or DEFAULT_MODELS]
        names = ("probability", "after", "times", "tokens", "factor", "seed")
        fault = Fault.parse({"kind": args.fault, **{name: getattr(args, f"fault_{name}") for name in names}}, FAULTS)
    except (ValueError, ArithmeticError) as error:
        parser.error(str(error))
    return Settings(
        host=args.host,
        port=args.port,
        keys=tuple(keys),
        models={model.name: model for model in models},
        ttft=args.ttft,
        tokens_per_second=args.tokens_per_second,
        output_tokens=args.output_tokens,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        kept=args.keep,
        fault=fault,
    )


async def serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(Server(settings).app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port).start()
    log.info("frontier stub selling %s on %s:%d", ", ".join(settings.models), settings.host, runner.addresses[0][1])
    await stop.wait()
    await runner.cleanup()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(asctime)s [%(name)s] %(message)s", stream=sys.stderr
    )
    uvloop.run(serve(parse(sys.argv[1:])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
