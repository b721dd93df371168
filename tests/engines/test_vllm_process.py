"""The simulated engine as the process that a pod runs: arguments, start, size, SIGTERM; the last also of the real one."""

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engines.process import Stub
from engines.vllm.arguments import parse
from real import RealEngine

MESSAGES = [{"role": "user", "content": "Tell me a long story."}]
WEIR = (
    *("serve", "--model=Qwen/Qwen3-32B", "--revision=abc", "--served-model-name", "qwen", "large", "--max-num-seqs=64"),
    *("--max-num-queued-reqs=72", "--shutdown-timeout=120", "--enable-prompt-tokens-details", "--max-model-len=32k"),
    "--tensor-parallel-size=2",
)


def test_arguments_that_weir_writes_are_taken() -> None:
    settings = parse([*WEIR, "--host=0.0.0.0", "--port=8000"])
    assert settings.names == ("qwen", "large")
    assert (settings.max_num_seqs, settings.max_num_queued_reqs, settings.shutdown_timeout) == (64, 72, 120)
    assert settings.max_model_len == 32_000
    assert settings.prompt_tokens_details
    assert settings.ignored == ("--revision=abc", "--tensor-parallel-size=2")


def test_model_may_be_positional_flags_underscored_and_switches_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIM_TIME_SCALE", "10")
    monkeypatch.setenv("SIM_FAULT", "die-mid-stream")
    settings = parse(["serve", "some/model", "--max_num_seqs=3", "--sim-fault-after=2"])
    assert (settings.names, settings.max_num_seqs, settings.time_scale) == (("some/model",), 3, 10)
    assert settings.fault is not None
    assert (settings.fault.kind, settings.fault.after) == ("die-mid-stream", 2)


@pytest.mark.parametrize(
    "wrong",
    ["--sim-model=abacus", "--sim-fault=fire", "--sim-time-scale=0", "--max-model-len=1M", "--sim-fault-times=x"],
)
def test_wrong_arguments_end_it(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse([wrong])
    assert error.value.code == 2
    assert wrong.partition("=")[0].removeprefix("--sim-").split("-")[0] in capsys.readouterr().err


def test_it_is_small() -> None:
    with Stub("engines.vllm", "--model=m") as engine:
        with urllib.request.urlopen(f"{engine.url}/metrics") as response:
            assert response.status == 200
        status = Path(f"/proc/{engine.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident < 64 * 1024  # KiB; hundreds of them share a machine


@pytest.mark.parametrize(
    ("fault", "words"), [("crash-on-start", "EngineCore failed"), ("oom-on-start", "out of memory")]
)
def test_it_fails_to_start_as_told(fault: str, words: str) -> None:
    engine = Stub("engines.vllm", f"--sim-fault={fault}")
    with pytest.raises(RuntimeError, match=rf"(?s)exit 1.*{words}"), engine:
        pass


async def test_connections_are_refused_while_it_starts_and_it_can_be_stopped_then() -> None:
    engine = Stub("engines.vllm", "--sim-startup-seconds=60", host="127.99.0.1", port=8000).start()
    try:
        await until(lambda: "starting" in engine.log)
        assert await refused(engine)
        engine.signal(signal.SIGTERM)
        assert await asyncio.to_thread(engine.wait, 10) == 0
    finally:
        engine.stop()


def test_it_listens_when_it_has_started() -> None:
    with Stub("engines.vllm", "--sim-startup-seconds=0.2") as engine:
        assert urllib.request.urlopen(f"{engine.url}/health").status == 200


async def refused(engine: Stub | RealEngine) -> bool:
    """Whether nobody listens."""
    try:
        _, writer = await asyncio.open_connection(engine.host, engine.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@dataclass
class Stream:
    """A live stream: its lines so far."""

    lines: list[bytes]
    task: "asyncio.Task[None]"

    def tokens(self) -> int:
        return sum(b'"content":"' in line and b'"content":""' not in line for line in self.lines)


@asynccontextmanager
async def streaming(session: aiohttp.ClientSession, tokens: int) -> AsyncIterator[Stream]:
    """A stream that has begun."""
    lines: list[bytes] = []

    async def read() -> None:
        body = {"messages": MESSAGES, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        async with session.post("/v1/chat/completions", json=body) as response:
            async for line in response.content:
                lines.append(line)  # noqa: PERF401 - read by others while it grows

    stream = Stream(lines, asyncio.create_task(read()))
    await until(lambda: stream.tokens() > 0)
    try:
        yield stream
    finally:
        stream.task.cancel()
        await asyncio.gather(stream.task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another process gets there
            await asyncio.sleep(0.005)


async def ask(session: aiohttp.ClientSession) -> tuple[int, Any]:
    async with session.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1}) as response:
        return response.status, await response.json()


async def health(session: aiohttp.ClientSession) -> int:
    async with session.get("/health") as response:
        return response.status


async def drains(engine: Stub | RealEngine) -> None:
    """Told to stop with time to finish: what runs finishes, /health stays 200, what comes is refused with a 500."""
    async with aiohttp.ClientSession(engine.url) as session, streaming(session, 100) as stream:
        engine.signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while True:  # the signal takes a moment
                status, answer = await ask(session)
                if status != 200:
                    break
        assert (status, answer["error"]["message"]) == (500, "cannot schedule new futures after shutdown")
        assert await health(session) == 200
        await stream.task
        assert stream.lines[-2] == b"data: [DONE]\n"
        assert b'"finish_reason":"length"' in stream.lines[-4]
    assert engine.wait(30) == 0


async def cut(engine: Stub | RealEngine) -> list[bytes] | None:
    """Told to stop with no time: connections are refused at once. How a stream that ran has ended; None if it never does."""
    async with aiohttp.ClientSession(engine.url) as session, streaming(session, 1500) as stream:
        engine.signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            while not await refused(engine):  # noqa: ASYNC110 - another process gets there
                await asyncio.sleep(0.01)
        got = len(stream.lines)
        await asyncio.wait({stream.task}, timeout=1.0)
        ended = stream.task.done()
        assert ended or len(stream.lines) == got  # no more tokens either way
    assert engine.wait(30) == 0  # once its client is gone
    return [line for line in stream.lines if line.strip()][-2:] if ended else None


async def test_sigterm_with_time() -> None:
    with Stub("engines.vllm", "--shutdown-timeout=30", "--sim-model=llama-3.1-8b-h100") as engine:
        await drains(engine)


async def test_sigterm_without_time() -> None:
    with Stub("engines.vllm", "--shutdown-timeout=0", "--sim-model=llama-3.1-8b-h100") as engine:
        assert await cut(engine) is None


async def test_sigterm_with_too_little_time_ends_streams_in_an_error() -> None:
    with Stub("engines.vllm", "--shutdown-timeout=0.3", "--sim-model=llama-3.1-8b-h100") as engine:
        async with aiohttp.ClientSession(engine.url) as session, streaming(session, 5000) as stream:
            engine.signal(signal.SIGTERM)
            await asyncio.wait_for(stream.task, 10)
        assert b'"EngineCore encountered an issue' in stream.lines[-4]
        assert stream.lines[-2] == b"data: [DONE]\n"
        assert engine.wait(10) == 0


async def test_a_second_sigterm_does_not_wait_for_clients() -> None:
    with Stub("engines.vllm", "--shutdown-timeout=0", "--sim-model=llama-3.1-8b-h100") as engine:
        async with aiohttp.ClientSession(engine.url) as session, streaming(session, 5000):
            engine.signal(signal.SIGTERM)
            await until(lambda: "stopping" in engine.log)
            engine.signal(signal.SIGTERM)
            assert await asyncio.to_thread(engine.wait, 10) == 0


@pytest.mark.real
async def test_sigterm_with_time_to_the_real_engine() -> None:
    with RealEngine("--max-model-len=2048", "--shutdown-timeout=60") as engine:
        await drains(engine)


@pytest.mark.real
async def test_sigterm_without_time_to_the_real_engine() -> None:
    """Its engine and its server race: a stream stalls, or ends in an error. Seen both; it never ends well."""
    with RealEngine("--max-model-len=2048") as engine:
        end = await cut(engine)
    assert end is None or (b"EngineCore encountered an issue" in end[0] and end[1] == b"data: [DONE]\n")
