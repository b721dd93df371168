import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import tokens
from engines.faults import Fault, FaultPlan

KINDS = ("hang", "slow")


def strikes(plan: FaultPlan, requests: int) -> list[bool]:
    return [plan.next() is not None for _ in range(requests)]


def test_no_fault_never_strikes() -> None:
    assert strikes(FaultPlan(Fault.parse({}, KINDS)), 3) == [False] * 3


def test_a_fault_lets_some_pass_and_ends() -> None:
    plan = FaultPlan(Fault.parse({"kind": "hang", "after": 2, "times": 1}, KINDS))
    assert strikes(plan, 4) == [False, False, True, False]
    plan.set(Fault("hang", after=1))
    assert strikes(plan, 2) == [False, True]


def test_chance_repeats_itself_with_its_seed() -> None:
    fault = Fault.parse({"kind": "hang", "probability": "0.3", "seed": 7}, KINDS)
    first, second = strikes(FaultPlan(fault), 1000), strikes(FaultPlan(fault), 1000)
    assert first == second
    assert 230 < sum(first) < 370


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "fire"},
        {"kind": "hang", "propability": 1},
        {"kind": "hang", "probability": 1.5},
        {"kind": "hang", "after": -1},
        {"kind": "hang", "times": "often"},
        {"kind": "slow", "factor": 0},
        {"kind": "slow", "tokens": True},
    ],
)
def test_what_is_not_understood_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Fault.parse(wrong, KINDS)


@given(st.text())
def test_tokens_become_their_text_again(text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text
    assert len(tokens.encode(text)) == tokens.count(text)


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 100))
def test_generated_text_counts_what_was_generated(seed: int, start: int, count: int) -> None:
    text = tokens.text(seed, start, count)
    assert tokens.count(text) == count
    assert tokens.text(seed, start, count + 5).startswith(text)
    assert '"' not in text
    assert "\\" not in text


def test_prefix_cache_knows_whole_blocks_and_forgets_the_oldest() -> None:
    cache = tokens.PrefixCache(blocks=4, block=4)  # blocks of 16 bytes
    long = "a" * 16 + "b" * 16 + "c"
    assert cache.lookup(long, None) == 0
    assert cache.lookup(long, None) == 8
    assert cache.lookup(long, "salt") == 0
    assert cache.lookup("a" * 16 + "x" * 16 + "c", None) == 4
    assert cache.lookup("z" * 65, None) == 0  # four blocks: everything else is out
    assert cache.lookup(long, None) == 0


def test_the_last_block_of_a_prompt_is_always_computed() -> None:
    cache = tokens.PrefixCache(blocks=4, block=4)
    assert [cache.lookup("a" * 32, None) for _ in range(2)] == [0, 4]
