"""Each key at most once, never two workers on one key, again after failure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from weir.controller.queue import Work, WorkQueue


@asynccontextmanager
async def running(queue: WorkQueue[str], work: Work[str], workers: int = 4) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work, workers))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(holds: Callable[[], object], seconds: float = 5) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not holds():
        assert loop.time() < deadline
        await asyncio.sleep(0.001)


async def test_what_comes_in_before_work_begins_is_done_once() -> None:
    queue: WorkQueue[str] = WorkQueue("t")
    done: list[str] = []

    async def work(key: str) -> float | None:
        done.append(key)
        return None

    for key in "aabab":
        queue.add(key)
    async with running(queue, work):
        await until(lambda: len(done) == 2)
    assert sorted(done) == ["a", "b"]


async def test_news_during_work_means_once_more_and_never_two_at_once() -> None:
    queue: WorkQueue[str] = WorkQueue("t")
    begun, release, at_work = Counter[str](), asyncio.Event(), Counter[str]()

    async def work(key: str) -> float | None:
        begun[key] += 1
        at_work[key] += 1
        assert at_work[key] == 1
        await release.wait()
        at_work[key] -= 1
        return None

    async with running(queue, work):
        queue.add("a")
        await until(lambda: begun["a"] == 1)
        for _ in range(5):
            queue.add("a")
        queue.add("b")
        await until(lambda: begun["b"] == 1)  # another key is not held up
        release.set()
        await until(lambda: begun["a"] == 2)
        await until(lambda: queue.oldest() == 0)
    assert begun == {"a": 2, "b": 1}


async def test_failures_are_tried_again_until_they_succeed() -> None:
    queue: WorkQueue[str] = WorkQueue("t")
    attempts = 0

    async def work(key: str) -> float | None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RuntimeError("not yet")
        return None

    queue.add("a")
    async with running(queue, work):
        await until(lambda: attempts == 3)


async def test_later_and_the_earlier_of_two_wishes_wins() -> None:
    queue: WorkQueue[str] = WorkQueue("t")
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def work(key: str) -> float | None:
        times.append(loop.time())
        return 0.05 if len(times) == 1 else None  # look again

    begun = loop.time()
    queue.add("a", 0.05)
    queue.add("a", 60)
    async with running(queue, work):
        await until(lambda: len(times) == 2)
    assert times[0] - begun >= 0.05
    assert times[1] - times[0] >= 0.05


async def test_the_oldest_is_known() -> None:
    queue: WorkQueue[str] = WorkQueue("t")
    assert queue.oldest() == 0
    queue.add("a")
    await until(lambda: queue.oldest() > 0)
