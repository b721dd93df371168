"""What the simulated engine says without generating: models, version, tokens of a text."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic_core import SchemaValidator

from engines import tokens
from engines.vllm import VERSION, protocol, validation
from engines.vllm.arguments import Settings
from engines.vllm.validation import RequestError


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(body=protocol.compact(value).encode(), status=status, content_type="application/json")


async def checked(request: web.Request, *validators: SchemaValidator) -> dict[str, Any]:
    """The request's JSON, of checked types. Raises RequestError as vLLM words it."""
    return validation.parse(request.content_type, await request.read(), *validators)


class Catalog:
    """Stateless routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that a conversation becomes. Raises RequestError for anything but text."""
        return tokens.render_chat([(m["role"], self._content(m.get("content"))) for m in messages])

    def _content(self, content: object) -> str:
        if content is None or isinstance(content, str):
            return content or ""
        parts = [
            part if isinstance(part, dict) else {} for part in (content if isinstance(content, list) else [content])
        ]
        if any(part.get("type") != "text" for part in parts):
            raise RequestError(f"{self.settings.names[0]} is not a multimodal model")
        return "\n".join(str(part.get("text", "")) for part in parts)

    async def version(self, _: web.Request) -> web.Response:
        return answer({"version": VERSION})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await checked(request, validation.TOKENIZE_PROMPT, validation.TOKENIZE_CHAT)
        validation.check_model(self.settings, body.get("model"))
        text = body["prompt"] if "prompt" in body else self.render(body["messages"])
        ids = tokens.encode(text)
        words = [tokens.decode([id_]) for id_ in ids] if body.get("return_token_strs") else None
        return answer(
            {"count": len(ids), "max_model_len": self.settings.max_model_len, "tokens": ids, "token_strs": words}
        )

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await checked(request, validation.DETOKENIZE)
        validation.check_model(self.settings, body.get("model"))
        return answer({"prompt": tokens.decode(body["tokens"])})

    async def models(self, _: web.Request) -> web.Response:
        return answer({"object": "list", "data": [self._card(name) for name in self.settings.names]})

    def _card(self, name: str) -> dict[str, Any]:
        allowed = dict.fromkeys(("allow_sampling", "allow_logprobs", "allow_view"), True)
        denied = dict.fromkeys(
            ("allow_create_engine", "allow_search_indices", "allow_fine_tuning", "is_blocking"), False
        )
        created = protocol.now()
        permission = {"id": f"modelperm-{uuid.uuid4().hex[:16]}", "object": "model_permission", "created": created}
        permission |= {**allowed, **denied, "organization": "*", "group": None}
        card = {"id": name, "object": "model", "created": created, "owned_by": "vllm", "root": self.settings.model}
        return {**card, "parent": None, "max_model_len": self.settings.max_model_len, "permission": [permission]}
