"""What does not fit leaves, without what is nobody else's business, and costs what the books say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import openai
import pytest

from testbed.cluster import KEY, Answer, ClusterWorld, Frontier, until
from weir.api.quantity import Usd
from weir.kube.resources import FRONTIERPROVIDERS, Json

pytestmark = pytest.mark.timeout(240)
SECRETS_OF_THE_CLIENT = {
    "authorization": "Bearer sk-secret-of-the-client",
    "cookie": "session=cookie-of-the-client",
    "x-tenant": "header-of-the-client",
}


async def settled(world: ClusterWorld, frontier: Frontier, *books: str) -> int:
    """Waits until every book says the same as the provider's bill, with nothing out on lease; micro-dollars."""
    bill, said = 0, []

    async def holds() -> bool:
        nonlocal bill, said
        bill, said = await frontier.bill(), [await world.book(book) for book in books]
        return all(book == (bill, bill) for book in said)

    try:
        await until("the books to be settled", holds, timeout=30)
    except AssertionError as error:
        raise AssertionError(f"{error}: billed {bill}, written (spent, committed) {said}") from error
    return bill


async def test_what_does_not_fit_spills_and_the_books_equal_the_bill(world: ClusterWorld) -> None:
    frontier = await world.frontier("outside", "--ttft=0.05", "--tokens-per-second=500")
    await world.provider("outside", frontier, budget={"usdPerDay": "50"})
    overflow = {
        "targets": [{"providerRef": {"name": "outside"}, "model": "big"}],
        "holdTime": "100ms",
        "budget": {"usdPerDay": "10"},
    }
    await world.model("spills", engine={"maxConcurrency": 2}, overflow=overflow)
    await world.until_ready("spills")
    await world.until_condition("spills", "OverflowAvailable", "True TargetsAvailable")
    asked = (
        world.chat("spills", headers=SECRETS_OF_THE_CLIENT, max_tokens=200, stream=stream, user="user-of-the-client")
        for stream in (True, False) * 6
    )
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers} == {200}
    ways = {(answer.headers["x-weir-backend"], answer.headers["x-weir-reason"]) for answer in answers}
    assert ways == {("local", "slot-free"), ("frontier", "saturated")}
    left = [answer for answer in answers if answer.headers["x-weir-backend"] == "frontier"]
    assert len(left) >= 6  # two slots here, twice as many where both gateways gave away the same two

    seen = await frontier.requests()
    assert len(seen) == len(left)
    for request in seen:
        assert request["headers"]["authorization"] == f"Bearer {KEY}"
        text = json.dumps(request)
        assert "-of-the-client" not in text
        assert "spills" not in text, "the name of the model here"

    bill = await settled(world, frontier, "modeldeployment.spills", "frontierprovider.outside")
    assert bill > 0
    await asyncio.gather(
        until("the model's status", lambda: _is(world.status("spills"), "overflow", bill // 10_000 * 10_000)),
        until("the provider's", lambda: _is(world.status("outside", FRONTIERPROVIDERS), "spend", bill)),
        world.until_condition("spills", "Overflowing", "True Spilling"),
    )


async def _is(status: Awaitable[Json], part: str, micros: int) -> bool:
    """Whether it says that so much was spent today."""
    return Usd((await status)[part].get("usdToday", "0")).micros == micros


async def test_a_budget_runs_out_with_429_and_is_never_exceeded(world: ClusterWorld) -> None:
    """Twenty clients at two gateways race for the last of it; what is left in the end is less than a request may cost."""
    budget = 50_000
    frontier = await world.frontier("thrift", "--ttft=0.02", "--tokens-per-second=2000", "--output-tokens=100")
    await world.provider("thrift", frontier)
    await world.model(
        "thrift",
        engine={"maxConcurrency": 1},
        queue={"maxWait": "200ms"},
        overflow={
            "targets": [{"providerRef": {"name": "thrift"}, "model": "big"}],
            "holdTime": "0s",
            "budget": {"usdPerDay": str(Usd.from_micros(budget))},
        },
    )
    await world.until_ready("thrift")
    await world.until_condition("thrift", "OverflowAvailable", "True TargetsAvailable")
    occupied = asyncio.create_task(world.chat("thrift", max_tokens=20_000, ignore_eos=True, stream=True))
    answers: list[Answer] = []

    async def client() -> None:
        while not answers or answers[-1].status == 200:
            answers.append(await world.chat("thrift", max_tokens=100))

    await until("the only slot to be taken", lambda: _spilled(world))
    await asyncio.gather(*(client() for _ in range(20)))
    refused = [answer for answer in answers if answer.status != 200]
    assert len(answers) - len(refused) > 10
    for answer in refused:
        assert answer.status == 429
        assert json.loads(answer.body)["error"]["code"] == "budget_exhausted"
        assert answer.headers["x-should-retry"] == "false"
    bill = await settled(world, frontier, "modeldeployment.thrift")
    while (await world.chat("thrift", max_tokens=100)).status == 200:  # what settling gave back
        bill = await settled(world, frontier, "modeldeployment.thrift")
    # 100 tokens at 15 USD a million and at most 300 bytes of prompt at 3 USD a million.
    assert budget - 100 * 15 - 300 * 3 < bill <= budget
    await world.until_condition("thrift", "OverflowAvailable", "False BudgetExhausted")
    async with openai.AsyncOpenAI(base_url=f"{world.release.url}/v1", api_key="sk-anything", max_retries=3) as sdk:
        with pytest.raises(openai.RateLimitError, match="budget-exhausted"):
            await sdk.chat.completions.create(model="thrift", messages=[{"role": "user", "content": "?"}])
    occupied.cancel()
    await until("the slot to be free again", lambda: _local(world))
    assert await frontier.bill() <= budget


async def _spilled(world: ClusterWorld) -> bool:
    return (await world.chat("thrift", max_tokens=1)).headers.get("x-weir-backend") == "frontier"


async def _local(world: ClusterWorld) -> bool:
    return (await world.chat("thrift", max_tokens=1)).headers.get("x-weir-backend") == "local"
