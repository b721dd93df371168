"""The simulated engine core in real time: one timer a step, whatever the number of streams; none while idle."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.faults import FaultPlan
from engines.vllm.arguments import Settings
from engines.vllm.metrics import Metrics
from weir.simulate.batch import Batch, Request, StepResult

# With a time scale a step may last microseconds; tokens then go out in bundles this many seconds apart.
QUANTUM = 0.01


@dataclass(slots=True, eq=False)
class Generation:
    """One sequence on its way. `wake` is called when it ends and, where somebody streams it, with every new token."""

    request: Request
    wake: Callable[[], None]
    streamed: bool
    stops: bool  # ends by itself (finish_reason stop), not at its limit (length)
    arrived: float
    admitted: float = 0.0
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    preemptions: int = 0
    finished: bool = False
    failed: bool = False


@dataclass(slots=True)
class Engine:
    """Takes generations, gives them tokens. Not for more than one event loop."""

    settings: Settings
    metrics: Metrics
    faults: FaultPlan
    batch: Batch = field(init=False)
    _live: dict[str, Generation] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None
    _due: float = 0.0
    _dice: random.Random = field(init=False)
    _stalled: bool = False
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.batch = Batch(self.settings.step_model, self.settings.max_num_seqs)
        self._dice = random.Random(self.settings.seed)
        self.drained.set()
        self.metrics.watch(lambda: self.unfinished - self.waiting, lambda: self.waiting, lambda: self.batch.kv_usage)

    @property
    def unfinished(self) -> int:
        """Running plus waiting: what admission counts."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        return len(self.batch.waiting)

    @property
    def dead(self) -> bool:
        return self.faults.fault is not None and self.faults.fault.kind == "dead"

    def submit(self, generation: Generation, hang: bool = False) -> None:
        """Queues it; with `hang` it holds a slot and never gets a token."""
        self._live[generation.request.id] = generation
        self.drained.clear()
        if not hang:
            self.batch.add(generation.request)
            self._next_step()

    def abort(self, generation: Generation) -> None:
        """The client is gone. Nothing happens if the generation is over."""
        if self._live.pop(generation.request.id, None) is not None:
            self.batch.abort(generation.request.id)
            self.metrics.success["abort"].inc()
            self._note_drained()

    def fail_all(self) -> None:
        """Everything that runs ends in an error, as when the engine process dies."""
        for generation in list(self._live.values()):
            generation.failed = True
            self.batch.abort(generation.request.id)
            generation.wake()
        self._live.clear()
        self._note_drained()

    def stall(self) -> None:
        """No more steps, ever: what is left of a real server after its engine was stopped and before the process ends."""
        self._stalled = True
        if self._timer is not None:
            self._timer.cancel()

    def _next_step(self) -> None:
        if self._timer is not None or self._stalled or not self.batch.busy:
            return
        loop = asyncio.get_running_loop()
        result = self.batch.step(QUANTUM)
        seconds = result.seconds * self._dice.lognormvariate(0, self.settings.jitter)
        if self.faults.fault is not None and self.faults.fault.kind == "slow":
            seconds *= self.faults.fault.factor
        now = loop.time()
        for id_ in result.admitted:
            generation = self._live[id_]
            generation.admitted = generation.admitted or now
        # timers fire late: counting from the last one's due time keeps the pace, unless the machine is hopelessly behind
        start = self._due if now - self._due < 0.05 else now
        self._due = start + seconds
        self._timer = loop.call_at(self._due, self._emit, result)

    def _emit(self, result: StepResult) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        metrics = self.metrics
        metrics.iteration.observe(result.prompt_tokens + sum(result.tokens.values()))
        for id_ in result.preempted:
            metrics.preemptions.inc()
            if id_ in self._live:
                self._live[id_].preemptions += 1
        generated = 0
        for id_, count in result.tokens.items():
            generation = self._live.get(id_)
            if generation is None:  # aborted while its step was computed
                continue
            generated += count
            self._count(generation, count, now)
            if generation.streamed and generation.tokens < generation.request.output_tokens:
                generation.wake()
        metrics.generation_tokens.inc(generated)
        for id_ in result.finished:
            generation = self._live.pop(id_, None)
            if generation is not None:
                self._finish(generation, now)
        self._note_drained()
        self._next_step()

    def _count(self, generation: Generation, count: int, now: float) -> None:
        metrics = self.metrics
        if generation.first:
            for _ in range(count):
                metrics.inter_token.observe((now - generation.last) / count)
        else:
            generation.first = now
            request = generation.request
            metrics.ttft.observe(now - generation.arrived)
            metrics.prompt_tokens.inc(request.prompt_tokens)
            metrics.by_source["local_compute"].inc(request.prompt_tokens - request.cached_tokens)
            metrics.by_source["local_cache_hit"].inc(request.cached_tokens)
            metrics.cached_by_source["device"].inc(request.cached_tokens)
            metrics.prompt_cached.inc(request.cached_tokens)
        generation.last = now
        generation.tokens += count

    def _finish(self, generation: Generation, now: float) -> None:
        metrics, request = self.metrics, generation.request
        metrics.success["stop" if generation.stops else "length"].inc()
        metrics.e2e.observe(now - generation.arrived)
        metrics.queue.observe(generation.admitted - generation.arrived)
        metrics.inference.observe(now - generation.admitted)
        metrics.prefill.observe(generation.first - generation.admitted)
        metrics.decode.observe(now - generation.first)
        metrics.per_token.observe((now - generation.first) / max(1, generation.tokens - 1))
        metrics.request_prompt.observe(request.prompt_tokens)
        metrics.request_generation.observe(generation.tokens)
        metrics.request_max_generation.observe(generation.tokens)
        metrics.request_preemptions.observe(generation.preemptions)
        metrics.request_computed.observe(request.prompt_tokens - request.cached_tokens)
        generation.finished = True
        generation.wake()

    def _note_drained(self) -> None:
        if not self._live:
            self.drained.set()
