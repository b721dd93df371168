"""The budget holds: against races, crashes, missing books, lost answers and the provider's own bill."""

from __future__ import annotations

import asyncio
import json
import signal
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from testbed.gateway import Running, World, until
from weir.kube.resources import FRONTIERPROVIDERS, MODELDEPLOYMENTS, SPENDLEDGERS

TARGET = {"providerRef": {"name": "p"}, "model": "big"}
OVERFLOW: dict[str, Any] = {"targets": [TARGET], "holdTime": "0s"}
NO_WAIT = {"maxWait": "0s", "coldStartWait": "0s"}


def micros(usd: str) -> int:
    """Of a decimal string of the API."""
    return int(Decimal(usd) * 1_000_000)


async def bill(running: Running, stub: Any) -> int:
    """What the provider wants, micro-dollars."""
    async with running.http.get(f"{stub.url}/bill") as answer:
        return int((await answer.json())["microUsd"])


async def has_model(running: Running) -> bool:
    """The gateway has seen the model."""
    async with running.http.get(f"{running.url}/v1/models/m") as answer:
        return answer.status == 200


async def spent(world: World, book: str) -> int:
    """What the book says is spent for certain."""
    return micros((await world.book(book)).get("spentUsd", "0"))


async def leased(world: World, book: str) -> int:
    """What the book says is given out beyond that."""
    return micros((await world.book(book)).get("leasedUsd", "0"))


async def start(world: World, *, provider_usd: str = "", model_usd: str = "", frontier: tuple[str, ...] = ()) -> Any:
    """A model without replicas, so that all of it spills, and budgets with their books."""
    stub = world.frontier(*frontier)
    spec: dict[str, Any] = {"budget": {"usdPerDay": provider_usd}} if provider_usd else {}
    await world.provider(stub, limits={"maxConcurrency": 1000}, **spec)
    overflow = OVERFLOW | ({"budget": {"usdPerDay": model_usd}} if model_usd else {})
    await world.model(queue=NO_WAIT, overflow=overflow)
    if provider_usd:
        await world.ledger("FrontierProvider", "p")
    if model_usd:
        await world.ledger("ModelDeployment", "m")
    return stub


@pytest.mark.parametrize("gateways", [1, 2])
async def test_two_hundred_at_once_spend_no_more_than_the_budget(world: World, gateways: int) -> None:
    """A request reserves some 3.5 mUSD and costs some 1 mUSD: of 200 about a hundred are within 100 mUSD, and the rest is refused."""
    stub = await start(world, provider_usd="0.1", frontier=("--output-tokens=64",))
    running = [await world.gateway() for _ in range(gateways)]
    for each in running:
        await until("the model", partial(has_model, each))
    answers = await asyncio.gather(*(running[i % gateways].chat(max_tokens=200, stream=i % 2 == 0) for i in range(200)))
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert served
    assert refused
    assert {answer.backend for answer in served} == {"frontier"}
    for answer in refused:
        assert (answer.status, answer.headers["x-weir-reason"]) == (503, "budget-exhausted")
        assert answer.headers["x-should-retry"] == "false"
        assert json.loads(answer.body)["error"]["code"] == "budget_exhausted"
    charged = await bill(running[0], stub)
    assert charged <= 100_000
    assert len(served) >= 20
    await until("the books to be closed", lambda: _settled(world, "frontierprovider.p", charged))
    status = await world.book("frontierprovider.p")
    assert micros(status["budgetUsd"]) == 100_000

    # What was not spent is there again: one after the other they go to the very end.
    for _ in range(200):
        answer = await running[0].chat(max_tokens=10)
        if answer.status != 200:
            break
    assert answer.status == 503
    charged = await bill(running[0], stub)
    assert charged <= 100_000
    bound = 3 * (150 + 64 + 16) + 15 * 10
    assert 100_000 - charged <= bound, "less is left than a request may cost"


async def _settled(world: World, book: str, charged: int) -> bool:
    return await spent(world, book) == charged and await leased(world, book) == 0


async def test_both_budgets_must_hold(world: World) -> None:
    stub = await start(world, provider_usd="5", model_usd="0.003")
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    answers = [await running.chat(max_tokens=50) for _ in range(8)]
    assert answers[0].status == 200
    assert answers[-1].status == 503
    assert answers[-1].headers["x-weir-reason"] == "budget-exhausted"
    charged = await bill(running, stub)
    for book in ("frontierprovider.p", "modeldeployment.m"):
        await until(f"{book} to agree with the bill", partial(_settled, world, book, charged))


@pytest.mark.parametrize("case", ["no book", "another book", "no budget"])
async def test_without_its_book_nothing_is_spent(world: World, case: str) -> None:
    stub = world.frontier()
    await world.provider(stub, budget={"usdPerDay": "5"}) if case != "no budget" else await world.provider(stub)
    await world.model(queue=NO_WAIT, overflow=OVERFLOW)
    if case == "another book":
        await world.ledger("FrontierProvider", "p")
        await world.kube.delete(SPENDLEDGERS, world.namespace, "frontierprovider.p")
        await world.kube.create(
            SPENDLEDGERS,
            {
                "metadata": {"name": "frontierprovider.p", "namespace": world.namespace},
                "spec": {"for": {"kind": "FrontierProvider", "name": "p"}, "window": "Day"},
            },
        )
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    answer = await running.chat()
    if case == "no budget":
        assert answer.status == 200
    else:
        assert (answer.status, answer.headers["x-weir-reason"]) == (503, "budget-exhausted")
        assert await bill(running, stub) == 0


async def test_a_book_that_goes_in_mid_window_takes_the_slices_with_it(world: World) -> None:
    await start(world, provider_usd="5")
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    assert (await running.chat()).status == 200
    await world.kube.delete(SPENDLEDGERS, world.namespace, "frontierprovider.p")

    async def refused() -> bool:
        return (await running.chat()).status == 503

    await until("nothing more to be spent", refused, timeout=2.0)


async def test_idle_money_goes_back_within_two_seconds(world: World) -> None:
    stub = await start(world, provider_usd="10")
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    assert (await running.chat()).status == 200
    assert await leased(world, "frontierprovider.p") > 0
    charged = await bill(running, stub)
    await until("idle money to go back", lambda: _settled(world, "frontierprovider.p", charged), timeout=2.5)


async def test_a_budget_cut_is_heeded(world: World) -> None:
    await start(world, provider_usd="10")
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    assert (await running.chat()).status == 200
    patch = {"spec": {"budget": {"usdPerDay": "0.000001"}}}
    await world.kube.patch(FRONTIERPROVIDERS, world.namespace, "p", patch)

    async def refused() -> bool:
        return (await running.chat()).status == 503

    await until("nothing more to be spent", refused, timeout=2.0)
    patch = {"spec": {"budget": {"usdPerDay": "10"}}}
    await world.kube.patch(FRONTIERPROVIDERS, world.namespace, "p", patch)

    async def served() -> bool:
        return (await running.chat()).status == 200

    await until("the money to be there again", served, timeout=4.0)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_gateway_that_dies_leaves_its_slice_spent_and_one_that_stops_gives_it_back(
    world: World, how: str
) -> None:
    stub = await start(world, provider_usd="10")
    first = await world.process()
    await until("the model", lambda: has_model(first))
    assert (await first.chat()).status == 200
    charged = await bill(first, stub)
    granted = _committed(await world.book("frontierprovider.p"))
    assert granted > charged
    assert first.process is not None
    first.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    code = await asyncio.to_thread(first.process.wait, 20)
    status = await world.book("frontierprovider.p")
    if how == "killed":
        assert (code, _committed(status)) == (-9, granted)
    else:
        assert (code, micros(status["spentUsd"]), micros(status["leasedUsd"])) == (0, charged, 0)
        assert micros(status["settledUsd"]) == charged
        assert not status["holders"]
    second = await world.gateway()
    await until("the model", lambda: has_model(second))
    assert (await second.chat()).status == 200
    again = await bill(second, stub) - charged

    async def counted() -> bool:
        status = await world.book("frontierprovider.p")
        return _committed(status) == (granted if how == "killed" else charged) + again

    await until("both to be counted", counted)


def _committed(status: Any) -> int:
    """What may have been spent at most."""
    return micros(status["spentUsd"]) + micros(status["leasedUsd"])


@pytest.mark.parametrize(
    ("fault", "stream", "over"),
    [
        ("no-usage", True, True),
        ("die-mid-stream", True, True),
        ("die-before-first-token", True, True),
        ("die-before-headers", False, True),
        ("error-500", False, True),
        ("error-503", False, False),
        ("error-429", False, False),
    ],
)
async def test_what_is_not_reported_is_charged_in_full(world: World, fault: str, stream: bool, over: bool) -> None:
    stub = await start(world, provider_usd="10", frontier=(f"--fault={fault}", "--fault-times=1"))
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    await running.chat(stream=stream, max_tokens=100)
    charged = await bill(running, stub)
    counted = await until("the book to say so", lambda: _closed(world)) if over else 0
    status = await world.book("frontierprovider.p")
    assert not micros(status["leasedUsd"]) or not over
    assert counted >= charged
    assert (counted > 15 * 100) is over


async def _closed(world: World) -> int:
    return await spent(world, "frontierprovider.p") if await leased(world, "frontierprovider.p") == 0 else 0


async def test_a_client_that_leaves_a_spilled_stream_pays_its_bound(world: World) -> None:
    stub = await start(world, provider_usd="10", frontier=("--tokens-per-second=20",))
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    task = asyncio.create_task(running.chat(stream=True, max_tokens=60))

    async def streaming() -> bool:
        async with running.http.get(f"{stub.url}/requests") as answer:
            return any(seen["outputTokens"] for seen in (await answer.json())["requests"])

    await until("the stream to flow", streaming)
    task.cancel()

    async def told() -> bool:
        async with running.http.get(f"{stub.url}/requests") as answer:
            return [seen["outcome"] for seen in (await answer.json())["requests"]] == ["client-gone"]

    await until("the provider to be told", told, timeout=1.0)
    counted = await until("the book", lambda: _closed(world))
    assert counted > 15 * 60 > await bill(running, stub) - 3 * 40
    load = (await running.load())["models"][f"{world.namespace}/m"]
    assert load["spilling"] == 0
    assert load["frontierMicroUsd"] == counted


async def test_a_provider_that_fails_is_left_alone_for_a_while(world: World) -> None:
    stub = await start(world, frontier=("--fault=error-500", "--fault-times=5"))
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    reasons = [(await running.chat()).headers["x-weir-reason"] for _ in range(7)]
    assert reasons == ["provider-tried"] * 5 + ["provider-unavailable"] * 2
    labels = f'{{namespace="{world.namespace}",provider="p"}}'
    assert f"weir_provider_breaker_state{labels} 2.0" in await running.metrics()

    async def served() -> bool:
        return (await running.chat()).status == 200

    await until("the probe to close the breaker", served, timeout=10.0)
    assert f"weir_provider_breaker_state{labels} 0.0" in await running.metrics()
    assert await bill(running, stub) > 0


async def test_a_provider_that_is_full_is_asked_again_when_it_said(world: World) -> None:
    stub = await start(world, frontier=("--fault=error-429", "--fault-times=1"))
    await world.kube.patch(
        MODELDEPLOYMENTS, world.namespace, "m", {"spec": {"queue": {"maxWait": "10s", "coldStartWait": "10s"}}}
    )
    running = await world.gateway()
    await until("the model", lambda: has_model(running))
    answer = await running.chat()
    assert (answer.status, answer.backend) == (200, "frontier")
    assert int(answer.headers["x-weir-queue-ms"]) >= 900
    assert f'breaker_state{{namespace="{world.namespace}",provider="p"}} 0.0' in await running.metrics()
    assert await bill(running, stub) > 0
