"""The HTTP surface of the simulated engine: routes, errors, streams, faults, drain."""

import asyncio
import json
import uuid
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from engines import tokens
from engines.faults import Fault, FaultPlan
from engines.vllm import protocol, validation
from engines.vllm.arguments import REQUEST_FAULTS, START_FAULTS, Settings
from engines.vllm.call import Call
from engines.vllm.catalog import Catalog, answer, checked
from engines.vllm.engine import Engine
from engines.vllm.metrics import Metrics
from engines.vllm.validation import RequestError

_BODY_LIMIT = 64 * 1024 * 1024
_DIMENSIONS = 384  # of an embedding


class Server:
    """One simulated replica. `app` serves it; `drain` is what SIGTERM asks for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        model = settings.step_model
        start = settings.fault is not None and settings.fault.kind in START_FAULTS
        self.faults = FaultPlan(None if start else settings.fault)
        self.metrics = Metrics(settings.names[0], settings.max_model_len, model.kv_blocks, model.block)
        self.engine = Engine(settings, self.metrics, self.faults)
        self.prefixes = tokens.PrefixCache(model.kv_blocks, model.block)
        self.catalog = Catalog(settings)
        self.load = 0
        self.draining = False

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=_BODY_LIMIT)
        add = app.router
        for path, handler in {
            "/health": self._health,
            "/ping": self._health,
            "/version": self.catalog.version,
            "/load": self._load,
            "/metrics": self._metrics,
            "/v1/models": self.catalog.models,
            "/sim/fault": self._show_fault,
        }.items():
            add.add_get(path, handler, allow_head=False)
        add.add_post("/ping", self._health)
        add.add_post("/sim/fault", self._set_fault)
        add.add_post("/tokenize", self.catalog.tokenize)
        add.add_post("/detokenize", self.catalog.detokenize)
        if self.settings.pooling:
            add.add_post("/v1/embeddings", self._embeddings)
        else:
            add.add_post("/v1/chat/completions", self._chat)
            add.add_post("/v1/completions", self._completions)
        return app

    async def drain(self) -> None:
        """SIGTERM as the real one takes it: running requests get `shutdown_timeout` seconds, new ones a 500, /health stays 200.

        With 0 everything that runs stalls at once, unanswered; past the timeout what is left ends in an error."""
        self.draining = True
        if self.settings.shutdown_timeout <= 0:
            self.engine.stall()
            return
        try:
            await asyncio.wait_for(self.engine.drained.wait(), self.settings.shutdown_timeout)
        except TimeoutError:
            self.engine.fail_all()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await checked(request, validation.CHAT)
        validation.check_stream_options(body)
        await self._preflight(body)
        if body.get("tools") and body.get("tool_choice", "auto") == "auto" and not self.settings.auto_tools:
            raise RequestError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
        if not body["messages"]:
            raise RequestError("Cannot apply chat template to an empty conversation. Provide at least one message.")
        prompt = self.catalog.render(body["messages"])
        task = validation.task(self.settings, body, (prompt,), _told(request))
        return await self._generate(request, task, protocol.ChatWriter(task))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await checked(request, validation.COMPLETION)
        validation.check_stream_options(body)
        prompts = _prompts(body.get("prompt"))
        if not prompts or not all(prompts):
            message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
            raise RequestError(message, param="prompt")
        await self._preflight(body)
        body.setdefault("max_tokens", 16)  # OpenAI's default for this route, and vLLM's
        task = validation.task(self.settings, body, prompts, _told(request))
        return await self._generate(request, task, protocol.CompletionWriter(task))

    async def _generate(
        self, request: web.Request, task: validation.Task, writer: protocol.Writer
    ) -> web.StreamResponse:
        fault = self.faults.next()
        kind = fault.kind if fault else None
        if kind == "die-before-headers":
            return _cut(request)
        self.load += self.settings.load_tracking
        try:
            if task.stream:
                return await self._stream(request, task, writer, fault)
            self._admit(task.n * len(task.prompts))
            with Call(self.engine, task, self.prefixes, hang=kind == "hang") as call:
                while not call.finished:
                    await call.progress()
                    if call.failed:
                        raise validation.engine_dead()
                texts = [delta.text for delta in call.deltas()]
                usage = call.usage(chat=isinstance(writer, protocol.ChatWriter))
                raw = protocol.compact(writer.body(texts, "stop" if task.stops else "length", usage)).encode()
            if kind in ("die-before-first-token", "die-mid-stream"):
                return await _cut_body(request, raw, 0 if kind == "die-before-first-token" else len(raw) // 2)
            return web.Response(body=raw, content_type="application/json")
        finally:
            self.load -= self.settings.load_tracking

    async def _stream(
        self, request: web.Request, task: validation.Task, writer: protocol.Writer, fault: Fault | None
    ) -> web.StreamResponse:
        kind = fault.kind if fault else None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            self._admit(
                task.n * len(task.prompts)
            )  # others may have come in since: then the refusal is the first event
            with Call(self.engine, task, self.prefixes, hang=kind == "hang") as call:
                opening = writer.opening(len(call.generations), sum(task.prompt_tokens))
                left = fault.tokens if fault and kind == "die-mid-stream" else None
                while not call.finished:
                    await self._progress(call, response)
                    if call.failed:
                        raise validation.engine_dead()
                    if kind == "die-before-first-token":
                        return _cut(request, response)
                    deltas = list(call.deltas(left))
                    await response.write(opening + b"".join(self._delta(writer, task, delta) for delta in deltas))
                    opening = b""
                    if left is not None:
                        left -= sum(delta.count for delta in deltas)
                        if left <= 0:
                            return _cut(request, response)
                usage = call.usage(chat=isinstance(writer, protocol.ChatWriter))
                await response.write(writer.closing(usage))
        except RequestError as error:
            await response.write(f"data: {json.dumps(error.body)}\n\n".encode() + protocol.DONE)
        await response.write_eof()
        return response

    async def _progress(self, call: Call, response: web.StreamResponse) -> None:
        interval = self.settings.keep_alive_interval
        if interval <= 0:
            return await call.progress()
        while True:
            try:
                return await asyncio.wait_for(call.progress(), interval)
            except TimeoutError:
                await response.write(b": keep-alive\n\n")

    def _delta(self, writer: protocol.Writer, task: validation.Task, delta: Any) -> bytes:
        finish = ("stop" if task.stops else "length") if delta.finished else None
        prompt = task.prompt_tokens[delta.index // task.n]
        return writer.delta(delta.index, delta.text, finish, prompt, delta.total)

    async def _preflight(self, body: dict[str, Any]) -> None:
        """What is asked before a status is sent; the prompt is tokenized next, by threads that a server told to stop has no more."""
        validation.check_model(self.settings, body.get("model"))
        if self.engine.dead:
            raise validation.engine_dead()
        self._admit(body.get("n") or 1)
        await asyncio.sleep(0)
        if self.draining:
            raise validation.shutting_down()

    def _admit(self, sequences: int) -> None:
        limit = self.settings.max_num_queued_reqs
        if limit is not None and self.engine.unfinished + sequences > limit:
            self.metrics.rejected.inc()
            raise validation.busy()

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await checked(request, validation.EMBEDDING)
        await self._preflight(body)
        model = body.get("model") or self.settings.names[0]
        prompts = _prompts(body["input"])
        task = validation.task(self.settings, {"model": model, "max_tokens": 1}, prompts, _told(request))
        self._admit(len(prompts))
        with Call(self.engine, task, self.prefixes, hang=False) as call:
            while not call.finished:
                await call.progress()
                if call.failed:
                    raise validation.engine_dead()
        size = body.get("dimensions") or _DIMENSIONS
        data = [
            {"index": index, "object": "embedding", "embedding": _vector(tokens.seed(prompt, 0), size)}
            for index, prompt in enumerate(prompts)
        ]
        count = sum(task.prompt_tokens)
        usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None}
        head = {"id": f"embd-{uuid.uuid4().hex[:16]}", "object": "list", "created": protocol.now(), "model": model}
        return answer({**head, "data": data, "usage": usage})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.engine.dead else 200)

    async def _load(self, _: web.Request) -> web.Response:
        return answer({"server_load": self.load})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_fault(self, _: web.Request) -> web.Response:
        fault = self.faults.fault
        shown = fault.as_dict() if fault else {"kind": "none"}
        return answer({"fault": shown, "seen": self.faults.seen, "struck": self.faults.struck})

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.set(Fault.parse(json.loads(await request.read() or b"{}"), REQUEST_FAULTS))
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"not a fault: {error}") from error
        if self.engine.dead:
            self.engine.fail_all()
        return await self._show_fault(request)


def _told(request: web.Request) -> int | None:
    """The prompt's length in tokens where the client says it, so that tests need not send long texts."""
    value = request.headers.get("x-sim-prompt-tokens", "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def _prompts(prompt: object) -> tuple[str, ...]:
    """One text for each prompt; token ids become the text that has as many."""
    if isinstance(prompt, str):
        return (prompt,)
    if not isinstance(prompt, list):
        return ()
    if prompt and all(isinstance(item, int) for item in prompt):
        return (tokens.text(sum(prompt), 0, len(prompt)),)
    return tuple(text for item in prompt for text in _prompts(item))


def _vector(seed: int, size: int) -> list[float]:
    return [((seed * (i + 1)) % 2039) / 2039 - 0.5 for i in range(size)]


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """The connection ends here, without an end."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


async def _cut_body(request: web.Request, raw: bytes, after: int) -> web.StreamResponse:
    """Headers that promise a body, and `after` bytes of it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(raw))})
    await response.prepare(request)
    if after:
        await response.write(raw[:after])
    return _cut(request, response)


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Errors in vLLM's two shapes: its own, and its framework's for what never reached it."""
    try:
        response: web.StreamResponse = await handler(request)
    except RequestError as error:
        return answer(error.body, error.code)
    except web.HTTPMethodNotAllowed as error:
        refused = answer({"detail": "Method Not Allowed"}, 405)
        refused.headers["Allow"] = error.headers["Allow"]
        return refused
    except web.HTTPNotFound:
        return answer({"detail": "Not Found"}, 404)
    return response
