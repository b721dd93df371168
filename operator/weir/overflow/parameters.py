"""Which requests an OpenAI-compatible provider understands, and what of them never leaves.

What is in a request and not in its route's list makes it not spillable, unless the model's owner listed it under
`overflow.dropParameters`: a provider would answer 400 (vLLM's `top_k`, `min_p`, `chat_template_kwargs`, ...), or worse,
ignore what changes the answer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from weir.overflow.policy import Reason

_SHARED = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty",
     "frequency_penalty", "logit_bias", "user"}
)  # fmt: skip
KNOWN: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": _SHARED
    | {"messages", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs",
       "top_logprobs", "reasoning_effort", "metadata", "safety_identifier", "prompt_cache_key", "store"},
    "/v1/completions": _SHARED | {"prompt", "logprobs", "echo", "suffix", "best_of"},
}  # fmt: skip
"""Fields by route: OpenAI's API reference of chat completions and completions, without what has state or a price of its own
(`service_tier`, `web_search_options`, `audio`, `modalities`, `prediction`)."""

REDACTED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "store"})
"""Removed on the way out: who asks is nobody else's concern, and nothing is to be kept there."""


@dataclass(frozen=True)
class Spillability:
    """Whether a request can be put to a provider, and the fields that stay here if so."""

    reason: Reason | None
    removed: frozenset[str] = frozenset()


def spillability(route: str, body: Mapping[str, Any], drop: Collection[str] = ()) -> Spillability:
    """Can this request be put to an OpenAI-compatible provider? `body` is the parsed JSON object of a valid request."""
    known = KNOWN.get(route)
    if known is None:
        return Spillability(Reason.ROUTE_NOT_SPILLABLE)
    dropped = body.keys() & frozenset(drop)
    if any(name not in known and name not in dropped and value is not None for name, value in body.items()):
        return Spillability(Reason.PARAMETER_NOT_SUPPORTED)
    if route == "/v1/completions" and not _is_text(body.get("prompt")):
        return Spillability(Reason.PARAMETER_NOT_SUPPORTED)  # token ids mean something to the local tokenizer only
    if body.get("best_of") not in (None, 1):
        return Spillability(Reason.UNBOUNDED_COST)
    if "messages" in known and not all(_is_bounded(message) for message in body.get("messages", ())):
        return Spillability(Reason.UNBOUNDED_COST)
    if "tools" not in dropped and not _are_bounded(body.get("tools")):
        return Spillability(Reason.UNBOUNDED_COST)
    nulls = {name for name, value in body.items() if value is None and name not in known}
    return Spillability(None, frozenset(dropped | (REDACTED & body.keys()) | nulls))


def _is_text(prompt: object) -> bool:
    return isinstance(prompt, str)


def _is_bounded(message: object) -> bool:
    """Text costs at most a token a byte; images, audio and files have prices of their own."""
    if not isinstance(message, Mapping):
        return False
    content = message.get("content")
    if not isinstance(content, list):
        return True
    return all(isinstance(part, Mapping) and part.get("type") in ("text", "refusal") for part in content)


def _are_bounded(tools: object) -> bool:
    """Tools that the client runs itself; a provider's own (web_search, code_interpreter, ...) have prices of their own."""
    if tools is None:
        return True
    own = ("function", "custom")
    return isinstance(tools, list) and all(isinstance(tool, Mapping) and tool.get("type") in own for tool in tools)
