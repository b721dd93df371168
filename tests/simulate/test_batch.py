from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.simulate.batch import Batch, Request, StepResult
from weir.simulate.step_model import StepModel

MODEL = StepModel(a_ms=10, b_us=100, p_us=50, g_ns=1000, kv_tokens=1600, max_batched_tokens=100)  # 100 blocks of 16


def run(batch: Batch, at_most: float = 0.0) -> tuple[float, dict[str, int], list[StepResult]]:
    seconds = 0.0
    tokens: dict[str, int] = {}
    results: list[StepResult] = []
    while batch.busy:
        result = batch.step(at_most)
        seconds += result.seconds
        for id_, count in result.tokens.items():
            tokens[id_] = tokens.get(id_, 0) + count
        results.append(result)
    return seconds, tokens, results


def test_one_request_takes_its_prompt_in_chunks_and_then_a_step_a_token() -> None:
    batch = Batch(MODEL, 8)
    batch.add(Request("a", prompt_tokens=250, output_tokens=3))
    seconds, tokens, results = run(batch)
    assert [r.prompt_tokens for r in results] == [100, 100, 50, 0, 0]
    assert [r.tokens.get("a", 0) for r in results] == [0, 0, 1, 1, 1]
    assert results[-1].finished == ("a",)
    assert tokens == {"a": 3}
    # 5 steps of 10.1 ms, 250 prompt tokens of 50 us, and 100 + 200 + 250 + 251 + 252 tokens read at 1 us
    assert seconds == pytest.approx(5 * 0.0101 + 250 * 50e-6 + 1053 * 1e-6)


def test_decoding_goes_before_prompts_and_prompts_share_what_is_left() -> None:
    batch = Batch(MODEL, 8)
    batch.add(Request("a", 10, 50))
    batch.step()
    batch.add(Request("b", 150, 1))
    second = batch.step()
    assert second.tokens == {"a": 1}
    assert second.prompt_tokens == 99  # 100 less the token of a


def test_a_cached_prefix_is_not_computed_again() -> None:
    batch = Batch(MODEL, 8)
    batch.add(Request("a", 80, 1, cached_tokens=64))
    assert batch.step().prompt_tokens == 16


def test_more_requests_than_slots_wait_in_order() -> None:
    batch = Batch(MODEL, 2)
    for name in "abc":
        batch.add(Request(name, 10, 2))
    assert batch.step().admitted == ("a", "b")
    assert len(batch.waiting) == 1
    assert batch.step().finished == ("a", "b")
    assert batch.step().admitted == ("c",)


def test_a_full_cache_lets_prompts_wait_and_preempts_the_youngest() -> None:
    batch = Batch(MODEL, 8)
    batch.add(Request("old", 790, 100))
    batch.add(Request("young", 790, 100))
    batch.add(Request("waits", 100, 1))
    seen: list[str] = []
    _, tokens, results = run(batch)
    for result in results:
        seen += result.preempted
    assert set(seen) == {"young"}
    assert tokens == {"old": 100, "young": 100, "waits": 1}
    assert batch.used_blocks == 0
    order = [id_ for result in results for id_ in result.admitted]
    assert order == ["old", "young", "young", "waits"]  # the preempted one is first in line again


def test_a_request_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="exceed"):
        Batch(MODEL, 8).add(Request("a", 1500, 101))


def test_an_aborted_request_gives_everything_back() -> None:
    batch = Batch(MODEL, 1)
    batch.add(Request("a", 50, 10))
    batch.add(Request("b", 50, 10))
    batch.step()
    assert batch.abort("a")
    assert batch.abort("b")
    assert not batch.abort("a")
    assert not batch.busy
    assert batch.used_blocks == 0


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no sequence"):
        Batch(MODEL, 1).step()


def test_steps_that_differ_only_in_their_tokens_are_bundled() -> None:
    batch = Batch(MODEL, 8)
    batch.add(Request("a", 10, 500))
    _, tokens, results = run(batch, at_most=3600)
    assert tokens == {"a": 500}
    assert [r.steps for r in results] == [1, 499]


@dataclass(frozen=True)
class Arrival:
    prompt: int
    output: int
    cached: float


ARRIVALS = st.lists(
    st.builds(Arrival, st.integers(1, 800), st.integers(1, 150), st.floats(0, 0.99)), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=50)
@given(ARRIVALS, st.integers(1, 6))
def test_bundled_steps_end_in_the_same_state_at_the_same_time(arrivals: list[Arrival], slots: int) -> None:
    single, bundled = Batch(MODEL, slots), Batch(MODEL, slots)
    for index, a in enumerate(arrivals):
        request = Request(str(index), a.prompt, a.output, int(a.prompt * a.cached))
        single.add(request)
        bundled.add(request)
    one, many = run(single), run(bundled, at_most=5.0)
    assert many[1] == one[1] == {str(i): a.output for i, a in enumerate(arrivals)}
    assert many[0] == pytest.approx(one[0])
    assert sum(r.steps for r in many[2]) == len(one[2])
    assert [f for r in many[2] for f in r.finished] == [f for r in one[2] for f in r.finished]


@settings(deadline=None, max_examples=50)
@given(ARRIVALS, st.integers(1, 6))
def test_cache_slots_and_budget_are_never_exceeded(arrivals: list[Arrival], slots: int) -> None:
    batch = Batch(MODEL, slots)
    for index, a in enumerate(arrivals):
        batch.add(Request(str(index), a.prompt, a.output, int(a.prompt * a.cached)))
    while batch.busy:
        result = batch.step()
        assert 0 <= batch.used_blocks <= MODEL.kv_blocks
        assert batch.used_blocks == sum(sequence.blocks for sequence in batch.running)
        assert len(batch.running) <= slots
        assert result.prompt_tokens <= MODEL.max_batched_tokens
        assert result.tokens or result.prompt_tokens
        assert result.seconds > 0
