"""Reads HTTP/1.1 requests off a byte stream: httptools does the parsing, what it lets through is refused here. No I/O.

httptools (llhttp) is strict about line ends, header characters and Content-Length. It does not limit the head, and takes a missing
or repeated Host, Transfer-Encoding on HTTP/1.0, `gzip, chunked`, HTTP/0.9 and 2.0, and ends a message before its body at
an upgrade, so that reading on would take the body for a request. Trailers come like headers: they are counted, and dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

import httptools


@dataclass(frozen=True)
class Limits:
    """What a client may send."""

    body_bytes: int = 32 * 1024 * 1024
    head_bytes: int = 32 * 1024
    headers: int = 100


class Request:
    """One whole request. Header names are in lower case; of a repeated header the values are joined by a comma."""

    __slots__ = ("body", "headers", "http10", "keep_alive", "method", "path")

    def __init__(
        self, method: bytes, path: bytes, headers: dict[bytes, bytes], *, http10: bool, keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.http10 = http10
        self.keep_alive = keep_alive
        self.body: bytes = b""


@dataclass(frozen=True)
class Refusal:
    """A request that is not read to its end: answered with this, then the connection is closed."""

    status: int
    message: str


class Phase(Enum):
    """How far the request being read has come."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization"})


class RequestReader:
    """Fed with bytes, leaves Requests in `ready`, in order; after a Refusal it reads nothing more.

    Methods named on_* are httptools' callbacks.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.ready: deque[Request | Refusal] = deque()
        self.phase = Phase.IDLE
        self.wants_continue = False
        """The request being read waits for `100 Continue` before it sends its body."""
        self.done = False
        """Nothing more will be read: the last of `ready` is a Refusal or said `Connection: close`."""
        self._advanced = False
        self._unseen = 0
        self._head_bytes = 0
        self._count = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._request: Request | None = None
        self._body: bytes | bytearray = b""

    def feed(self, data: bytes) -> None:
        """Takes what came from the client. Raises nothing: what is wrong becomes a Refusal in `ready`."""
        if self.done:
            return
        self._advanced = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "upgrades (h2c, websocket, CONNECT) are not supported: send plain HTTP/1.1")
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed HTTP request: {error}")
        # A header or trailer that never ends is kept by the parser and seen by no callback: count what was fed to it.
        if self._advanced or self.phase is Phase.IDLE:
            self._unseen = 0
        else:
            self._unseen += len(data)
            if self._unseen > self._limits.head_bytes:
                self._refuse_head()

    def on_message_begin(self) -> None:
        self.phase = Phase.HEAD
        self._advanced = True
        self._head_bytes = self._count = 0
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.head_bytes:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._count > self._limits.headers or self._head_bytes > self._limits.head_bytes:
            self._refuse_head()
        if self.phase is not Phase.HEAD:
            return  # a trailer
        name = name.lower()
        headers = self._headers
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            self._refuse(400, f"the header {name.decode('latin-1')} is given twice")
        else:
            headers[name] = headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        if self.done:
            return
        self._advanced = True
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        if refusal := self._check(version):
            self._refuse(*refusal)
            return
        path = self._url if self._url.startswith(b"/") else _origin_form(self._url)
        self._request = Request(
            parser.get_method(),
            path,
            headers,
            http10=version == "1.0",
            keep_alive=parser.should_keep_alive(),
        )
        self._body = b""
        self.wants_continue = b"expect" in headers and version == "1.1"
        self.phase = Phase.BODY

    def _check(self, version: str) -> tuple[int, str] | None:
        """Why the head is refused: status and message."""
        headers = self._headers
        if version not in ("1.1", "1.0"):
            return 505, "only HTTP/1.1 and HTTP/1.0 are spoken here"
        if self._parser.should_upgrade() or b"upgrade" in headers:
            return 400, "upgrades (h2c, websocket, CONNECT) are not supported: send plain HTTP/1.1"
        if not headers.get(b"host", b"") and (version == "1.1" or b"host" in headers):
            return 400, "the header host is missing"
        if b"transfer-encoding" in headers:
            if version == "1.0":
                return 400, "transfer-encoding is not part of HTTP/1.0"
            if headers[b"transfer-encoding"].lower() != b"chunked":
                return 400, "the only transfer-encoding supported is chunked"
            if b"content-length" in headers:
                return 400, "content-length and transfer-encoding exclude each other"
        if b"expect" in headers and headers[b"expect"].lower() != b"100-continue":
            return 417, "the only expectation supported is 100-continue"
        if not (self._url.startswith((b"/", b"http://", b"https://")) or self._url == b"*"):
            return 400, "the request target must be a path"
        # The parser has checked that it is a number that fits 64 bits.
        if int(headers.get(b"content-length", b"0")) > self._limits.body_bytes:
            return 413, self._too_large()
        return None

    def on_body(self, data: bytes) -> None:
        if self.done:
            return
        self._advanced = True
        self.wants_continue = False
        if not self._body:
            self._body = data
            return
        if isinstance(self._body, bytes):  # not a list of pieces: one-byte chunks would take forty times their size
            self._body = bytearray(self._body)
        self._body += data
        if len(self._body) > self._limits.body_bytes:
            self._refuse(413, self._too_large())

    def on_message_complete(self) -> None:
        if self.done or self._request is None:
            return
        request, self._request = self._request, None
        if len(self._body) > self._limits.body_bytes:  # a single chunk
            self._refuse(413, self._too_large())
            return
        request.body = bytes(self._body)
        self._body = b""
        self.wants_continue = False
        self.phase = Phase.IDLE
        self.ready.append(request)
        self.done = not request.keep_alive

    def refuse(self, status: int, message: str) -> None:
        """Give up on the request being read, for instance because it came too slowly."""
        self._refuse(status, message)

    def _refuse(self, status: int, message: str) -> None:
        if not self.done:
            self.done = True
            self.wants_continue = False
            self._request, self._body, self._headers = None, b"", {}
            self.ready.append(Refusal(status, message))

    def _refuse_head(self) -> None:
        limits = self._limits
        self._refuse(431, f"the head of a request may have {limits.headers} headers and {limits.head_bytes} bytes")

    def _too_large(self) -> str:
        return f"the body of a request may have {self._limits.body_bytes} bytes"


def _origin_form(url: bytes) -> bytes:
    """The path of `http://host/path`, which every server must accept."""
    _, _, rest = url.partition(b"://")
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/" if rest else url
