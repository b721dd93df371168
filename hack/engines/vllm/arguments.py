"""The command line: vLLM's arguments that matter here, all others taken and named in the log, and the switches of the simulation."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engines.faults import Fault
from weir.simulate.step_model import PRESETS, StepModel

START_FAULTS = ("crash-on-start", "oom-on-start")
REQUEST_FAULTS = ("hang", "die-before-headers", "die-before-first-token", "die-mid-stream", "slow", "dead")
FAULTS = START_FAULTS + REQUEST_FAULTS


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server runs with. Times in seconds."""

    model: str
    names: tuple[str, ...]
    host: str
    port: int
    max_num_seqs: int
    max_num_queued_reqs: int | None
    max_model_len: int
    shutdown_timeout: float
    prompt_tokens_details: bool
    force_include_usage: bool
    load_tracking: bool
    pooling: bool
    auto_tools: bool
    keep_alive_interval: float
    step_model: StepModel
    startup_seconds: float
    time_scale: float
    jitter: float
    seed: int
    fault: Fault | None
    ignored: tuple[str, ...]


def _parser() -> argparse.ArgumentParser:
    # abbreviations are vLLM's custom; "--max_num_seqs" is accepted too (see parse)
    parser = argparse.ArgumentParser("engines.vllm", description=__doc__)
    add = parser.add_argument
    add("--model", default="Qwen/Qwen3-0.6B")
    add("--served-model-name", nargs="+")
    add("--host", default="0.0.0.0")
    add("--port", type=int, default=8000)
    add("--max-num-seqs", type=int, default=256)
    add("--max-num-queued-reqs", type=int)
    add("--max-model-len", type=_tokens)
    add("--max-num-batched-tokens", type=_tokens)
    add("--shutdown-timeout", type=float, default=0)
    add("--enable-prompt-tokens-details", action=argparse.BooleanOptionalAction, default=False)
    add("--enable-force-include-usage", action=argparse.BooleanOptionalAction, default=False)
    add("--enable-server-load-tracking", action=argparse.BooleanOptionalAction, default=False)
    add("--sse-keep-alive-interval", type=float, default=0)
    add("--runner", default="auto")
    add("--enable-auto-tool-choice", action="store_true")
    add("--tool-call-parser")
    sim = parser.add_argument_group("simulation (each also as SIM_... in the environment)")

    def switch(flag: str, kind: type[str] | type[int] | type[float], default: object, help_: str) -> None:
        value = os.environ.get(flag.removeprefix("--").replace("-", "_").upper())
        sim.add_argument(flag, type=kind, default=default if value in (None, "") else value, help=help_)

    switch("--sim-model", str, "qwen3-32b-h100-tp2", f"calibrated preset: {', '.join(PRESETS)}")
    switch("--sim-kv-tokens", int, None, "size of the KV cache in tokens, in place of the preset's")
    switch("--sim-startup-seconds", float, 0.0, "connections are refused until then, as while the real one loads")
    switch("--sim-time-scale", float, 1.0, "how many times as fast as the calibrated engine")
    switch("--sim-jitter", float, 0.02, "sigma of the lognormal noise on a step's duration")
    switch("--sim-seed", int, 0, "of all dice")
    switch("--sim-fault", str, "none", f"one of {', '.join(FAULTS)}, none")
    switch("--sim-fault-probability", float, None, "share of requests that it strikes")
    switch("--sim-fault-after", int, None, "requests that pass first")
    switch("--sim-fault-times", int, None, "how often it strikes at most")
    switch("--sim-fault-tokens", int, None, "tokens before a stream dies")
    switch("--sim-fault-factor", float, None, "how much slower slow is")
    return parser


def _tokens(value: str) -> int:
    """vLLM takes 32768, 32k (thousand) and 32K (1024)."""
    scale = {"k": 1000, "K": 1024, "m": 1000_000, "M": 1024 * 1024}.get(value[-1:], 0)
    return int(float(value[:-1]) * scale) if scale else int(value)


def parse(argv: Sequence[str]) -> Settings:
    """Settings from a command line. Exits with usage, as argparse does, on what cannot be understood."""
    arguments = [_dashes(a) for a in argv]
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
        if arguments and not arguments[0].startswith("-"):
            arguments = [f"--model={arguments[0]}", *arguments[1:]]
    parser = _parser()
    args, ignored = parser.parse_known_args(arguments)
    if args.sim_model not in PRESETS:
        parser.error(f"--sim-model {args.sim_model!r}: use one of {', '.join(PRESETS)}")
    if args.sim_time_scale <= 0 or args.sim_jitter < 0 or args.max_num_seqs < 1:
        parser.error("--sim-time-scale and --max-num-seqs must be positive, --sim-jitter not negative")
    preset = PRESETS[args.sim_model]
    try:
        fault = Fault.parse(
            {
                "kind": args.sim_fault,
                "probability": args.sim_fault_probability,
                "after": args.sim_fault_after,
                "times": args.sim_fault_times,
                "tokens": args.sim_fault_tokens,
                "factor": args.sim_fault_factor,
                "seed": args.sim_seed,
            },
            FAULTS,
        )
        kv_tokens = args.sim_kv_tokens or preset.kv_tokens
        model = replace(
            preset,
            kv_tokens=kv_tokens,
            max_batched_tokens=args.max_num_batched_tokens or preset.max_batched_tokens,
            max_model_len=args.max_model_len or min(preset.max_model_len, kv_tokens // preset.block * preset.block),
        ).faster(args.sim_time_scale)
    except ValueError as error:
        parser.error(str(error))
    if model.max_model_len > model.kv_blocks * model.block:
        parser.error(f"--max-model-len {model.max_model_len} exceeds the KV cache of {model.kv_tokens} tokens")
    return Settings(
        model=args.model,
        names=tuple(args.served_model_name or [args.model]),
        host=args.host,
        port=args.port,
        max_num_seqs=args.max_num_seqs,
        max_num_queued_reqs=args.max_num_queued_reqs,
        max_model_len=model.max_model_len,
        shutdown_timeout=args.shutdown_timeout,
        prompt_tokens_details=args.enable_prompt_tokens_details,
        force_include_usage=args.enable_force_include_usage,
        load_tracking=args.enable_server_load_tracking,
        pooling=args.runner == "pooling",
        auto_tools=args.enable_auto_tool_choice and args.tool_call_parser is not None,
        keep_alive_interval=args.sse_keep_alive_interval,
        step_model=model,
        startup_seconds=args.sim_startup_seconds,
        time_scale=args.sim_time_scale,
        jitter=args.sim_jitter,
        seed=args.sim_seed,
        fault=fault,
        ignored=tuple(ignored),
    )


def _dashes(argument: str) -> str:
    """--max_num_seqs is --max-num-seqs."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
