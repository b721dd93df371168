"""HTTP to one API server: login, deadlines, retries of reads, errors as exceptions, the server's clock, metrics."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode

import aiohttp
import orjson
import structlog
from yarl import URL

from weir.kube.backoff import Backoff
from weir.kube.clock import ServerClock
from weir.kube.config import ClusterConfig
from weir.kube.errors import ApiError, TooManyRequests, Unreachable, error_from
from weir.kube.resources import Json, Resource
from weir.kube.watch import WatchEvent, events_of
from weir.observability import metrics

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 5.0
READ_ATTEMPTS = 4


@dataclass(frozen=True)
class Call:
    """One request. Empty query values are left out."""

    verb: str
    """Kubernetes' word, for metrics: get, list, watch, create, update, patch, apply, delete."""
    method: str
    resource: Resource
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    content_type: str = "application/json"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """Carries calls to the server of `config`, between `open()` and `close()`."""

    def __init__(self, config: ClusterConfig, user_agent: str) -> None:
        self._config = config
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self.clock = ServerClock()
        self.last_contact = -math.inf
        """Monotonic seconds at which the server last answered anything but a 5xx. -inf: never."""

    def open(self) -> Self:
        # limit=0: every watch holds a connection, and none may wait for another's to end. The server closes what has been
        # idle for 90 s, so let go of it earlier. identity: unzipping costs more than a cluster's network does.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ssl=self._config.ssl or True),
            headers={"User-Agent": self._user_agent, "Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, call: Call, timeout: float) -> Json:
        """The answer, within `timeout` seconds. A GET that broke, or met 429 or 5xx, is sent up to READ_ATTEMPTS times."""
        backoff = Backoff(base=0.2, cap=3.0)
        attempts = READ_ATTEMPTS if call.method == "GET" else 1
        now = asyncio.get_running_loop().time
        deadline = now() + timeout
        while True:
            attempts -= 1
            try:
                async with asyncio.timeout_at(deadline), self._exchange(call) as response:
                    return _object(await response.read())
            except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
                failure: ApiError = _unreachable(call, error)
            except TimeoutError as error:
                raise Unreachable(f"{call}: no answer within {timeout:g} s") from error
            except OSError as error:
                failure = _unreachable(call, error)
            except ApiError as error:
                if not (error.status >= 500 or isinstance(error, TooManyRequests)):
                    raise
                failure = error
            delay = backoff.next(failure.retry_after)
            if not attempts or now() + delay >= deadline:
                raise failure
            metrics.KUBE_RETRIES.labels(call.resource.plural).inc()
            await asyncio.sleep(delay)

    @asynccontextmanager
    async def stream(self, call: Call, silence: float) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """A watch, entered when the server has accepted it. `silence` seconds without a byte raise Unreachable."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(self._exchange(call, timeout))
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                raise _unreachable(call, error) from error
            yield self._events(call, response)

    async def _events(self, call: Call, response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
        try:
            async for event in events_of(response.content, self._touch):
                yield event
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(call, error) from error

    @asynccontextmanager
    async def _exchange(
        self, call: Call, timeout: aiohttp.ClientTimeout | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields a 2xx answer, raises ApiError for any other."""
        if self._session is None:
            raise RuntimeError("KubeClient is used outside its `async with`")
        query = urlencode({name: value for name, value in call.query.items() if value})
        url = URL(f"{self._config.server}{call.path}{'?' if query else ''}{query}", encoded=True)
        headers = {}
        if self._config.token is not None:
            headers["Authorization"] = f"Bearer {self._config.token()}"
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        code, sent = "unreachable", time.monotonic()
        try:
            async with self._session.request(
                call.method,
                url,
                data=None if call.body is None else orjson.dumps(call.body),
                headers=headers,
                timeout=timeout or self._session.timeout,
                allow_redirects=False,  # the token is for this server alone
                server_hostname=self._config.server_hostname,
            ) as response:
                answered, code = time.monotonic(), str(response.status)
                metrics.KUBE_REQUEST_SECONDS.labels(call.verb, call.resource.plural).observe(answered - sent)
                if response.status < 500:  # beyond that it may be a proxy's answer, and a proxy's clock
                    self._touch()
                    self._observe(response.headers.get("Date"), sent, answered)
                if not 200 <= response.status < 300:
                    raise error_from(response.status, await response.read(), response.headers)
                yield response
        finally:
            metrics.KUBE_REQUESTS.labels(call.verb, call.resource.plural, code).inc()

    def _observe(self, date: str | None, sent: float, answered: float) -> None:
        if date is None:
            return
        try:
            self.clock.observe(date, sent, answered)
        except (ValueError, OverflowError):
            log.warning(
                "the API server's Date header is no date, so this answer says nothing about its clock",
                date=date[:64],
                fix="see what proxy between here and the API server writes it",
            )

    def _touch(self) -> None:
        self.last_contact = time.monotonic()


def _object(body: bytes) -> Json:
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise aiohttp.ClientPayloadError("the answer is no JSON object")
    return answer


def _unreachable(call: Call, error: BaseException) -> Unreachable:
    failure = Unreachable(f"{call}: {type(error).__name__}{f': {error}' if str(error) else ''}")
    failure.__cause__ = error
    return failure
