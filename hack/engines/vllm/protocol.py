"""Bodies and stream events of /v1/chat/completions and /v1/completions, field by field as vLLM 0.32 writes them."""

import json
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from engines.vllm import VERSION
from engines.vllm.validation import Task

FINGERPRINT = f"vllm-{VERSION}-00000000"
DONE = b"data: [DONE]\n\n"


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def now() -> int:
    return int(time.time())


def event(value: object) -> bytes:
    return b"data: " + compact(value).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole request. `cached` and `created` are None where vLLM was not told to show them."""

    prompt: int
    completion: int
    cached: int | None
    created: int | None

    def counts(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
        }

    def details(self) -> dict[str, int | None] | None:
        return None if self.cached is None else {"cached_tokens": self.cached, "created_cache_tokens": self.created}

    def in_body(self) -> dict[str, Any]:
        details = self.details()
        full = None if details is None else {**details, "multimodal_tokens": None}
        return {**self.counts(), "prompt_tokens_details": full, "completion_tokens_details": None}

    def in_stream(self) -> dict[str, Any]:
        details = self.details()
        present = (
            {} if details is None else {"prompt_tokens_details": {k: v for k, v in details.items() if v is not None}}
        )
        return {**self.counts(), **present}


class Writer(ABC):
    """Renders one request's answer. Everything that does not change from token to token is rendered once."""

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, task: Task) -> None:
        self.task = task
        self.id = f"{self.prefix}-{uuid.uuid4().hex[:16]}"
        self.created = now()
        chunk = {"id": self.id, "object": self.chunk_object, "created": self.created, "model": task.model}
        self._chunk = chunk
        self._head = b"data: " + compact(chunk)[:-1].encode() + b',"choices":['

    def opening(self, choices: int, prompt: int) -> bytes:
        """What comes with the first token, before it."""
        return b""

    def delta(self, index: int, text: str, finish: str | None, prompt: int, completion: int) -> bytes:
        """The event for new text of a choice. The text must need no escaping in JSON, as tokens.text does not."""
        usage = f',"usage":{self._counts(prompt, completion)}' if self.task.continuous_usage else ""
        if finish and not self.task.include_usage:
            usage += f',"system_fingerprint":"{FINGERPRINT}"'
        return self._head + f"{self._choice(index, text, finish)}]{usage}}}\n\n".encode()

    def closing(self, usage: Usage) -> bytes:
        if not self.task.include_usage:
            return DONE
        return (
            event({**self._chunk, "choices": [], "usage": usage.in_stream(), "system_fingerprint": FINGERPRINT}) + DONE
        )

    def body(self, texts: list[str], finish: str, usage: Usage) -> dict[str, Any]:
        head = {"id": self.id, "object": self.object, "created": self.created, "model": self.task.model}
        choices = [self._whole(index, text, finish) for index, text in enumerate(texts)]
        return {
            **head,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage.in_body(),
        }

    def _counts(self, prompt: int, completion: int) -> str:
        return f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + completion},"completion_tokens":{completion}}}'

    @abstractmethod
    def _choice(self, index: int, text: str, finish: str | None) -> str: ...

    @abstractmethod
    def _whole(self, index: int, text: str, finish: str) -> dict[str, Any]: ...


class ChatWriter(Writer):
    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, choices: int, prompt: int) -> bytes:
        events = []
        for index in range(choices):
            delta = {"role": "assistant", "content": ""}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            usage = {"usage": json.loads(self._counts(prompt, 0))} if self.task.continuous_usage else {}
            events.append(
                event({**self._chunk, "choices": [choice], **usage, "prompt_token_ids": None, "prompt_text": None})
            )
        return b"".join(events)

    def body(self, texts: list[str], finish: str, usage: Usage) -> dict[str, Any]:
        empty = (
            "prompt_logprobs",
            "prompt_token_ids",
            "prompt_text",
            "kv_transfer_params",
            "ec_transfer_params",
            "metrics",
        )
        return {**super().body(texts, finish, usage), **dict.fromkeys(empty)}

    def _counts(self, prompt: int, completion: int) -> str:
        return super()._counts(prompt, completion)[:-1] + ',"completion_tokens_details":null}'

    def _choice(self, index: int, text: str, finish: str | None) -> str:
        end = f'"{finish}","stop_reason":null' if finish else "null"
        return (
            f'{{"index":{index},"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":{end},"token_ids":null}}'
        )

    def _whole(self, index: int, text: str, finish: str) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": text,
            **dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning")),
        }
        choice = {"index": index, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        return {**choice, "token_ids": None, "routed_experts": None}


class CompletionWriter(Writer):
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def body(self, texts: list[str], finish: str, usage: Usage) -> dict[str, Any]:
        empty = ("kv_transfer_params", "ec_transfer_params", "metrics")
        return {**super().body(texts, finish, usage), **dict.fromkeys(empty)}

    def _choice(self, index: int, text: str, finish: str | None) -> str:
        end = f'"{finish}"' if finish else "null"
        return (
            f'{{"index":{index},"text":"{text}","logprobs":null,"finish_reason":{end},"stop_reason":null,'
            '"prompt_token_ids":null,"token_ids":null}'
        )

    def _whole(self, index: int, text: str, finish: str) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        return {**choice, **dict.fromkeys(("token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts"))}
