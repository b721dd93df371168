"""What the stub refuses, in OpenAI's words and shape: keys, models, parameters, sizes, rates."""

import hmac
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from engines import tokens
from engines.frontier.catalog import Model

_SHARED = {
    *("model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop"),
    *("stream", "stream_options", "temperature", "top_p", "user"),
}
PARAMETERS = {
    "/v1/chat/completions": _SHARED
    | {
        *("messages", "audio", "function_call", "functions", "max_completion_tokens", "metadata", "modalities"),
        *("parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort"),
        *("response_format", "safety_identifier", "service_tier", "store", "tool_choice", "tools", "top_logprobs"),
        *("verbosity", "web_search_options"),
    },
    "/v1/completions": _SHARED | {"prompt", "best_of", "echo", "suffix"},
}
_STREAM_OPTIONS = {"include_usage", "include_obfuscation"}
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "n": (1, 128),
}
TEMPLATE_TOKENS, MESSAGE_TOKENS = 3, 4  # what the chat template adds


class ApiError(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        type_: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def key(authorization: str | None, keys: Collection[str]) -> None:
    """Raises ApiError (401) unless the header bears one of the keys. With no keys configured nobody gets in."""
    scheme, _, given = (authorization or "").partition(" ")
    if not given or scheme.lower() != "bearer":
        raise ApiError(401, "You didn't provide an API key. Provide it in an Authorization header using Bearer auth.")
    if not any(hmac.compare_digest(given.encode(), known.encode()) for known in keys):
        shown = f"{given[:3]}***{given[-2:]}" if len(given) > 8 else "***"
        raise ApiError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")


def body(raw: bytes, route: str) -> dict[str, Any]:
    """The JSON object, with no parameter that the route does not know. Raises ApiError (400)."""
    try:
        parsed = json.loads(raw)
    except ValueError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    for name in parsed:
        if name not in PARAMETERS[route]:
            raise ApiError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    options = parsed.get("stream_options")
    if options is not None:
        if not parsed.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise ApiError(400, message, param="stream_options")
        for name in options if isinstance(options, dict) else ("",):
            if name not in _STREAM_OPTIONS:
                param = f"stream_options.{name}"
                raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    for name, (low, high) in _RANGES.items():
        value = parsed.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high
        ):
            raise ApiError(
                400, f"Invalid '{name}': expected a number from {low} to {high}.", param=name, code="invalid_value"
            )
    return parsed


def model(name: object, models: Mapping[str, Model]) -> Model:
    if not isinstance(name, str) or not name:
        raise ApiError(400, "you must provide a model parameter")
    if name not in models:
        message = f"The model `{name}` does not exist or you do not have access to it."
        raise ApiError(404, message, param=None, code="model_not_found")
    return models[name]


def prompt(route: str, parsed: Mapping[str, Any]) -> tuple[str, int]:
    """The prompt as one text, and its tokens. Raises ApiError (400) where there is none."""
    if route == "/v1/completions":
        text = parsed.get("prompt")
        if not isinstance(text, str) or not text:
            raise ApiError(400, "You must provide a prompt as a string.", param="prompt")
        return text, tokens.count(text)
    messages = parsed.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        message = "Missing or invalid parameter: 'messages' must be a list of messages with a role."
        raise ApiError(400, message, param="messages", code="missing_required_parameter")
    text = "\n".join(f"{m['role']}: {_text(m.get('content'))}" for m in messages)
    counted = sum(tokens.count(_text(m.get("content"))) + MESSAGE_TOKENS for m in messages)
    return text, counted + TEMPLATE_TOKENS


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def output_cap(parsed: Mapping[str, Any], sold: Model, prompt_tokens: int) -> int | None:
    """The client's cap on output tokens, or None. Raises ApiError (400) where it, or the prompt, is more than the model can."""
    caps = {name: parsed[name] for name in ("max_completion_tokens", "max_tokens") if parsed.get(name) is not None}
    for name, cap in caps.items():
        if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
            raise ApiError(
                400, f"Invalid '{name}': expected an integer of at least 1.", param=name, code="integer_below_min_value"
            )
        if cap > sold.max_output_tokens:
            message = (
                f"{name} is too large: {cap}. This model supports at most {sold.max_output_tokens} completion tokens."
            )
            raise ApiError(400, message, param=name, code="invalid_value")
    cap = min(caps.values(), default=None)
    if prompt_tokens + (cap or 0) > sold.context_tokens:
        message = (
            f"This model's maximum context length is {sold.context_tokens} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages."
        )
        raise ApiError(400, message, param="messages", code="context_length_exceeded")
    return cap


class RateLimit:
    """Requests and tokens a minute as buckets that refill evenly. Zero means no limit."""

    def __init__(self, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._left = {name: float(limit) for name, limit in self._limits.items()}
        self._at = 0.0

    def take(self, now: float, tokens_wanted: int) -> dict[str, str]:
        """Headers of an admitted request. Raises ApiError (429) with Retry-After otherwise. `now` in seconds, never going back."""
        wanted = {"requests": 1, "tokens": tokens_wanted}
        elapsed, self._at = (now - self._at if self._at else 0.0), now
        headers: dict[str, str] = {}
        for name, limit in self._limits.items():
            self._left[name] = min(limit, self._left[name] + elapsed * limit / 60)
        for name, limit in self._limits.items():
            short = wanted[name] - self._left[name] if limit else 0
            if short > 0:
                wait = short * 60 / limit
                message = f"Rate limit reached on {name} per min: Limit {limit}. Please try again in {wait:.3f}s."
                retry = {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
                raise ApiError(429, message, name, code="rate_limit_exceeded", headers={**headers, **retry})
        for name, limit in self._limits.items():
            if limit:
                self._left[name] -= wanted[name]
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(int(self._left[name]))
                headers[f"x-ratelimit-reset-{name}"] = f"{(limit - self._left[name]) * 60 / limit:.3f}s"
        return headers
