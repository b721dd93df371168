"""One request: what came in, word for word, and the answer to it in OpenAI's shape."""

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from engines import tokens
from engines.faults import Fault
from engines.frontier.catalog import Model

_BODY_KEPT = 64 * 1024
_NO_TOKENS = dict.fromkeys(
    ("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), 0
)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def kept(raw: bytes) -> object:
    """The body as sent: JSON where it is, else text; long ones cut."""
    try:
        return json.loads(raw) if len(raw) <= _BODY_KEPT else raw[:_BODY_KEPT].decode(errors="replace")
    except ValueError:
        return raw.decode(errors="replace")


@dataclass(slots=True)
class Seen:
    """What came in, word for word, and what became of it."""

    method: str
    path: str
    headers: dict[str, str]
    body: object
    at: float
    status: int | None = None
    outcome: str = "open"  # done, refused, fault, or client-gone
    promptTokens: int = 0  # noqa: N815 - the names are JSON
    cachedTokens: int = 0  # noqa: N815
    outputTokens: int = 0  # noqa: N815
    seconds: float | None = None


@dataclass(slots=True)
class Answer:
    """A request that was accepted, while it is answered."""

    seen: Seen
    sold: Model
    chat: bool
    stream: bool
    include_usage: bool
    choices: int
    output_tokens: int
    finish: str
    seed: int
    fault: Fault | None
    headers: dict[str, str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24])
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        tail = {"service_tier": "default", "system_fingerprint": "fp_stub"}
        return {"id": name, "object": kind, "created": self.created, "model": self.sold.name, **tail}

    def usage(self) -> dict[str, Any]:
        seen = self.seen
        counts = {"prompt_tokens": seen.promptTokens, "completion_tokens": seen.outputTokens}
        counts["total_tokens"] = seen.promptTokens + seen.outputTokens
        details = {"cached_tokens": seen.cachedTokens, "audio_tokens": 0}
        return {**counts, "prompt_tokens_details": details, "completion_tokens_details": _NO_TOKENS}

    def kind(self) -> str | None:
        return self.fault.kind if self.fault else None

    def text(self, choice: int, start: int, count: int) -> str:
        return tokens.text(self.seed + choice, start, count)

    def body(self) -> dict[str, Any]:
        choices = []
        for index in range(self.choices):
            text = self.text(index, 0, self.output_tokens)
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
            content: dict[str, Any] = {"message": message} if self.chat else {"text": text}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": self.finish})
        usage = {} if self.kind() == "no-usage" else {"usage": self.usage()}
        return {**self.head(chunk=False), "choices": choices, **usage}

    def chunk(self, index: int, delta: dict[str, Any], finish: str | None) -> bytes:
        content = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.include_usage else {}
        return event({**self.head(chunk=True), "choices": [choice], **usage})
