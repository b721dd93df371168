"""What the gateway knows of a request: parsed once, and only as far as it decides something. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from weir.gateway.errors import RefusedError
from weir.overflow.policy import Wish

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
OUTPUT_CAPS = {CHAT: ("max_completion_tokens", "max_tokens"), COMPLETIONS: ("max_tokens",)}
"""The fields that limit the tokens of a choice, the preferred one first."""
MAX_CHOICES = 128
"""OpenAI's own limit on `n`."""
MAX_PROMPTS = 2048
MAX_OUTPUT_TOKENS = 100_000_000


@dataclass(frozen=True)
class InferenceRequest:
    """One request for a completion."""

    route: str
    model: str
    """As the client named it."""
    body: bytes
    """All that is kept of it: parsed it may take twenty times the memory."""
    stream: bool
    wants_usage: bool
    """The client asked for the report of usage at the end of its stream."""
    slots: int
    """Sequences that run at once: choices times prompts."""
    choices: int
    messages: int
    """How many messages the prompt has."""
    stream_options: Mapping[str, Any] | None
    """None: it has no such field."""
    output_cap: int | None
    """The client's limit on the tokens of one choice."""
    wish: Wish

    def parsed(self) -> dict[str, Any]:
        """The body, parsed anew."""
        fields: dict[str, Any] = orjson.loads(self.body)
        return fields

    def engine_body(self, model: str) -> bytes:
        """The body for an engine that knows the model as `model`: the client's own bytes wherever that is possible.

        Raises RefusedError where it cannot be written.
        """
        meter = self.stream and not self.wants_usage
        if model == self.model and not meter:
            return self.body
        if model == self.model and self.stream_options is None:
            # As first member, since what is there already need not be decoded and written again.
            start = self.body.index(b"{") + 1
            return b'{"stream_options":{"include_usage":true},' + self.body[start:]
        return dumps(self.parsed() | {"model": model} | self.metering())

    def metering(self) -> dict[str, Any]:
        """The field that makes a stream end with a report of usage."""
        if not self.stream or self.wants_usage:
            return {}
        return {"stream_options": {**(self.stream_options or {}), "include_usage": True}}


def parse(route: str, body: bytes, headers: Mapping[bytes, bytes]) -> InferenceRequest:
    """Raises RefusedError where the request makes no sense to anybody; what only the engine can judge passes."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not valid JSON: {error}", "invalid_json") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, "the body must be a JSON object", "invalid_json")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "must name a model")
    stream = _boolean(fields, "stream")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    choices = _integer(fields, "n", MAX_CHOICES) or 1
    caps = [_integer(fields, name, MAX_OUTPUT_TOKENS) for name in OUTPUT_CAPS[route]]
    return InferenceRequest(
        route=route,
        model=model,
        body=body,
        stream=stream,
        wants_usage=bool(options and options.get("include_usage")),
        slots=choices * _prompts(route, fields),
        choices=choices,
        messages=len(fields["messages"]) if route == CHAT else 0,
        stream_options=(options or {}) if "stream_options" in fields else None,
        output_cap=max((cap for cap in caps if cap is not None), default=None),
        wish=_wish(headers.get(b"x-weir-overflow")),
    )


def dumps(fields: Mapping[str, Any]) -> bytes:
    """The JSON of a request's fields. Raises RefusedError where they are nested too deeply for that."""
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise RefusedError(400, f"the body cannot be handed on: {error}", "invalid_json") from None


def _prompts(route: str, fields: Mapping[str, Any]) -> int:
    """How many prompts the request has. Raises RefusedError where there is none."""
    if route == CHAT:
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages", "must be a list of at least one message")
        return 1
    prompt = fields.get("prompt")
    if isinstance(prompt, list):
        if not prompt or (len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int)):
            raise _wrong("prompt", f"must be a text or a list of 1 to {MAX_PROMPTS} of them")
        return 1 if isinstance(prompt[0], int) else len(prompt)
    if not isinstance(prompt, str):
        raise _wrong("prompt", "must be a text or a list")
    return 1


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return bool(value)


def _integer(fields: Mapping[str, Any], name: str, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _wrong(name, f"must be an integer from 1 to {most}")
    return value


def _wish(header: bytes | None) -> Wish:
    if header is None:
        return Wish.UNSAID
    try:
        return Wish(header.decode("latin-1").strip().lower())
    except ValueError:
        raise RefusedError(400, "x-weir-overflow must be never, allow or only", "invalid_header") from None


def _wrong(param: str, what: str) -> RefusedError:
    return RefusedError(400, f"{param} {what}", "invalid_value", param)
