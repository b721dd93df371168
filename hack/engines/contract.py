"""The same requests to any vLLM server, and what of the answers must be the same: status, shape, error, metric families, routes.

Run against the real engine it makes the recording that the simulated one is held to (`python -m real record`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ARGUMENTS = (
    "--served-model-name",
    "smol",
    "alias",
    "--max-model-len=2048",
    "--max-num-seqs=4",
    "--max-num-queued-reqs=6",
    "--enable-prompt-tokens-details",
)
"""How a server must be started to be observed."""
SLOTS = 6

_MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
_LONG = "all work and no play makes a dull gateway. " * 1000  # 43 KB: over 2,048 tokens in anybody's count
_FIXED = {"model": "smol", "max_tokens": 4, "ignore_eos": True}
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
_CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@dataclass(frozen=True, slots=True)
class Probe:
    """One request. `full`: sent while as many requests run and wait as admission allows."""

    method: str
    path: str
    body: Mapping[str, object] | bytes | None = None
    content_type: str = "application/json"
    full: bool = False


def _chat(**fields: object) -> Probe:
    return Probe("POST", "/v1/chat/completions", {**_FIXED, "messages": _MESSAGES, **fields})


def _completion(**fields: object) -> Probe:
    return Probe("POST", "/v1/completions", {**_FIXED, "prompt": "The capital of France is", **fields})


PROBES: dict[str, Probe] = {
    "models": Probe("GET", "/v1/models"),
    "one model": Probe("GET", "/v1/models/smol"),
    "version": Probe("GET", "/version"),
    "health": Probe("GET", "/health"),
    "ping": Probe("GET", "/ping"),
    "ping by post": Probe("POST", "/ping"),
    "load": Probe("GET", "/load"),
    "chat": _chat(),
    "chat, by alias": _chat(model="alias"),
    "chat, no model": Probe(
        "POST", "/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": 1, "ignore_eos": True}
    ),
    "chat, two choices": _chat(n=2),
    "chat, max_completion_tokens": _chat(max_tokens=None, max_completion_tokens=2),
    "chat, unknown parameter": _chat(wibble=1),
    "chat, content parts": _chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
    "chat, nulls": _chat(n=None, stream=None, temperature=None, stop=None),
    "chat, numbers as text": _chat(n="1", stream="false"),
    "chat, stream": _chat(stream=True),
    "chat, stream with usage": _chat(**_USAGE),
    "chat, stream with continuous usage": _chat(**_CONTINUOUS),
    "chat, stream of two choices": _chat(n=2, **_USAGE),
    "completion": _completion(),
    "completion, two prompts": _completion(prompt=["a", "b"]),
    "completion, token ids": _completion(prompt=[1, 2, 3]),
    "completion, two choices": _completion(n=2),
    "completion, stream": _completion(stream=True),
    "completion, stream with usage": _completion(**_USAGE),
    "completion, stream with continuous usage": _completion(**_CONTINUOUS),
    "completion, stream options without stream": _completion(stream_options={}),
    "tokenize": Probe("POST", "/tokenize", {"prompt": "hello world"}),
    "tokenize chat": Probe("POST", "/tokenize", {"messages": _MESSAGES, "return_token_strs": True}),
    "detokenize": Probe("POST", "/detokenize", {"tokens": [97, 98, 99]}),
    "embeddings of a model that generates": Probe("POST", "/v1/embeddings", {"model": "smol", "input": "x"}),
    # refusals
    "no JSON": Probe("POST", "/v1/chat/completions", b'{"model": "smol", '),
    "a JSON list": Probe("POST", "/v1/chat/completions", b"[]"),
    "no body": Probe("POST", "/v1/chat/completions", b""),
    "no content type": Probe("POST", "/v1/chat/completions", b"{}", "text/plain"),
    "unknown model": _chat(model="nope"),
    "unknown model, stream": _chat(model="nope", stream=True),
    "unknown model, completion": _completion(model="nope"),
    "unknown model, tokenize": Probe("POST", "/tokenize", {"model": "nope", "prompt": "x"}),
    "no messages": Probe("POST", "/v1/chat/completions", {"model": "smol"}),
    "empty messages": _chat(messages=[]),
    "messages as text": _chat(messages="hi"),
    "an image": _chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
    "tools, not enabled": _chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    "max_tokens 0": _chat(max_tokens=0),
    "max_tokens below 0": _chat(max_tokens=-1),
    "max_tokens as a word": _chat(max_tokens="abc"),
    "max_tokens as a fraction": _chat(max_tokens=1.5),
    "max_tokens over the context": _chat(max_tokens=4000),
    "min_tokens over max_tokens": _chat(min_tokens=10),
    "n 0": _chat(n=0),
    "n over 1, greedy": _chat(n=2, temperature=0),
    "temperature below 0": _chat(temperature=-1),
    "temperature over 2": _chat(temperature=3),
    "temperature as a word": _chat(temperature="warm"),
    "top_p over 1": _chat(top_p=2),
    "top_k below -1": _chat(top_k=-5),
    "presence_penalty over 2": _chat(presence_penalty=3),
    "stream options without stream": _chat(stream_options={"include_usage": True}),
    "include_usage as a word": _chat(stream=True, stream_options={"include_usage": "x"}),
    "context too long": _chat(messages=[{"role": "user", "content": _LONG}]),
    "context too long, stream": _chat(messages=[{"role": "user", "content": _LONG}], stream=True),
    "context too long, completion": _completion(prompt=_LONG),
    "no prompt": Probe("POST", "/v1/completions", {"model": "smol"}),
    "empty prompt": _completion(prompt=""),
    "nothing to tokenize": Probe("POST", "/tokenize", {}),
    "words to detokenize": Probe("POST", "/detokenize", {"tokens": ["x"]}),
    "wrong method": Probe("GET", "/v1/chat/completions"),
    "wrong method on health": Probe("POST", "/health"),
    "unknown route": Probe("GET", "/nope"),
    # admission
    "full": Probe("POST", "/v1/chat/completions", {**_FIXED, "messages": _MESSAGES}, full=True),
    "full, stream": Probe("POST", "/v1/chat/completions", {**_FIXED, "messages": _MESSAGES, "stream": True}, full=True),
    "full, completion": Probe("POST", "/v1/completions", {**_FIXED, "prompt": "x"}, full=True),
    "full, completion stream": Probe("POST", "/v1/completions", {**_FIXED, "prompt": "x", "stream": True}, full=True),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` for JSON (or text), `events` for a stream, [DONE] as it is."""

    status: int
    content_type: str | None
    retry_after: str | None
    body: Any = None
    events: list[Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its type and the labels of its samples."""

    type: str
    labels: list[str]


async def observe(url: str) -> dict[str, Answer]:
    """Sends every probe, one after the other; the answers by name."""
    answers: dict[str, Answer] = {}
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=120)) as session:
        for name, probe in PROBES.items():
            if not probe.full:
                answers[name] = await _ask(session, probe)
        async with _occupied(session):
            for name, probe in PROBES.items():
                if probe.full:
                    answers[name] = await _ask(session, probe)
    return answers


async def _ask(session: aiohttp.ClientSession, probe: Probe) -> Answer:
    raw = probe.body if isinstance(probe.body, bytes) else None
    if raw is None and probe.body is not None:
        raw = json.dumps(probe.body).encode()
    headers = {"Content-Type": probe.content_type} if raw is not None else {}
    async with session.request(probe.method, probe.path, data=raw, headers=headers) as response:
        text = await response.text()
        kind, retry_after = response.headers.get("Content-Type"), response.headers.get("Retry-After")
        if (kind or "").startswith("text/event-stream"):
            events = [_event(line) for line in text.split("\n\n") if line]
            return Answer(response.status, kind, retry_after, events=events)
        body = json.loads(text) if (kind or "").startswith("application/json") else text
        return Answer(response.status, kind, retry_after, body)


def _event(line: str) -> Any:
    data = line.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


@asynccontextmanager
async def _occupied(session: aiohttp.ClientSession) -> AsyncIterator[None]:
    """As many long requests as the server admits. Those that only wait say nothing, so they are counted in its metrics."""
    body = {**_FIXED, "messages": _MESSAGES, "max_tokens": 1900}
    holders = [asyncio.create_task(_hold(session, body)) for _ in range(SLOTS)]
    try:
        async with asyncio.timeout(60):
            while await _unfinished(session) < SLOTS:  # noqa: ASYNC110 - it is another process that gets there
                await asyncio.sleep(0.05)
        yield
    finally:
        for holder in holders:
            holder.cancel()
        await asyncio.gather(*holders, return_exceptions=True)


async def _hold(session: aiohttp.ClientSession, body: Mapping[str, object]) -> None:
    async with session.post("/v1/chat/completions", json=body) as response:
        await response.read()


async def _unfinished(session: aiohttp.ClientSession) -> int:
    async with session.get("/metrics") as response:
        text = await response.text()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    return sum(int(s.value) for f in text_string_to_metric_families(text) if f.name in names for s in f.samples)


async def families(url: str) -> dict[str, Family]:
    """vLLM's metric families by name."""
    async with aiohttp.ClientSession(url) as session, session.get("/metrics") as response:
        text = await response.text()
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("vllm:"):
            labels = {label for sample in family.samples for label in sample.labels}
            found[family.name] = Family(family.type, sorted(labels - {"le"}))
    return found


_LITERAL = ("object", "role", "finish_reason", "owned_by", "type", "code", "param", "version")


def shape(value: Any, key: str = "") -> Any:
    """The value with names and types only; words of the protocol are kept. Errors are kept whole: clients match their text."""
    if isinstance(value, dict):
        if set(value) == {"error"} or set(value) == {"detail"}:
            return value
        return {name: shape(item, name) for name, item in sorted(value.items())}
    if isinstance(value, list):
        distinct: list[Any] = []
        for item in value:
            if (form := shape(item)) not in distinct:
                distinct.append(form)
        return distinct
    if key in _LITERAL or value is None or value == "[DONE]":
        return value
    return type(value).__name__


def comparable(answer: Answer) -> dict[str, Any]:
    """What two engines must have in common. Like events in a row count as one: how tokens are bundled is nobody's contract."""
    return {
        **answer.as_dict(),
        "body": shape(answer.body),
        "events": None if answer.events is None else shape(answer.events),
    }


async def routes(url: str) -> list[str]:
    """Method and path of every route that the server's OpenAPI document names."""
    async with aiohttp.ClientSession(url) as session, session.get("/openapi.json") as response:
        document = await response.json()
    return sorted(f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods)
