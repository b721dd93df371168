"""What the request reader takes and what it refuses, however the bytes are cut."""

import pytest

from weir.gateway.http1 import Limits, Refusal, Request, RequestReader

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"


def read(data: bytes, pieces: int = 0, limits: Limits | None = None) -> list[Request | Refusal]:
    """What the reader made of the bytes, fed `pieces` at a time (0: all at once)."""
    reader = RequestReader(limits or Limits())
    for start in range(0, len(data), pieces or len(data)):
        reader.feed(data[start : start + (pieces or len(data))])
    return list(reader.ready)


REFUSED = {
    "content-length with transfer-encoding": (
        400,
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "transfer-encoding with content-length": (
        400,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    "conflicting content-length": (400, HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "repeated content-length": (400, HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    "list of content-length": (400, HEAD + b"Content-Length: 1, 1\r\n\r\na"),
    "signed content-length": (400, HEAD + b"Content-Length: +1\r\n\r\na"),
    "hex content-length": (400, HEAD + b"Content-Length: 0x1\r\n\r\na"),
    "empty content-length": (400, HEAD + b"Content-Length:\r\n\r\n"),
    "gzip, chunked": (400, HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, HEAD + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunked with a twist": (400, HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "transfer-encoding on 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "empty host": (400, b"GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    "NUL in a value": (400, HEAD + b"X: a\0b\r\n\r\n"),
    "CR in a value": (400, HEAD + b"X: a\rb\r\n\r\n"),
    "LF as line end": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "LF between headers": (400, HEAD + b"X: a\nY: b\r\n\r\n"),
    "folded header": (400, HEAD + b"X: a\r\n b\r\n\r\n"),
    "space before the colon": (400, HEAD + b"X : a\r\n\r\n"),
    "websocket": (400, HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    "h2c with a body": (400, HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 40\r\n\r\n" + HEAD),
    "connect": (400, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "http/2 by prior knowledge": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "http/2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "http/0.9": (505, b"GET /\r\n\r\n"),
    "unknown expectation": (417, HEAD + b"Expect: tea\r\nContent-Length: 1\r\n\r\na"),
    "unknown method": (400, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target without a path": (400, b"GET host HTTP/1.1\r\nHost: a\r\n\r\n"),
    "chunk size with a sign": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n"),
    "chunk size with LF": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"),
    "chunk size too large": (400, HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n"),
    "101 headers": (431, HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(101)) + b"\r\n"),
    "a header of 40 KB": (431, HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n"),
    "a target of 40 KB": (431, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("pieces", [0, 1, 7], ids=["whole", "bytewise", "by sevens"])
@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_else_is_read(status: int, data: bytes, pieces: int) -> None:
    (found,) = read(data + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", pieces)
    assert isinstance(found, Refusal)
    assert found.status == status


def test_a_header_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    reader = RequestReader(Limits())
    reader.feed(HEAD + b"X: ")
    for _ in range(5):
        reader.feed(b"a" * 10_000)
    assert reader.done
    assert isinstance(reader.ready[0], Refusal)
    assert reader.ready[0].status == 431


@pytest.mark.parametrize("trailer", [b"a" * 10_000, b"X: y\r\n" * 100], ids=["one without end", "many"])
@pytest.mark.parametrize("body", [b"", b"3\r\nabc\r\n"], ids=["no body", "a body"])
def test_trailers_have_the_limits_of_a_head(trailer: bytes, body: bytes) -> None:
    reader = RequestReader(Limits())
    reader.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\nX: ")
    for _ in range(5):
        reader.feed(trailer)
    (found,) = reader.ready
    assert isinstance(found, Refusal)
    assert found.status == 431


def test_a_body_in_pieces_may_be_larger_than_a_head() -> None:
    """Also where every chunk's size comes apart from its bytes."""
    reader = RequestReader(Limits(head_bytes=100))
    reader.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        reader.feed(b"1;size=one\r\n")
        reader.feed(b"x\r\n")
    reader.feed(b"0\r\n\r\n")
    (found,) = reader.ready
    assert isinstance(found, Request)
    assert found.body == b"x" * 200


@pytest.mark.parametrize("pieces", [0, 1, 7], ids=["whole", "bytewise", "by sevens"])
def test_pipelined_requests_come_out_in_order(pieces: int) -> None:
    data = (
        HEAD + b"Content-Length: 5\r\n\r\nfirst"
        + HEAD + b"Transfer-Encoding: Chunked\r\n\r\n3;ext=1\r\nsec\r\n3\r\nond\r\n0\r\nHost: trailer\r\n\r\n"
        + b"\r\nGET http://elsewhere/third?x=1 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
        + b"GET /fourth HTTP/1.0\r\n\r\n"
    )  # fmt: skip
    first, second, third, fourth = (item for item in read(data, pieces) if isinstance(item, Request))
    assert (first.body, second.body) == (b"first", b"second")
    assert second.headers[b"host"] == b"gateway", "a trailer is no header"
    assert (third.path, third.headers[b"x-a"]) == (b"/third?x=1", b"1, 2")
    assert (fourth.path, fourth.http10, fourth.keep_alive) == (b"/fourth", True, False)


def test_nothing_is_read_after_connection_close() -> None:
    data = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert len(read(data + data)) == 1
    assert len(read(data + data, 1)) == 1


@pytest.mark.parametrize("size", [100, 101])
@pytest.mark.parametrize("framing", ["length", "one chunk", "single bytes"])
def test_the_body_limit_is_exact(size: int, framing: str) -> None:
    body = b"x" * size
    data = (
        HEAD
        + {
            "length": b"Content-Length: %d\r\n\r\n%b" % (size, body),
            "one chunk": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body),
            "single bytes": b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * size + b"0\r\n\r\n",
        }[framing]
    )
    (found,) = read(data, limits=Limits(body_bytes=100))
    if size == 100:
        assert isinstance(found, Request)
        assert found.body == body
    else:
        assert isinstance(found, Refusal)
        assert found.status == 413


def test_a_declared_length_over_the_limit_is_refused_before_the_body_comes() -> None:
    (found,) = read(HEAD + b"Expect: 100-continue\r\nContent-Length: 101\r\n\r\n", limits=Limits(body_bytes=100))
    assert isinstance(found, Refusal)
    assert found.status == 413


def test_expect_100_continue_is_known_until_the_body_begins() -> None:
    reader = RequestReader(Limits())
    reader.feed(HEAD + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.wants_continue
    reader.feed(b"a")
    assert not reader.wants_continue
