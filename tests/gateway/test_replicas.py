"""Slots are counted exactly, handed on in order of arrival, and never leak."""

from __future__ import annotations

import asyncio
import random

import pytest

from weir.gateway.replicas import Model, Replica, Slot
from weir.gateway.upstream import EnginePool, Failure


def model(*slots: int) -> Model:
    """A model with replicas of so many slots: a, b, c ..."""
    made = Model("ns/m")
    for uid, count in zip("abcdefgh", slots, strict=False):
        made.replicas[uid] = Replica(uid, f"pod-{uid}", count, EnginePool("127.0.0.1", 1))
    return made


def must(slot: Slot | None) -> Slot:
    """A slot that is there."""
    assert slot is not None
    return slot


async def test_a_replica_is_filled_to_its_slots_and_no_further() -> None:
    made = model(2, 3)
    slots = [made.take(1) for _ in range(6)]
    assert [slot is not None for slot in slots] == [True] * 5 + [False]
    assert {uid: replica.in_flight for uid, replica in made.replicas.items()} == {"a": 2, "b": 3}
    must(slots[0]).release()
    must(slots[0]).release()
    assert made.load.local.level == 4, "a second release does nothing"


async def test_load_is_spread() -> None:
    made = model(100, 100, 100, 100)
    for _ in range(200):
        must(made.take(1))
    counts = [replica.in_flight for replica in made.replicas.values()]
    assert max(counts) - min(counts) <= 8, counts


async def test_what_others_run_counts_too() -> None:
    made = model(4)
    made.replicas["a"].peers_in_flight = 3
    assert made.fits(1)
    assert not made.fits(2)


async def test_a_request_larger_than_a_replica_never_fits() -> None:
    made = model(4, 2)
    assert made.largest() == 4
    assert made.take(5) is None
    must(made.take(4)).release()
    made.replicas["a"].accepting = False
    assert made.largest() == 2


@pytest.mark.parametrize("why", ["not accepting", "avoided", "failed before"])
async def test_where_nothing_is_sent(why: str) -> None:
    made = model(4)
    replica = made.replicas["a"]
    replica.accepting = why != "not accepting"
    replica.avoid_until = made.loop.time() + 60 if why == "avoided" else 0.0
    assert made.take(1, {"a"} if why == "failed before" else ()) is None
    assert made.ready() == (why != "not accepting")


async def test_who_is_suspected() -> None:
    """One that cannot be reached at once; one that answers with errors only after some in a row."""
    made = model(4, 4)
    now = made.loop.time()
    made.replicas["a"].failed(Failure.RESET, now)
    assert not made.replicas["a"].fits(1, now)
    assert made.replicas["a"].fits(1, now + 1.1)
    for _ in range(2):
        made.replicas["b"].failed(Failure.STATUS, now)
    assert made.replicas["b"].fits(1, now)
    made.replicas["b"].failed(Failure.ERROR_EVENT, now)
    assert not made.replicas["b"].fits(1, now)


async def test_who_waits_longest_is_served_first_and_nobody_overtakes() -> None:
    made = model(1)
    running = must(made.take(1))
    order: list[int] = []

    async def wait(number: int) -> None:
        with made.queue(1, ()) as waiter:
            assert waiter.ahead == number
            slot = must(await waiter.wait(5))
        order.append(number)
        slot.release()

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(wait(number)))
        await asyncio.sleep(0)
    assert made.load.queued.level == 5
    running.release()
    assert made.take(1) is None, "it has been handed on already"
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (made.load.local.level, made.load.queued.level, made.queue_length) == (0, 0, 0)


async def test_one_that_avoids_a_replica_holds_nobody_else_up() -> None:
    made = model(1)
    running = must(made.take(1))

    async def wait(avoid: set[str]) -> Slot | None:
        with made.queue(1, avoid) as waiter:
            return await waiter.wait(0.2)

    picky, plain = asyncio.create_task(wait({"a"})), asyncio.create_task(wait(set()))
    await asyncio.sleep(0)
    running.release()
    must(await plain).release()
    assert await picky is None


async def test_no_way_out_of_the_queue_leaks_a_slot() -> None:
    """Granted, timed out and cancelled at random, also in the same turn of the loop."""
    dice = random.Random(7)  # noqa: S311 - a test repeats itself
    made = model(2, 1)

    async def use() -> None:
        slot: Slot | None = None
        try:
            with made.queue(dice.randint(1, 2), ()) as waiter:
                made.wake()
                slot = await waiter.wait(dice.random() * 0.004)
            await asyncio.sleep(dice.random() * 0.002)
        finally:
            if slot is not None:
                slot.release()

    for _ in range(30):
        tasks = [asyncio.create_task(use()) for _ in range(20)]
        for task in tasks:
            if dice.random() < 0.4:
                made.loop.call_later(dice.random() * 0.003, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (made.load.local.level, made.load.queued.level, made.queue_length) == (0, 0, 0)
        assert all(replica.in_flight == 0 for replica in made.replicas.values())


async def test_the_sums_are_exact() -> None:
    made = model(4)
    counters = made.load
    start = made.loop.time()
    counters.local.add(2, start + 1)
    counters.local.add(-1, start + 4)
    counters.queued.add(3, start + 2)
    counters.served(10.0, local=True)
    counters.left(2)
    report = counters.report({"pod-a": 1}, 5, start + 10)
    assert report.local_slot_seconds == pytest.approx(2 * 3 + 1 * 6)
    assert report.queued_slot_seconds == pytest.approx(3 * 8)
    assert report.spilled_work_seconds == pytest.approx(20.0)
    assert (report.mean_service_seconds, report.observed_generation) == (10.0, 5)
