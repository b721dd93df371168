"""One replica at a time, and never fewer Ready than there could be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.controller.rollout import Size, shares


def size(replicas: int, ready: int | None = None, *, served: bool | None = None) -> Size:
    ready = replicas if ready is None else ready
    return Size(replicas, ready, ready > 0 if served is None else served)


@pytest.mark.parametrize(
    ("strategy", "desired", "new", "olds", "expected"),
    [
        # Surge: one more than desired, an old one goes for each new one Ready.
        ("Surge", 3, size(0), [size(3)], (1, (3,))),
        ("Surge", 3, size(1, 0), [size(3)], (1, (3,))),
        ("Surge", 3, size(1), [size(3)], (2, (2,))),
        ("Surge", 3, size(2, 1), [size(2)], (2, (2,))),
        ("Surge", 3, size(2), [size(2)], (3, (1,))),
        ("Surge", 3, size(3), [size(1)], (3, (0,))),
        # Replace: the old one goes first.
        ("Replace", 3, size(0), [size(3)], (1, (2,))),
        ("Replace", 3, size(1, 0), [size(2)], (1, (2,))),
        ("Replace", 3, size(1), [size(2)], (2, (1,))),
        ("Replace", 1, size(0), [size(1)], (1, (0,))),
        # Nothing to wait for: a first revision, none wanted, old ones that never came up.
        ("Surge", 4, size(0), [], (4, ())),
        ("Surge", 0, size(0), [size(3)], (0, (0,))),
        ("Surge", 3, size(0), [size(3, 0)], (3, (0,))),
        ("Replace", 3, size(1, 0), [size(2, 0), size(0)], (3, (0, 0))),
        # What served once and is not Ready is a moment of sickness, or a restart.
        ("Surge", 3, size(0), [size(3, 0, served=True)], (1, (3,))),
        ("Surge", 1, size(1, 0), [size(1, 0, served=True)], (1, (1,))),
        # Not accepted by the API server yet: all is the old ones', whatever demand does.
        ("Surge", 3, None, [size(3)], (0, (3,))),
        ("Replace", 1, None, [size(1)], (0, (1,))),
        ("Replace", 2, None, [size(1), size(4)], (0, (0, 2))),
        ("Replace", 3, None, [size(3, 0), size(1)], (0, (0, 3))),
        ("Surge", 3, None, [size(3, 0)], (3, (0,))),
        ("Replace", 0, None, [size(3)], (0, (0,))),
        # Demand rises: with the old revision until the new one has shown that it starts, then with the new one.
        ("Surge", 6, size(1, 0), [size(3)], (1, (6,))),
        ("Surge", 6, size(1), [size(3)], (4, (3,))),
        ("Replace", 6, size(1, 0), [size(2)], (1, (5,))),
        ("Replace", 6, size(1), [size(2)], (4, (2,))),
        # Demand falls while the new one starts: the last that serves stays.
        ("Surge", 1, size(1, 0), [size(3)], (1, (1,))),
        ("Replace", 1, size(1, 0), [size(2)], (1, (1,))),
        # Several old revisions: the oldest goes first, the newest grows.
        ("Surge", 3, size(1), [size(1), size(2)], (2, (0, 2))),
        ("Surge", 5, size(1, 0), [size(1), size(2)], (1, (1, 4))),
        # What is Ready stays before what is not, of whichever revision.
        ("Surge", 4, size(0), [size(5), size(2, 1)], (1, (3, 1))),
        ("Surge", 4, size(0), [size(2), size(5, 0, served=True)], (1, (2, 2))),
        # One that is at none does not grow again.
        ("Surge", 3, size(0), [size(1), size(0, served=True)], (1, (3, 0))),
    ],
)
def test_shares(
    strategy: str, desired: int, new: Size | None, olds: list[Size], expected: tuple[int, tuple[int, ...]]
) -> None:
    assert shares(desired, strategy, new, olds) == expected  # type: ignore[arg-type]


strategies = st.sampled_from(["Surge", "Replace"])


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    replicas = draw(st.integers(0, 6))
    ready = draw(st.integers(0, replicas))
    return Size(replicas, ready, ready > 0 or draw(st.booleans()))


@given(strategies, st.integers(0, 8), st.none() | sizes(), st.lists(sizes(), max_size=3))
def test_never_negative_and_never_short(strategy: str, desired: int, new: Size | None, olds: list[Size]) -> None:
    count, counts = shares(desired, strategy, new, olds)  # type: ignore[arg-type]
    assert min(count, *counts, 0) == 0
    assert count <= desired
    assert count + sum(counts) >= desired, "what is wanted is asked for"


@given(strategies, st.integers(0, 8), sizes(), st.lists(sizes(), max_size=3))
def test_looking_twice_asks_for_the_same(strategy: str, desired: int, new: Size, olds: list[Size]) -> None:
    """Nothing got Ready or went in between: a second look, at the counts just asked for, changes nothing more."""
    count, counts = shares(desired, strategy, new, olds)  # type: ignore[arg-type]
    if count > new.replicas:  # the replicas just asked for are not Ready yet
        asked = Size(count, new.ready, new.served)
        left = [Size(n, min(old.ready, n), old.served) for n, old in zip(counts, olds, strict=True)]
        again = shares(desired, strategy, asked, left)  # type: ignore[arg-type]
        assert again == (count, counts)


@settings(max_examples=200)
@given(
    strategy=strategies,
    desired=st.integers(1, 6),
    running=st.integers(1, 6),
    chances=st.lists(st.integers(0, 2), max_size=60),
    broken=st.booleans(),
)
def test_a_rollout_ends_and_keeps_serving(
    strategy: str, desired: int, running: int, chances: list[int], *, broken: bool
) -> None:
    """Whatever the order in which replicas get Ready. A revision that never does leaves the old one as it can."""
    new, old = Size(0, 0, served=False), Size(running, running, served=True)
    for chance in [*chances, *[2] * 40]:
        count, (rest,) = shares(desired, strategy, new, [old])  # type: ignore[arg-type]
        surge = 1 if strategy == "Surge" else 0
        assert count + rest <= max(desired + surge, running + new.replicas), "no more than one spare accelerator"
        ready = 0 if broken else min(count, new.ready + (1 if chance else 0))
        old_ready = min(rest, old.ready + (1 if chance == 2 else 0))
        if strategy == "Surge":
            assert min(new.ready, count) + min(old.ready, rest) >= min(desired, new.ready + old.ready)
        new, old = Size(count, ready, ready > 0), Size(rest, old_ready, served=True)
    if not broken:
        assert (new.replicas, new.ready, old.replicas) == (desired, desired, 0)
    elif strategy == "Surge":
        assert (new.replicas, old.replicas) == (1, desired)
