"""python -m real install | serve [VLLM ARGUMENTS] | record: puts the real engine in place, runs it, records what it answers."""

import argparse
import asyncio
import datetime
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from engines import contract
from real.install import VERSION, Environment, environment
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


def main() -> None:
    parser = argparse.ArgumentParser("real", description=__doc__)
    parser.add_argument("command", choices=("install", "serve", "record"))
    args, rest = parser.parse_known_args()
    installed = environment()
    if args.command == "record":
        record()
    elif args.command == "install":
        print(f"venv {installed.venv}\npython {installed.python}\nmodel {installed.model}")
    else:
        become_vllm(installed, rest)


def become_vllm(installed: Environment, arguments: list[str]) -> None:
    command = [*installed.command(), "--host=127.0.0.1", *arguments]
    os.execve(command[0], command, {**os.environ, **installed.variables()})  # noqa: S606 - it becomes vLLM


if __name__ == "__main__":
    main()
