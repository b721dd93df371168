"""What is sent again, what is not, and when it is given up: against a server on loopback that misbehaves as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from weir.kube.client import KubeClient
from weir.kube.config import ClusterConfig, FileToken
from weir.kube.errors import ApiError, Conflict, TooManyRequests, Unreachable
from weir.kube.reflector import Reflector
from weir.kube.resources import CONFIGMAPS, PODS, Json, Key

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
POD = {"metadata": {"namespace": "a", "name": "p", "resourceVersion": "1"}}


def status(code: int, reason: str, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "code": code, "reason": reason}, status=code, headers=headers)

    return answer


async def good(_: web.Request) -> web.Response:
    return web.json_response(POD)


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    return web.Response()


async def garbage(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


@dataclass
class Server:
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    """Given in turn; the last one for ever."""
    seen: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app, shutdown_timeout=0) as running:
        server.url = str(running.make_url("")).rstrip("/")
        yield server


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[KubeClient]:
    async with KubeClient(ClusterConfig(server.url), timeout=10.0) as client:
        yield client


@pytest.mark.parametrize("trouble", [status(500, "InternalError"), status(429, "TooManyRequests"), reset, garbage])
async def test_a_read_is_sent_again(server: Server, kube: KubeClient, trouble: Answer) -> None:
    server.answers = [trouble, trouble, good]
    assert (await kube.get(PODS, "a", "p"))["metadata"]["name"] == "p"


@pytest.mark.parametrize("trouble", [status(503, "ServiceUnavailable"), status(429, "TooManyRequests"), reset])
async def test_a_write_is_sent_once(server: Server, kube: KubeClient, trouble: Answer) -> None:
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: kube.create(PODS, POD),
        lambda: kube.apply(PODS, POD, field_manager="m"),
        lambda: kube.patch(PODS, "a", "p", {}),
    ]
    for write in writes:
        server.answers, server.seen = [trouble, good], []
        with pytest.raises(ApiError):
            await write()
        assert len(server.seen) == 1


@pytest.mark.parametrize("refusal", [status(404, "NotFound"), status(403, "Forbidden"), status(409, "Conflict")])
async def test_a_refusal_is_final(server: Server, kube: KubeClient, refusal: Answer) -> None:
    server.answers = [refusal, good]
    with pytest.raises(ApiError):
        await kube.get(PODS, "a", "p")
    assert len(server.seen) == 1


async def test_a_read_is_given_up_after_four_attempts(server: Server, kube: KubeClient) -> None:
    server.answers = [status(503, "ServiceUnavailable")]
    with pytest.raises(ApiError, match="503"):
        await kube.get(PODS, "a", "p")
    assert len(server.seen) == 4


async def test_the_server_says_when_to_come_back(server: Server, kube: KubeClient) -> None:
    server.answers = [status(429, "TooManyRequests", **{"Retry-After": "1"}), good]
    began = time.monotonic()
    await kube.get(PODS, "a", "p")
    assert time.monotonic() - began >= 1.0


async def test_no_attempt_begins_that_the_deadline_does_not_allow(server: Server, kube: KubeClient) -> None:
    server.answers = [status(429, "TooManyRequests", **{"Retry-After": "2"})]
    began = time.monotonic()
    with pytest.raises(TooManyRequests) as refused:
        await kube.get(PODS, "a", "p", timeout=1.0)
    assert (refused.value.retry_after, len(server.seen)) == (2.0, 1)
    assert time.monotonic() - began < 1.0


async def test_one_deadline_holds_for_all_attempts(server: Server, kube: KubeClient) -> None:
    server.answers = [reset, hang]
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"GET .*/pods/p: no answer within 0.5 s"):
        await kube.get(PODS, "a", "p", timeout=0.5)
    assert 0.5 <= time.monotonic() - began < 2.0


async def test_nobody_listens() -> None:
    async with KubeClient(ClusterConfig("http://127.0.0.1:1")) as kube:
        with pytest.raises(Unreachable, match="Connect"):
            await kube.create(PODS, POD)
        assert kube.last_contact == float("-inf")
        with pytest.raises(LookupError):
            kube.server_now()


async def test_an_error_of_the_consumer_stays_its_own(server: Server, kube: KubeClient) -> None:
    """A TimeoutError raised while handling events is a bug to see, not a sign that the server is out of reach."""

    async def quiet(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"2"}}}\n')
        await asyncio.sleep(3600)
        return response

    server.answers = [quiet]

    async def consume() -> None:
        async with kube.watch(PODS, "a", resource_version="1") as events:
            async for _ in events:
                raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await consume()


LIST = b'{"metadata":{"resourceVersion":"1"},"items":[%b]}'
ODD_LISTS = {
    "nothing": b"{}",
    "an array": b"[]",
    "items of another shape": LIST.replace(b"[%b]", b'{"a":1}'),
    "null among the items": LIST % b"null",
    "no version": LIST % b'{"metadata":{"name":"a"}}',
    "no name": LIST % b'{"metadata":{"resourceVersion":"1"}}',
    "a name of another type": LIST % b'{"metadata":{"name":[],"resourceVersion":"1"}}',
}
ODD_LINES = {
    "nothing": b"{}",
    "an array": b"[1]",
    "no object": b'{"type":"ADDED"}',
    "an object without a name": b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"2"}}}',
    "a bookmark without a version": b'{"type":"BOOKMARK","object":{"metadata":{}}}',
    "an unknown type": b'{"type":["ADDED"],"object":{"metadata":{"name":"a","resourceVersion":"2"}}}',
    "an error without a status": b'{"type":"ERROR","object":null}',
    "an error with an odd status": b'{"type":"ERROR","object":{"code":"x","details":{"retryAfterSeconds":"soon"}}}',
}


def served(listing: bytes, line: bytes = b"") -> Answer:
    """A list, and a watch of one line."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.Response(body=listing, content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(line + b"\n" if line else b"")
        await asyncio.sleep(3600)
        return response

    return answer


@pytest.mark.parametrize("listing", ODD_LISTS.values(), ids=ODD_LISTS)
async def test_an_odd_list_is_no_answer(server: Server, kube: KubeClient, listing: bytes) -> None:
    server.answers = [served(listing)]
    with pytest.raises(Unreachable):
        await kube.list(PODS, "a")


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=ODD_LINES)
async def test_an_odd_line_of_a_watch_breaks_it_off(server: Server, kube: KubeClient, line: bytes) -> None:
    server.answers = [served(b"", line)]
    async with kube.watch(PODS, "a", resource_version="1") as events, asyncio.timeout(5):
        with pytest.raises(ApiError):
            await anext(events)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"metadata":{"name":"p"}}'])
async def test_an_odd_object_is_no_answer(server: Server, kube: KubeClient, body: bytes) -> None:
    server.answers = [served(body)]
    with pytest.raises(Unreachable):
        await kube.get(PODS, "a", "p", timeout=1)
    with pytest.raises(Unreachable):
        await kube.update(PODS, POD)


async def test_a_date_that_is_none_says_nothing_about_the_clock(server: Server, kube: KubeClient) -> None:
    async def undated(_: web.Request) -> web.Response:
        return web.json_response(POD, headers={"Date": "yesterday"})

    server.answers = [undated]
    assert await kube.get(PODS, "a", "p") == POD
    with pytest.raises(LookupError):
        kube.server_now()


async def test_a_reflector_outlives_odd_answers(server: Server, kube: KubeClient) -> None:
    pod = b'{"metadata":{"namespace":"a","name":"p","resourceVersion":"1"}}'

    def decode(obj: Json) -> str:
        return str(obj["metadata"]["name"])

    good_list = served(LIST % pod)
    server.answers = [served(ODD_LISTS["no version"]), served(LIST % b""), served(b"", b"[1]"), good_list]
    seen = asyncio.Event()
    reflector = Reflector(kube, PODS, decode, on_change=lambda key, new, old: seen.set())
    task = asyncio.create_task(reflector.run())
    waiting = asyncio.create_task(seen.wait())
    await asyncio.wait({task, waiting}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task
    task.cancel()
    waiting.cancel()
    assert dict(reflector.store) == {Key("a", "p"): "p"}


async def test_pages_that_outlive_the_servers_memory_are_read_again_as_one(server: Server, kube: KubeClient) -> None:
    async def page(request: web.Request) -> web.Response:
        metadata = {"resourceVersion": "1"}
        if "continue" in request.query:
            return web.json_response({"code": 410, "reason": "Expired"}, status=410)
        if "limit" in request.query:
            return web.json_response({"metadata": metadata | {"continue": "x"}, "items": [POD]})
        return web.json_response({"metadata": metadata | {"resourceVersion": "2"}, "items": [POD, POD]})

    server.answers = [page]
    listing = await kube.list(PODS, "a", page_size=1)
    assert (len(listing.items), listing.resource_version) == (2, "2")


async def test_every_request_carries_the_token_of_that_moment(server: Server, tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "token"
    path.write_text("old")
    config = ClusterConfig(server.url, token=FileToken(path, clock=lambda: now))
    server.answers = [good]
    async with KubeClient(config) as kube:
        await kube.get(PODS, "a", "p")
        path.write_text("new")
        now = 3600.0
        await kube.get(PODS, "a", "p")
    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer old", "Bearer new"]


async def test_the_token_is_not_sent_where_a_redirect_points(server: Server, kube: KubeClient) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    server.answers = [elsewhere]
    with pytest.raises(ApiError, match="302"):
        await kube.get(PODS, "a", "p")
    assert len(server.seen) == 1


async def test_an_update_without_a_version_is_refused_before_it_is_sent(server: Server, kube: KubeClient) -> None:
    server.answers = [status(409, "Conflict")]
    with pytest.raises(ValueError, match="resourceVersion"):
        await kube.update(CONFIGMAPS, {"metadata": {"namespace": "a", "name": "c"}})
    assert server.seen == []
    with pytest.raises(Conflict):
        await kube.update(PODS, POD)
