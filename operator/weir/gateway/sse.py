"""What the gateway reads of an engine's answers: event boundaries, the first content, errors, usage. Pure."""

from __future__ import annotations

import re
from typing import Any

import orjson

from weir.economics.pricing import Usage

DONE = b"[DONE]"
_BOUNDARY = re.compile(rb"\r?\n\r?\n|\r\r")
_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')  # with one level of details inside


def split(rest: bytearray, data: bytes) -> list[bytes]:
    """The whole events, each with its boundary, in what was left over and what has come now. `rest` keeps what is left over."""
    # A large event comes in many pieces: none is looked at twice, but for the last bytes, where a boundary may have begun.
    scanned = max(0, len(rest) - 3)
    rest += data
    found, start = [], 0
    for end in [match.end() for match in _BOUNDARY.finditer(rest, scanned)]:
        found.append(bytes(rest[start:end]))
        start = end
    del rest[:start]
    return found


def payload(event: bytes) -> bytes | None:
    """The data of an event, or None where there is only a comment."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def parse(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def has_content(chunk: dict[str, Any]) -> bool:
    """Whether this chunk of a stream is more than its preamble: a delta that says something, an end, or something unknown.

    vLLM and OpenAI open a chat stream with a delta of the role and an empty content: that can still be taken back.
    """
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return True
    for choice in choices:
        if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("text"):
            return True
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role"):
            return True
    return False


def usage_from(report: object) -> Usage | None:
    """The tokens of a `usage` object; None where it is not one."""
    if not isinstance(report, dict):
        return None
    details = report.get("prompt_tokens_details")
    prompt = _count(report.get("prompt_tokens"))
    completion = _count(report.get("completion_tokens") or 0)
    cached = _count((details.get("cached_tokens") or 0) if isinstance(details, dict) else 0)
    if prompt is None or completion is None or cached is None:
        return None
    return Usage(prompt, completion, cached)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def find_usage(body: bytes) -> Usage | None:
    """The usage in an engine's whole answer, without decoding all of it: answers with logprobs are megabytes.

    The last key of that name wins; inside a JSON string its quotes would be escaped, so no text can be taken for it.
    """
    found = None
    for match in _USAGE.finditer(body, max(0, body.rfind(b'"usage"'))):
        found = match[1]
    return usage_from(parse(found)) if found else None


def error_status(error: object, default: int = 500) -> int:
    """The HTTP status that an error object inside a 200 stands for."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else default


def is_admission_refusal(body: bytes) -> bool:
    """Whether a 503 of vLLM says that its queue is full, not that it is broken.

    vLLM's error is {"error": {"message": "The engine is currently busy and cannot accept new requests...", "code": 503}};
    a rescaling engine answers 503 too, with a string for `error`.
    """
    answer = parse(body)
    error = answer.get("error") if answer else None
    message = error.get("message") if isinstance(error, dict) else None
    return isinstance(message, str) and "cannot accept new requests" in message
