"""The leg to a provider: aiohttp, for its TLS. What leaves the cluster, and what does not, is in `outgoing_body` and `ask`.

| to the provider | |
|---|---|
| `model` | the provider's name for it |
| `stream_options.include_usage` | set for streams; the report is taken out again where the client did not ask for it |
| `max_completion_tokens` (chat), `max_tokens` (completions) | where no limit is left: the client's, else the model's maxOutputTokens |
| `user`, `metadata`, `safety_identifier`, `prompt_cache_key`, `store`; what dropParameters lists | removed |
| headers | content-type, accept and our own authorization; none of the client's |

Back comes the body as it is, under its content type; no other header.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog

from weir.api.frontierprovider import ProviderModel, Timeouts
from weir.gateway.providers import Provider
from weir.gateway.relay import Relay
from weir.gateway.request import OUTPUT_CAPS, InferenceRequest, dumps
from weir.gateway.server import Exchange
from weir.gateway.upstream import Failure
from weir.observability.metrics import version

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 15.0
"""A pooled connection that breaks under a request leaves its outcome unknown, and charged: so they are not kept for long."""

_HEADERS = {
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": f"weir/{version()}",
}


class PrivateAddressError(OSError):
    """A provider's host has an address inside some private network."""


def outgoing_body(request: InferenceRequest, sold: ProviderModel, removed: Collection[str]) -> bytes:
    """The body for the provider. Raises RefusedError where it cannot be written."""
    body: dict[str, Any] = {name: value for name, value in request.parsed().items() if name not in removed}
    body |= {"model": sold.name} | request.metering()
    caps = OUTPUT_CAPS[request.route]
    if all(body.get(name) is None for name in caps):  # the owner may have dropped the one that the client set
        name = next((name for name in caps if name not in removed), caps[0])
        body[name] = request.output_cap or sold.max_output_tokens
    return dumps(body)


def _public_socket(address: Any) -> socket.socket:
    """A socket for an address about to be connected to: what a name resolves to now is what is judged."""
    ip = ipaddress.ip_address(address[4][0].partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
    nat64 = ip in ipaddress.ip_network("64:ff9b::/96") if ip.version == 6 else False
    if not ip.is_global or ip.is_multicast or nat64:
        raise PrivateAddressError(f"{ip} is not a public address; allow it with --allow-private-providers")
    return _any_socket(address)


def _any_socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setblocking(False)
    return made


class Frontier:
    """The HTTP client to all providers. One for the gateway's life, closed at its end."""

    def __init__(self, *, allow_private: bool) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                socket_factory=_any_socket if allow_private else _public_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[trace],
            headers=_HEADERS,
        )

    async def close(self) -> None:
        """Breaks off what is under way."""
        await self._session.close()

    async def ask(
        self, provider: Provider, request: InferenceRequest, body: bytes, exchange: Exchange, relay: Relay
    ) -> bool:
        """Send the request; the answer goes to `relay`, which hears of every failure too.

        False: it failed before anything was sent, so that it cannot cost anything.
        """
        spec = provider.view.spec
        trace = SimpleNamespace(sent=False)
        try:
            async with asyncio.timeout(None) as patience:
                post = self._session.post(
                    spec.base_url + request.route.removeprefix("/v1"),
                    data=body,
                    headers={
                        "authorization": f"Bearer {provider.key}",
                        "accept": "text/event-stream" if request.stream else "application/json",
                    },
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=spec.timeouts.connect.seconds),
                    trace_request_ctx=trace,
                )
                await _relay(post, exchange, relay, _Phases(spec.timeouts, patience, stream=request.stream))
        except TimeoutError:  # aiohttp's own are of this kind too
            if exchange.paused:
                relay.on_failure(Failure.CLIENT, "the client did not read the answer in time")
            else:
                relay.on_failure(Failure.TIMEOUT if trace.sent else Failure.CONNECT, "no answer in time")
        except aiohttp.ClientConnectorError as error:
            relay.on_failure(Failure.CONNECT, str(error))
        except (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            relay.on_failure(Failure.RESET, str(error))
        except aiohttp.ClientError as error:
            relay.on_failure(Failure.MALFORMED, str(error))
        except Exception as error:  # whatever an answer provokes is its provider's failure: the breaker must learn
            log.exception("an answer could not be handled", provider=provider.name)
            relay.on_failure(Failure.MALFORMED, f"{type(error).__name__}: {error}")
        return bool(trace.sent)


class _Phases:
    """Moves the deadline of a request as its answer goes on."""

    def __init__(self, timeouts: Timeouts, patience: asyncio.Timeout, *, stream: bool) -> None:
        self._timeouts = timeouts
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._end = self._began + timeouts.total.seconds
        self._first_token = self._began + timeouts.first_token.seconds if stream else self._end
        self._gap = timeouts.between_events.seconds
        self._until(self._began + timeouts.first_byte.seconds)

    def _until(self, when: float) -> None:
        self._patience.reschedule(min(when, self._end))

    def answering(self, relay: Relay) -> None:
        """A piece of the answer has come. Comments do not put the first token off."""
        gap = self._loop.time() + self._gap
        self._until(min(gap, self._first_token) if relay.first_token_at is None else gap)

    def client_is_slow(self) -> None:
        """Nothing is read: the gap is the client's."""
        self._until(self._end)


async def _relay(post: Any, exchange: Exchange, relay: Relay, phases: _Phases) -> None:
    resumed = asyncio.Event()
    exchange.on_pause = lambda paused: resumed.clear() if paused else resumed.set()
    if not exchange.paused:
        resumed.set()
    async with post as answer:
        headers = {name.lower(): value for name, value in answer.raw_headers}
        relay.on_head(answer.status, headers)
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            relay.on_failure(Failure.MALFORMED, f"the answer has an encoding that was not asked for: {encoding!r}")
            return
        phases.answering(relay)
        async for data in answer.content.iter_any():
            relay.on_data(data)
            if relay.ended.done():
                return  # leaving an unread answer closes its connection
            phases.answering(relay)
            if exchange.paused:
                phases.client_is_slow()
                await resumed.wait()
                phases.answering(relay)
    relay.on_end()


async def _note_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.sent = True
