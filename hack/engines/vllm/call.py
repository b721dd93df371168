"""One HTTP request inside the engine: its sequences, what is new in them, and their end whichever way it comes."""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from engines import tokens
from engines.vllm.engine import Engine, Generation
from engines.vllm.protocol import Usage
from engines.vllm.validation import Task
from weir.simulate.batch import Request


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a choice: `count` tokens, `total` with those before. The choice is over where `finished`."""

    index: int
    text: str
    count: int
    total: int
    finished: bool


class Call:
    """Context manager: sequences that still run when it is left (the client went away, say) are taken out of the engine."""

    def __init__(self, engine: Engine, task: Task, prefixes: tokens.PrefixCache, hang: bool) -> None:
        self.task = task
        self._engine = engine
        self._woken = asyncio.Event()
        self._sent: list[int] = []
        self._seeds: list[int] = []
        self.generations: list[Generation] = []
        self.cached = 0
        self.created = 0
        settings, metrics = engine.settings, engine.metrics
        metrics.request_n.observe(task.n)
        metrics.request_max_tokens.observe(task.max_tokens)
        block = settings.step_model.block
        id_, arrived = uuid.uuid4().hex, asyncio.get_running_loop().time()
        for prompt, length in zip(task.prompts, task.prompt_tokens, strict=True):
            whole = (length - 1) // block * block
            warm = min(prefixes.lookup(prompt, task.salt), whole)
            metrics.prefix_queries.inc(length)
            metrics.prefix_hits.inc(warm)
            self.cached += warm
            self.created += whole - warm
            for choice in range(task.n):
                name = f"{id_}-{len(self.generations)}"
                request = Request(name, length, task.output_tokens, warm if choice == 0 else whole)
                self.generations.append(Generation(request, self._woken.set, task.stream, task.stops, arrived))
                self._sent.append(0)
                self._seeds.append(tokens.seed(prompt, choice))
        for generation in self.generations:
            engine.submit(generation, hang)

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        for generation in self.generations:
            if not generation.finished:
                self._engine.abort(generation)

    @property
    def failed(self) -> bool:
        return any(generation.failed for generation in self.generations)

    @property
    def finished(self) -> bool:
        return all(generation.finished for generation in self.generations)

    async def progress(self) -> None:
        """Returns when there is something new, once for however much of it."""
        await self._woken.wait()
        self._woken.clear()

    def deltas(self, at_most: int | None = None) -> Iterator[Delta]:
        """What is new since the last call; with `at_most`, no more tokens than that (a stream about to be cut)."""
        for index, generation in enumerate(self.generations):
            sent = self._sent[index]
            count = generation.tokens - sent
            if at_most is not None:
                count = min(count, at_most)
                at_most -= count
            if count:
                self._sent[index] = sent + count
                finished = generation.finished and sent + count == generation.tokens
                yield Delta(index, tokens.text(self._seeds[index], sent, count), count, sent + count, finished)

    def usage(self, chat: bool) -> Usage:
        shown = self._engine.settings.prompt_tokens_details
        completion = sum(generation.tokens for generation in self.generations)
        cached, created = (self.cached if shown else None), (self.created if shown and chat else None)
        return Usage(sum(self.task.prompt_tokens), completion, cached, created)
