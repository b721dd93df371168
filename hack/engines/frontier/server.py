"""The HTTP surface of the stub: completions at a told pace, faults, and what it saw and sold."""

import asyncio
import json
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from engines import tokens
from engines.faults import Fault, FaultPlan
from engines.frontier import checks
from engines.frontier.answer import Answer, Seen, event, kept
from engines.frontier.catalog import Bill, Model
from engines.frontier.checks import ApiError

CUTS = ("die-before-headers", "die-before-first-token", "die-mid-stream")
ANSWERS = ("error-500", "error-503", "error-429", "quota", "revoked", "error-event", "garbage")
FAULTS = (*CUTS, *ANSWERS, "hang", "slow", "no-usage")
PACE = 0.02  # seconds: tokens that come faster than this share an event
_CACHE_BLOCK, _CACHE_LEAST = 128, 1024  # prompts are cached in steps of 128 tokens, from 1024 on


@dataclass(frozen=True, slots=True)
class Settings:
    """How the stub behaves. Seconds, and tokens a second; limits of 0 do not limit."""

    host: str
    port: int
    keys: tuple[str, ...]
    models: dict[str, Model]
    ttft: float
    tokens_per_second: float
    output_tokens: int
    requests_per_minute: int
    tokens_per_minute: int
    kept: int
    fault: Fault | None


class Server:
    """One provider. What it saw (`requests`, bounded) and sold (`bill`) can be read from it and over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = FaultPlan(settings.fault)
        self.bill = Bill()
        self.requests: deque[Seen] = deque(maxlen=settings.kept)
        self._limit = checks.RateLimit(settings.requests_per_minute, settings.tokens_per_minute)
        self._prefixes = tokens.PrefixCache(100_000, _CACHE_BLOCK)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[_errors])
        add = app.router
        for route in checks.PARAMETERS:
            add.add_post(route, self._complete)
        add.add_get("/v1/models", self._models)
        add.add_get("/v1/models/{name:.+}", self._model)
        add.add_get("/healthz", self._health)
        add.add_get("/bill", self._bill)
        add.add_get("/requests", self._requests)
        add.add_delete("/requests", self._forget)
        add.add_get("/sim/fault", self._show_fault)
        add.add_post("/sim/fault", self._set_fault)
        return app

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        start = time.monotonic()
        raw = await request.read()
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        seen = Seen(request.method, request.path, headers, kept(raw), time.time())
        self.requests.append(seen)
        try:
            answer = self._accept(request, raw, seen)
            if answer.kind() == "die-before-headers":
                return _cut(request, seen)
            if answer.kind() == "hang":
                await asyncio.Event().wait()  # until the client goes away
            response = await (self._stream if answer.stream else self._whole)(request, answer)
            if seen.outcome == "open":
                seen.outcome = "done"
            return response
        except ApiError as error:
            seen.status, seen.outcome = error.status, "refused"
            raise
        except (asyncio.CancelledError, ConnectionError):
            seen.outcome = "client-gone"
            raise
        finally:
            seen.seconds = time.monotonic() - start
            if seen.outputTokens:
                self.bill.charge(answer.sold, seen.promptTokens, seen.cachedTokens, seen.outputTokens)

    def _accept(self, request: web.Request, raw: bytes, seen: Seen) -> Answer:
        """All that can be said no to before anything is generated, in the order in which OpenAI does."""
        checks.key(request.headers.get("Authorization"), self.settings.keys)
        parsed = checks.body(raw, request.path)
        sold = checks.model(parsed.get("model"), self.settings.models)
        text, seen.promptTokens = checks.prompt(request.path, parsed)
        cap = checks.output_cap(parsed, sold, seen.promptTokens)
        headers = self._limit.take(time.monotonic(), seen.promptTokens + (cap or 0))
        fault = self.faults.next()
        if fault is not None:
            _answer_fault(fault.kind)
        warm = self._prefixes.lookup(text, sold.name)
        seen.cachedTokens = warm if warm >= _CACHE_LEAST else 0
        natural = self.settings.output_tokens
        output = natural if cap is None else min(natural, cap)
        return Answer(
            seen=seen,
            sold=sold,
            chat=request.path == "/v1/chat/completions",
            stream=bool(parsed.get("stream")),
            include_usage=bool((parsed.get("stream_options") or {}).get("include_usage")),
            choices=int(parsed.get("n") or 1),
            output_tokens=min(output, sold.max_output_tokens),
            finish="length" if output < natural else "stop",
            seed=tokens.seed(text, 0),
            fault=fault,
            headers={**headers, "x-request-id": f"req_{uuid.uuid4().hex}"},
        )

    def _slowness(self, answer: Answer) -> float:
        return answer.fault.factor if answer.fault and answer.fault.kind == "slow" else 1.0

    async def _whole(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        seen = answer.seen
        generation = answer.output_tokens / self.settings.tokens_per_second
        await asyncio.sleep((self.settings.ttft + generation) * self._slowness(answer))
        seen.outputTokens = answer.output_tokens * answer.choices
        seen.status = 200
        raw = b"\x00\xff<html>" if answer.kind() == "garbage" else json.dumps(answer.body()).encode()
        if answer.kind() in CUTS:
            promised = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
            await promised.prepare(request)
            await promised.write(raw[: len(raw) // 2])
            return _cut(request, seen, promised)
        return web.Response(body=raw, content_type="application/json", headers=answer.headers)

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        seen, kind = answer.seen, answer.kind()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **answer.headers})
        await response.prepare(request)
        seen.status = 200
        if kind == "garbage":
            await response.write(b"data: {not json\n\n\x00\xff")
            seen.outcome = "fault"
            return response
        if kind == "error-event":
            error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
            await response.write(event({"error": error}))
            seen.outcome = "fault"
            return response
        await asyncio.sleep(self.settings.ttft * self._slowness(answer))
        if kind == "die-before-first-token":
            return _cut(request, seen, response)
        opening = {"role": "assistant", "content": "", "refusal": None} if answer.chat else None
        if opening is not None:
            await response.write(b"".join(answer.chunk(i, opening, None) for i in range(answer.choices)))
        await self._generate(request, answer, response)
        if seen.outcome != "open":
            return response
        if answer.chat:
            await response.write(b"".join(answer.chunk(i, {}, answer.finish) for i in range(answer.choices)))
        if answer.include_usage and kind != "no-usage":
            await response.write(event({**answer.head(chunk=True), "choices": [], "usage": answer.usage()}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _generate(self, request: web.Request, answer: Answer, response: web.StreamResponse) -> None:
        """Tokens at the pace; those that are due within the same 20 ms go out together."""
        seen, loop = answer.seen, asyncio.get_running_loop()
        dying = answer.fault is not None and answer.fault.kind == "die-mid-stream"
        end = min(answer.output_tokens, answer.fault.tokens) if answer.fault and dying else answer.output_tokens
        rate = self.settings.tokens_per_second / self._slowness(answer)
        start, sent = loop.time(), 0
        while sent < end:
            due = min(end, max(sent + 1, int((loop.time() - start) * rate)))
            for index in range(answer.choices):
                text = tokens.text(answer.seed + index, sent, due - sent)
                finish = answer.finish if due == answer.output_tokens and not answer.chat else None
                await response.write(answer.chunk(index, {"content": text}, finish))
                seen.outputTokens += due - sent
            sent = due
            await asyncio.sleep(max(PACE, start + (sent + 1) / rate - loop.time()) if sent < end else 0)
        if dying:
            _cut(request, seen)

    async def _models(self, request: web.Request) -> web.Response:
        checks.key(request.headers.get("Authorization"), self.settings.keys)
        return web.json_response({"object": "list", "data": [_card(m) for m in self.settings.models.values()]})

    async def _model(self, request: web.Request) -> web.Response:
        checks.key(request.headers.get("Authorization"), self.settings.keys)
        return web.json_response(_card(checks.model(request.match_info["name"], self.settings.models)))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _bill(self, _: web.Request) -> web.Response:
        return web.json_response(self.bill.as_dict())

    async def _requests(self, _: web.Request) -> web.Response:
        return web.json_response({"requests": [asdict(seen) for seen in self.requests]})

    async def _forget(self, _: web.Request) -> web.Response:
        self.requests.clear()
        return web.json_response({"requests": []})

    async def _show_fault(self, _: web.Request) -> web.Response:
        fault = self.faults.fault
        shown = fault.as_dict() if fault else {"kind": "none"}
        return web.json_response({"fault": shown, "seen": self.faults.seen, "struck": self.faults.struck})

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.set(Fault.parse(json.loads(await request.read() or b"{}"), FAULTS))
        except (ValueError, TypeError, AttributeError) as error:
            raise ApiError(400, f"not a fault: {error}") from error
        return await self._show_fault(request)


def _answer_fault(kind: str) -> None:
    """Faults that are plain error answers. Nothing is charged for those."""
    match kind:
        case "error-500":
            raise ApiError(
                500, "The server had an error while processing your request. Sorry about that!", "server_error"
            )
        case "error-503":
            raise ApiError(503, "The engine is currently overloaded, please try again later.", "server_error")
        case "error-429":
            raise ApiError(
                429,
                "Rate limit reached on requests.",
                "requests",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        case "quota":
            raise ApiError(429, "You exceeded your current quota.", "insufficient_quota", code="insufficient_quota")
        case "revoked":
            raise ApiError(401, "Incorrect API key provided: ***.", code="invalid_api_key")


def _card(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": 1_700_000_000, "owned_by": "stub"}


def _cut(request: web.Request, seen: Seen, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """The connection ends here, without an end."""
    seen.outcome = "fault"
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except ApiError as error:
        return web.json_response(error.body, status=error.status, headers=error.headers)
    except web.HTTPException as error:
        body = {
            "message": f"Invalid URL ({request.method} {request.path})",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        return web.json_response({"error": body}, status=error.status)
    return answer
