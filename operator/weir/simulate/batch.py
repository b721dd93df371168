"""Continuous batching, step by step: who computes what, who waits, who is thrown out. Pure: time is what the steps add up to.

The rules are those of vLLM's scheduler: sequences that run come first, in order of arrival; each gets one token, or a chunk of its prompt;
where the KV cache has no block left, the youngest running sequence is preempted, loses its cache and waits again, first in line; what is
left of the token budget admits waiting sequences, as long as there is a slot and room for the whole prompt.
The simulated engine drives it in real time, the simulator as fast as it can.
"""

from collections import deque
from dataclasses import dataclass, field

from weir.simulate.step_model import StepModel


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate: `output_tokens` after `prompt_tokens`, `cached_tokens` of which need no computing."""

    id: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1 or not 0 <= self.cached_tokens < self.prompt_tokens:
            raise ValueError(f"{self}: needs a prompt and an output, and at least one prompt token to compute")


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step, or a run of like steps, did: `seconds` in all, `steps` of them, new tokens by sequence id."""

    seconds: float
    steps: int
    prompt_tokens: int
    tokens: dict[str, int]
    admitted: tuple[str, ...]
    finished: tuple[str, ...]
    preempted: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Sequence:
    request: Request
    computed: int = 0  # tokens whose keys and values are in the cache
    emitted: int = 0
    blocks: int = 0

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one comes out: 1 while decoding."""
        return self.request.prompt_tokens + self.emitted - self.computed


@dataclass(slots=True)
class Batch:
    """One engine. `add` what arrives, `step` while `busy`; the caller's clock moves by each result's `seconds`."""

    model: StepModel
    max_sequences: int
    running: list[_Sequence] = field(default_factory=list)
    waiting: deque[_Sequence] = field(default_factory=deque)
    used_blocks: int = 0

    def add(self, request: Request) -> None:
        """Queues a request. Raises ValueError where it could never finish: it needs more cache than there is."""
        if request.prompt_tokens + request.output_tokens > self.model.kv_blocks * self.model.block:
            raise ValueError(
                f"{request.id}: {request.prompt_tokens} + {request.output_tokens} tokens exceed the KV cache"
            )
        self.waiting.append(_Sequence(request))

    def abort(self, request_id: str) -> bool:
        """Takes a request out, wherever it is. False if it is not here (any more)."""
        for queue in (self.running, self.waiting):
            for sequence in queue:
                if sequence.request.id == request_id:
                    queue.remove(sequence)
                    self._free(sequence)
                    return True
        return False

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self.used_blocks / self.model.kv_blocks

    def step(self, at_most: float = 0.0) -> StepResult:
        """Computes one step; with `at_most` seconds, as many more as fit in them while nothing changes but the number of tokens.

        Raises RuntimeError when there is nothing to do."""
        if not self.busy:
            raise RuntimeError("no sequence to step")
        budget, preempted, work = self._schedule_running()
        admitted = () if preempted else self._admit(budget, work)
        kv_tokens = sum(seq.computed + count for seq, count in work)
        prompt_tokens = sum(count for seq, count in work if seq.emitted == 0 or seq.missing > 1)
        first = self.model.seconds(len(work), prompt_tokens, kv_tokens)
        alike = prompt_tokens == 0 and not preempted and len(work) == len(self.running)
        more = self._like_steps(first, at_most) if alike else 0
        # each further step reads one more token a sequence: an arithmetic series
        growth = self.model.g_ns * 1e-9 * len(work)
        seconds = (1 + more) * first + growth * more * (more + 1) / 2
        tokens: dict[str, int] = {}
        for seq, count in work:
            comes_out = count == seq.missing
            seq.computed += count + more
            if comes_out:
                seq.emitted += 1 + more
                tokens[seq.request.id] = 1 + more
            if more:
                self._grow(seq, seq.computed)
        return StepResult(seconds, 1 + more, prompt_tokens, tokens, admitted, self._retire(), preempted)

    def _schedule_running(self) -> tuple[int, tuple[str, ...], list[tuple[_Sequence, int]]]:
        budget = self.model.max_batched_tokens
        preempted: list[str] = []
        work: list[tuple[_Sequence, int]] = []
        index = 0
        while index < len(self.running) and budget > 0:
            seq = self.running[index]
            count = min(seq.missing, budget)
            while not self._grow(seq, seq.computed + count):
                victim = self.running.pop()
                self._free(victim)
                victim.computed = 0
                self.waiting.appendleft(victim)
                preempted.append(victim.request.id)
                if victim is seq:
                    return budget, tuple(preempted), work
            work.append((seq, count))
            budget -= count
            index += 1
        return budget, tuple(preempted), work

    def _admit(self, budget: int, work: list[tuple[_Sequence, int]]) -> tuple[str, ...]:
        admitted: list[str] = []
        while self.waiting and budget > 0 and len(self.running) < self.max_sequences:
            seq = self.waiting[0]
            if seq.emitted == 0:
                seq.computed = seq.request.cached_tokens
            if not self._grow(
                seq, seq.computed + seq.missing
            ):  # the whole prompt must fit, or chunks would fight over blocks
                break
            self.waiting.popleft()
            self.running.append(seq)
            admitted.append(seq.request.id)
            count = min(seq.missing, budget)
            work.append((seq, count))
            budget -= count
        return tuple(admitted)

    def _like_steps(self, first: float, at_most: float) -> int:
        """How many more steps like this one fit into `at_most` seconds before a sequence ends or a block may be missing."""
        n = len(self.running)
        until_end = min(seq.request.output_tokens - seq.emitted for seq in self.running) - 1
        until_full = (self.model.kv_blocks - self.used_blocks) // n * self.model.block
        in_time = int(at_most / first) - 1  # a step grows by nanoseconds: close enough
        return max(0, min(until_end, until_full, in_time))

    def _grow(self, seq: _Sequence, tokens: int) -> bool:
        """Gives a sequence the blocks for `tokens`, or nothing."""
        more = -(-tokens // self.model.block) - seq.blocks
        if more > self.model.kv_blocks - self.used_blocks:
            return False
        if more > 0:
            seq.blocks += more
            self.used_blocks += more
        return True

    def _free(self, seq: _Sequence) -> None:
        self.used_blocks -= seq.blocks
        seq.blocks = 0

    def _retire(self) -> tuple[str, ...]:
        done = [seq for seq in self.running if seq.emitted >= seq.request.output_tokens]
        for seq in done:
            self._free(seq)
        if done:
            self.running = [seq for seq in self.running if seq.emitted < seq.request.output_tokens]
        return tuple(seq.request.id for seq in done)
