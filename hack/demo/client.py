"""Plays a trace against the gateway as OpenAI clients would, and says of every request what became of it."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
import orjson

from weir.simulate.trace import Arrival

STREAM_EVERY = 3
"""Two of three requests stream: the trace does not say which did; chat clients mostly do."""
SMALL_EVERY = 20
"""One of twenty goes to the model with the small budget."""
WORDS = "river weir water level crest spill gate flow "
TIMEOUT = aiohttp.ClientTimeout(total=120)


class Outcome(StrEnum):
    """What a client got."""

    ANSWER = "answer"
    REJECTED = "rejected"
    """429 or 503 with Retry-After or with the word that a retry cannot help."""
    FAILED = "failed"
    """Another error, in words."""
    LOST = "lost"
    """No answer, or a stream cut without an error event."""


@dataclass(frozen=True)
class Record:
    """One request, from its client's side. Times in seconds since the replay began."""

    model: str
    at: float
    ended: float
    outcome: Outcome
    status: int
    backend: str
    reason: str
    code: str
    """Of the error, where there is one."""
    prompt_tokens: int
    completion_tokens: int


async def replay(
    url: str, key_of: Sequence[str], arrivals: Sequence[Arrival], records: list[Record], began: float
) -> None:
    """Sends every arrival at its time, whatever became of those before, and appends to `records` as they end.

    `key_of` holds the two models' names: the main one and the one with the small budget. `began` is time.monotonic() at 0.
    """
    main, small = key_of
    async with (
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=TIMEOUT) as session,
        asyncio.TaskGroup() as requests,
    ):
        for number, arrival in enumerate(arrivals):
            await asyncio.sleep(began + arrival.at - time.monotonic())
            model = small if number % SMALL_EVERY == SMALL_EVERY - 1 else main
            stream = number % STREAM_EVERY != 0
            requests.create_task(send(session, model, arrival, records, began, stream=stream))


async def send(
    session: aiohttp.ClientSession, model: str, arrival: Arrival, records: list[Record], began: float, *, stream: bool
) -> None:
    """One request of the arrival's size, now; appends what became of it. The session's base URL is the gateway."""
    # A token is about four bytes of English; the engine counts the same way.
    prompt = "".join(itertools.islice(itertools.cycle(WORDS), arrival.prompt_tokens * 4))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max(arrival.output_tokens, 1),
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    at = time.monotonic() - began
    status, backend, reason, code = 0, "", "", ""
    usage: dict[str, int] = {}
    try:
        async with session.post("/v1/chat/completions", json=body) as response:
            status = response.status
            backend = response.headers.get("x-weir-backend", "")
            reason = response.headers.get("x-weir-reason", "")
            helped = "retry-after" in response.headers or response.headers.get("x-should-retry") == "false"
            if status == 200 and stream:
                outcome, code, usage = await _read_stream(response)
            else:
                answer = orjson.loads(await response.read())
                usage = answer.get("usage") or {}
                code = str((answer.get("error") or {}).get("code") or "")
                rejected = status in (429, 503) and helped
                outcome = Outcome.ANSWER if status == 200 else Outcome.REJECTED if rejected else Outcome.FAILED
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        outcome, code = Outcome.LOST, type(error).__name__
    tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    ended = time.monotonic() - began
    records.append(Record(model, at, ended, outcome, status, backend, reason, code, *tokens))


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[Outcome, str, dict[str, int]]:
    """Whole with [DONE], failed with an error event, lost without either."""
    usage: dict[str, int] = {}
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            return Outcome.ANSWER, "", usage
        # Only the last event has usage and only an error has "error": the others are not parsed.
        if b'"error"' in line or (b'"usage"' in line and b'"usage":null' not in line):
            event = orjson.loads(line[6:])
            if "error" in event:
                return Outcome.FAILED, str(event["error"].get("code")), usage
            usage = event.get("usage") or usage
    return Outcome.LOST, "EndOfStream", usage
