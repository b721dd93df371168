"""python -m real install | serve [VLLM ARGUMENTS] | record | cluster: the real engine in place, run, recorded, deployed."""

import argparse
import asyncio
import datetime
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from controlplane import programs
from controlplane.run import RunError
from engines import contract
from real import cluster
from real.install import VERSION, Environment, UnavailableError, environment
from real.serve import RealEngine

RECORDING = Path(__file__).parents[2] / "tests" / "engines" / f"vllm-{VERSION}.json"


def record() -> None:
    """Writes the recording that the simulated engine is held to."""
    with RealEngine(*contract.ARGUMENTS) as engine:
        answers = asyncio.run(contract.observe(engine.url))
        families = asyncio.run(contract.families(engine.url))
        routes = asyncio.run(contract.routes(engine.url))
    recording = {
        "engine": f"vLLM {VERSION} on CPU, SmolLM2-135M-Instruct",
        "recorded": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "arguments": contract.ARGUMENTS,
        "routes": routes,
        "families": {name: asdict(family) for name, family in sorted(families.items())},
        "answers": {name: answer.as_dict() for name, answer in answers.items()},
    }
    text = json.dumps(recording, indent=1, ensure_ascii=False).replace(str(environment().model), "/models/smol")
    RECORDING.write_text(text + "\n")
    print(f"{RECORDING}: {len(answers)} answers, {len(families)} metric families", file=sys.stderr)


def deploy() -> int:
    """The engine on the dev cluster; 1 if it did not answer as it should."""
    try:
        summary = cluster.run()
    except (UnavailableError, programs.UnavailableError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(summary), indent=2))
    for sentence in summary.wrong():
        print(f"not as it should be: {sentence}", file=sys.stderr)
    return 1 if summary.wrong() else 0


def main() -> int:
    parser = argparse.ArgumentParser("real", description=__doc__)
    parser.add_argument("command", choices=("install", "serve", "record", "cluster"))
    args, rest = parser.parse_known_args()
    if args.command == "cluster":
        return deploy()
    installed = environment()
    if args.command == "record":
        record()
    elif args.command == "install":
        print(f"venv {installed.venv}\npython {installed.python}\nmodel {installed.model}")
    else:
        become_vllm(installed, rest)
    return 0


def become_vllm(installed: Environment, arguments: list[str]) -> None:
    command = [*installed.command(), "--host=127.0.0.1", *arguments]
    os.execve(command[0], command, {**os.environ, **installed.variables()})  # noqa: S606 - it becomes vLLM


if __name__ == "__main__":
    sys.exit(main())
