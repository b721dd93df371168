"""The simulated engine in this process, on a socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from engines.vllm.arguments import parse
from engines.vllm.server import Server

CHAT = "/v1/chat/completions"
FAST = ("--model=m", "--sim-model=llama-3.1-8b-h100", "--sim-time-scale=20", "--enable-prompt-tokens-details")


class Engine:
    """A server and a client of it."""

    def __init__(self, server: Server, session: ClientSession) -> None:
        self.server = server
        self.session = session

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8, **fields}
        async with self.session.post(CHAT, json=body) as response:
            return response.status, await response.json()

    async def stream(
        self, path: str = CHAT, headers: dict[str, str] | None = None, into: list[Any] | None = None, **fields: Any
    ) -> list[Any]:
        """Events of a stream. Raises aiohttp.ClientError where it is cut; what came before that is in `into`."""
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]}
        body |= {"max_tokens": 8, "stream": True}
        events: list[Any] = [] if into is None else into
        if path != CHAT:
            del body["messages"]
        async with self.session.post(path, json={**body, **fields}, headers=headers) as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    data = line.removeprefix(b"data: ").strip()
                    events.append("[DONE]" if data == b"[DONE]" else json.loads(data))
        return events

    async def fault(self, **fields: Any) -> int:
        async with self.session.post("/sim/fault", json=fields) as response:
            return response.status

    async def metrics(self) -> dict[str, float]:
        async with self.session.get("/metrics") as response:
            text = await response.text()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        own = [s for s in samples if s.name.startswith("vllm:") and not s.name.endswith(("_bucket", "_created"))]
        return {s.name.removeprefix("vllm:") + "".join(_extra(s.labels)): s.value for s in own}


def _extra(labels: dict[str, str]) -> list[str]:
    return [f"{{{value}}}" for key, value in labels.items() if key in ("finished_reason", "reason", "source")]


def text_of(events: list[Any]) -> str:
    return "".join(c["delta"].get("content") or "" for e in events if e != "[DONE]" for c in e.get("choices", []))


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the other side of a socket gets there
            await asyncio.sleep(0.005)


@asynccontextmanager
async def engine(*arguments: str) -> AsyncIterator[Engine]:
    server = Server(parse([*FAST, *arguments]))
    async with TestServer(server.app()) as site:
        await site.start_server(handler_cancellation=True)
        async with ClientSession(site.make_url("/")) as session:
            yield Engine(server, session)


async def test_output_has_exactly_as_many_tokens_as_asked_for_and_is_the_same_each_time() -> None:
    async with engine() as e:
        status, first = await e.chat(max_tokens=33)
        _, second = await e.chat(max_tokens=33)
        streamed = await e.stream(max_tokens=33, stream_options={"include_usage": True})
    assert status == 200
    content = first["choices"][0]["message"]["content"]
    assert len(content) == 33 * 4
    assert first["choices"][0]["finish_reason"] == "length"
    assert second["choices"][0]["message"]["content"] == content == text_of(streamed)
    assert first["usage"]["completion_tokens"] == streamed[-2]["usage"]["completion_tokens"] == 33
    assert streamed[-1] == "[DONE]"


async def test_an_answer_may_end_by_itself_unless_told_otherwise() -> None:
    async with engine() as e:
        _, short = await e.chat(max_tokens=50, sim={"output_tokens": 7})
        _, least = await e.chat(max_tokens=50, sim={"output_tokens": 7}, min_tokens=9)
        _, whole = await e.chat(max_tokens=50, sim={"output_tokens": 7}, ignore_eos=True)
        _, natural = await e.chat(max_tokens=None)
    answers = [
        (a["usage"]["completion_tokens"], a["choices"][0]["finish_reason"]) for a in (short, least, whole, natural)
    ]
    assert answers == [(7, "stop"), (9, "stop"), (50, "length"), (256, "stop")]


async def test_prompt_tokens_come_from_the_text_or_from_the_header() -> None:
    async with engine() as e:
        _, counted = await e.chat()
        told = await e.stream(headers={"x-sim-prompt-tokens": "5000"}, stream_options={"include_usage": True})
        _, metrics = None, await e.metrics()
    prompt = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    assert counted["usage"]["prompt_tokens"] == -(-len(prompt) // 4)
    assert told[-2]["usage"]["prompt_tokens"] == 5000
    assert metrics["prompt_tokens_total"] == 5000 + counted["usage"]["prompt_tokens"]


async def test_choices_are_sequences_of_their_own() -> None:
    async with engine("--max-num-seqs=2") as e:
        events = await e.stream(n=3, max_tokens=5, stream_options={"include_usage": True})
        metrics = await e.metrics()
    texts = ["", "", ""]
    for event in events[:-2]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert [len(text) for text in texts] == [20, 20, 20]
    assert len(set(texts)) == 3
    assert events[-2]["usage"]["completion_tokens"] == 15
    assert metrics["generation_tokens_total"] == 15


async def test_a_prompt_seen_before_is_cached_unless_salted() -> None:
    async with engine() as e:
        content = [{"role": "user", "content": "x" * 1000}]
        first = (await e.chat(messages=content))[1]["usage"]
        again = (await e.chat(messages=content))[1]["usage"]
        salted = (await e.chat(messages=content, cache_salt="s"))[1]["usage"]
        metrics = await e.metrics()
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert 240 <= again["prompt_tokens_details"]["cached_tokens"] < again["prompt_tokens"]
    assert salted["prompt_tokens_details"]["cached_tokens"] == 0
    assert metrics["prefix_cache_hits_total"] == again["prompt_tokens_details"]["cached_tokens"]
    assert metrics["prefix_cache_queries_total"] == 3 * first["prompt_tokens"]


async def test_gauges_rise_with_the_load_and_fall_with_it() -> None:
    async with engine("--max-num-seqs=2", "--sim-fault=slow", "--sim-fault-factor=50") as e:
        streams = [asyncio.create_task(e.stream(max_tokens=1000)) for _ in range(3)]

        async def loaded() -> bool:
            metrics = await e.metrics()
            return (metrics["num_requests_running"], metrics["num_requests_waiting"]) == (2, 1)

        await until("two run and one waits", loaded)
        metrics = await e.metrics()
        assert metrics["num_requests_waiting_by_reason{capacity}"] == 1
        assert 0 < metrics["kv_cache_usage_perc"] < 1
        assert await e.fault(kind="none") == 200
        assert [len(text_of(events)) for events in await asyncio.gather(*streams)] == [4000] * 3
        metrics = await e.metrics()
    assert metrics["num_requests_running"] == metrics["num_requests_waiting"] == metrics["kv_cache_usage_perc"] == 0
    assert metrics["request_success_total{length}"] == 3
    assert metrics["time_to_first_token_seconds_count"] == metrics["e2e_request_latency_seconds_count"] == 3
    assert metrics["inter_token_latency_seconds_count"] == 3 * 999


async def test_a_full_cache_preempts_and_everyone_still_finishes() -> None:
    async with engine("--sim-kv-tokens=1600", "--max-model-len=1600") as e:
        told = {"x-sim-prompt-tokens": "700"}
        streams = await asyncio.gather(*(e.stream(headers=told, max_tokens=300) for _ in range(3)))
        metrics = await e.metrics()
    assert [len(text_of(events)) for events in streams] == [1200] * 3
    assert metrics["num_preemptions_total"] > 0
    assert metrics["generation_tokens_total"] == 900


async def test_admission_counts_what_runs_and_what_waits_and_choices_as_sequences() -> None:
    async with engine("--max-num-seqs=2", "--max-num-queued-reqs=5", "--sim-fault=slow") as e:
        answers = await asyncio.gather(*(e.chat(max_tokens=40) for _ in range(8)))
        assert sorted(status for status, _ in answers) == [200] * 5 + [503] * 3
        assert (await e.chat(n=6))[0] == 503
        assert (await e.chat(n=5))[0] == 200
        metrics = await e.metrics()
    assert metrics["admission_rejections_total{max_num_queued_reqs}"] == 4


async def test_a_stream_that_is_refused_after_its_status_went_out_says_so_in_its_first_event() -> None:
    """So it goes where others come in between the two checks; and with several prompts, which only the second one counts."""
    async with engine("--max-num-queued-reqs=5") as e:
        events = await e.stream("/v1/completions", prompt=list("abcdef"))
    assert events[0]["error"]["code"] == 503
    assert events[1:] == ["[DONE]"]


async def test_a_client_that_goes_away_frees_its_slot() -> None:
    async with engine("--max-num-seqs=1", "--sim-fault=slow", "--sim-fault-factor=100") as e:
        for path in ("stream", "chat"):
            request = asyncio.create_task(getattr(e, path)(max_tokens=1000))

            async def running() -> bool:
                return e.server.engine.unfinished == 1

            async def free() -> bool:
                return e.server.engine.unfinished == 0

            await until("it runs", running)
            request.cancel()
            await until("it is gone", free)
        metrics = await e.metrics()
    assert metrics["request_success_total{abort}"] == 2
    assert metrics["kv_cache_usage_perc"] == 0


async def test_pace_is_that_of_the_calibrated_gpu() -> None:
    """100 tokens of one stream: 100 steps of 6.4 ms at least. A loaded machine may only be slower."""
    async with engine("--sim-time-scale=1", "--sim-jitter=0") as e:
        start = asyncio.get_running_loop().time()
        await e.stream(max_tokens=100)
        took = asyncio.get_running_loop().time() - start
        timer = e.server.engine._timer
    assert took >= 0.64
    assert timer is None  # idle costs nothing


async def test_hanging_requests_hold_their_slots_until_the_client_leaves() -> None:
    async with engine("--sim-fault=hang", "--sim-fault-times=1") as e:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(e.stream(), 0.2)
        assert len(text_of(await e.stream())) == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_cut_before_the_headers(stream: bool) -> None:
    async with engine("--sim-fault=die-before-headers") as e:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await e.chat(stream=stream)
        assert e.server.engine.unfinished == 0


@pytest.mark.parametrize(("kind", "tokens"), [("die-before-first-token", 0), ("die-mid-stream", 5)])
async def test_a_connection_cut_after_the_headers(kind: str, tokens: int) -> None:
    async with engine() as e:
        assert await e.fault(kind=kind, tokens=5) == 200
        got: list[Any] = []
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await e.stream(max_tokens=100, into=got)
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await e.chat()
        assert e.server.engine.unfinished == 0
    assert len(text_of(got)) == 4 * tokens


async def test_a_dead_engine_is_unhealthy_and_says_500_until_it_is_alive_again() -> None:
    async with engine("--sim-fault=slow", "--sim-fault-factor=100") as e:
        running = asyncio.create_task(e.stream(max_tokens=1000))

        async def started() -> bool:
            return (await e.metrics())["num_requests_running"] == 1

        await until("it runs", started)
        assert await e.fault(kind="dead") == 200
        events = await running
        assert events[-2]["error"]["code"] == 500
        async with e.session.get("/health") as response:
            assert response.status == 503
        assert (await e.chat())[0] == 500
        await e.fault(kind="none")
        assert (await e.chat())[0] == 200


async def test_a_fault_that_is_not_one_is_refused() -> None:
    async with engine() as e:
        assert await e.fault(kind="crash-on-start") == 400
        assert await e.fault(kind="hang", wibble=1) == 400


async def test_comments_keep_an_idle_stream_alive() -> None:
    async with engine("--sse-keep-alive-interval=0.02", "--sim-fault=slow", "--sim-fault-factor=1000") as e:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with e.session.post(CHAT, json=body) as response:
            assert await response.content.readline() == b": keep-alive\n"


async def test_a_pooling_model_embeds_and_does_not_chat() -> None:
    async with engine("--runner=pooling") as e:
        assert (await e.chat())[0] == 404
        async with e.session.post("/v1/embeddings", json={"input": ["a", "b"], "dimensions": 4}) as response:
            answer = await response.json()
    assert [len(item["embedding"]) for item in answer["data"]] == [4, 4]
    assert answer["data"][0]["embedding"] != answer["data"][1]["embedding"]
    assert answer["usage"]["prompt_tokens"] == 2
