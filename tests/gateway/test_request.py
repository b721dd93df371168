"""What is read of a request, what of it goes to an engine, and what never leaves."""

from __future__ import annotations

import socket
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.api.frontierprovider import FrontierProvider, ProviderModel
from weir.economics.pricing import Usage
from weir.gateway import sse
from weir.gateway.errors import RefusedError
from weir.gateway.frontier import PrivateAddressError, _public_socket, outgoing_body
from weir.gateway.providers import Provider, bound_of
from weir.gateway.request import CHAT, COMPLETIONS, InferenceRequest, parse
from weir.gateway.view import SecretView
from weir.overflow.policy import Reason, Wish

MESSAGES = [{"role": "user", "content": "hé"}]


def chat(**fields: Any) -> InferenceRequest:
    """A chat request."""
    return parse(CHAT, orjson.dumps({"model": "m", "messages": MESSAGES} | fields), {})


REFUSED: dict[str, tuple[str, Any, str | None]] = {
    "no json": (CHAT, b"{", None),
    "not utf-8": (CHAT, b'{"model":"\xff"}', None),
    "no object": (CHAT, b"[]", None),
    "no model": (CHAT, {"messages": MESSAGES}, "model"),
    "an empty model": (CHAT, {"model": "", "messages": MESSAGES}, "model"),
    "no messages": (CHAT, {"model": "m"}, "messages"),
    "messages of text": (CHAT, {"model": "m", "messages": "x"}, "messages"),
    "no prompt": (COMPLETIONS, {"model": "m"}, "prompt"),
    "an empty list of prompts": (COMPLETIONS, {"model": "m", "prompt": []}, "prompt"),
    "too many prompts": (COMPLETIONS, {"model": "m", "prompt": ["x"] * 2049}, "prompt"),
    "a stream of text": (CHAT, {"model": "m", "messages": MESSAGES, "stream": "yes"}, "stream"),
    "a negative cap": (CHAT, {"model": "m", "messages": MESSAGES, "max_tokens": -1}, "max_tokens"),
    "a cap of nothing": (CHAT, {"model": "m", "messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
    "a boolean cap": (
        CHAT,
        {"model": "m", "messages": MESSAGES, "max_completion_tokens": True},
        "max_completion_tokens",
    ),
    "too many choices": (CHAT, {"model": "m", "messages": MESSAGES, "n": 129}, "n"),
    "odd options": (CHAT, {"model": "m", "messages": MESSAGES, "stream_options": []}, "stream_options"),
}


@pytest.mark.parametrize(("route", "body", "param"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(route: str, body: Any, param: str | None) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(route, body if isinstance(body, bytes) else orjson.dumps(body), {})
    assert (refused.value.status, refused.value.param) == (400, param)
    error = orjson.loads(refused.value.body())["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_what_is_read() -> None:
    request = chat(stream=True, n=3, max_tokens=5, max_completion_tokens=7, stream_options={"include_usage": True})
    assert (request.slots, request.choices, request.output_cap, request.wants_usage) == (3, 3, 7, True)
    many = parse(COMPLETIONS, orjson.dumps({"model": "m", "prompt": ["a", "b"], "n": 2}), {})
    assert (many.slots, many.choices, many.stream) == (4, 2, False)
    assert parse(COMPLETIONS, b'{"model":"m","prompt":[1,2,3]}', {}).slots == 1
    assert parse(COMPLETIONS, b'{"model":"m","prompt":""}', {b"x-weir-overflow": b" Never "}).wish is Wish.NEVER


def test_an_engine_gets_the_clients_own_bytes() -> None:
    body = b' { "messages" : [{"role":"user","content":"\\u00e9"}], "model":"m", "temperature": 1.0e0 }'
    request = parse(CHAT, body, {})
    assert request.engine_body("m") is body
    assert orjson.loads(request.engine_body("other")) == orjson.loads(body) | {"model": "other"}
    streamed = parse(CHAT, body.replace(b'"model"', b'"stream": true, "model"'), {}).engine_body("m")
    assert streamed.endswith(body[3:].replace(b'"model"', b'"stream": true, "model"'))
    assert orjson.loads(streamed)["stream_options"] == {"include_usage": True}


@given(
    st.dictionaries(st.text(), st.integers(-(2**63), 2**63) | st.text() | st.none(), max_size=4),
    st.none() | st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans()),
    st.booleans(),
)
def test_metering_changes_nothing_else(more: dict[str, Any], options: dict[str, bool] | None, stream: bool) -> None:
    fields = more | {"model": "m", "messages": MESSAGES, "stream": stream, "stream_options": options, "n": 1}
    fields = {k: v for k, v in fields.items() if k not in ("max_tokens", "max_completion_tokens")}
    sent = orjson.loads(chat(**fields).engine_body("m"))
    assert {k: v for k, v in sent.items() if k != "stream_options"} == {
        k: v for k, v in fields.items() if k != "stream_options"
    }
    if stream:
        assert sent["stream_options"] == (options or {}) | {"include_usage": True}
    else:
        assert sent["stream_options"] == options


SOLD = ProviderModel.model_validate(
    {
        "name": "big",
        "contextTokens": 1000,
        "maxOutputTokens": 400,
        "pricing": {"inputUsdPerMTok": "3", "outputUsdPerMTok": "15"},
    }
)


def test_what_leaves() -> None:
    sent = orjson.loads(outgoing_body(chat(user="me", top_k=3, stream=True), SOLD, {"user", "top_k"}))
    assert sent == {
        "model": "big",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 400,
    }
    assert orjson.loads(outgoing_body(chat(max_tokens=9), SOLD, ()))["max_tokens"] == 9
    assert "max_completion_tokens" not in orjson.loads(outgoing_body(chat(max_tokens=9), SOLD, ()))
    completion = parse(COMPLETIONS, b'{"model":"m","prompt":"x"}', {})
    assert orjson.loads(outgoing_body(completion, SOLD, ()))["max_tokens"] == 400


CAPS: dict[str, tuple[str, dict[str, int | None], set[str], dict[str, int | None]]] = {
    "none": (CHAT, {}, set(), {"max_completion_tokens": 400}),
    "null": (CHAT, {"max_tokens": None}, set(), {"max_tokens": None, "max_completion_tokens": 400}),
    "dropped": (CHAT, {"max_tokens": 1}, {"max_tokens"}, {"max_completion_tokens": 1}),
    "the preferred one dropped": (CHAT, {"max_completion_tokens": 2}, {"max_completion_tokens"}, {"max_tokens": 2}),
    "both dropped": (
        CHAT,
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"max_tokens", "max_completion_tokens"},
        {"max_completion_tokens": 2},
    ),
    "dropped on completions": (COMPLETIONS, {"max_tokens": 1}, {"max_tokens"}, {"max_tokens": 1}),
    "another route's": (COMPLETIONS, {"max_completion_tokens": 1}, {"max_completion_tokens"}, {"max_tokens": 400}),
}


@pytest.mark.parametrize(("route", "fields", "removed", "sent"), CAPS.values(), ids=CAPS)
def test_a_cap_leaves_with_every_request_and_the_bound_covers_it(
    route: str, fields: dict[str, int | None], removed: set[str], sent: dict[str, int | None]
) -> None:
    prompt = {"messages": MESSAGES} if route == CHAT else {"prompt": "x"}
    request = parse(route, orjson.dumps({"model": "m"} | prompt | fields), {})
    body = orjson.loads(outgoing_body(request, SOLD, removed))
    assert {name: value for name, value in body.items() if name.startswith("max_")} == sent
    cap = max(value for value in sent.values() if value is not None)
    assert bound_of(SOLD, request) == 3 * (len(request.body) + 64 + 16 * (route == CHAT)) + 15 * cap


def test_a_body_too_deep_to_be_written_is_the_clients_fault() -> None:
    deep = b"[" * 300 + b"]" * 300
    request = parse(CHAT, b'{"model":"m","messages":[{"role":"user","content":"x","z":%b}]}' % deep, {})
    assert request.engine_body("m") is request.body
    with pytest.raises(RefusedError, match="cannot be handed on"):
        outgoing_body(request, SOLD, ())
    with pytest.raises(RefusedError, match="cannot be handed on"):
        request.engine_body("other")


@pytest.mark.parametrize("messages", [None, 5, ["x"]])
def test_completions_have_no_messages(messages: Any) -> None:
    request = parse(COMPLETIONS, orjson.dumps({"model": "m", "prompt": "x", "messages": messages}), {})
    assert request.messages == 0


def test_only_the_bytes_of_a_body_are_kept() -> None:
    """As objects an array of small arrays takes twenty times its bytes."""
    body = b'{"model":"m","messages":[%b{}]}' % (b"[]," * 500_000)
    tracemalloc.start()
    try:
        request = parse(CHAT, body, {})
        assert request.messages == 500_001
        assert tracemalloc.get_traced_memory()[0] < len(body)
    finally:
        tracemalloc.stop()


def test_the_bound_covers_every_choice_at_its_cap() -> None:
    request = chat(n=2, max_tokens=10)
    prompt = len(request.body) + 64 + 16
    assert bound_of(SOLD, request) == prompt * 3 + 2 * 10 * 15
    assert bound_of(SOLD, chat()) > 400 * 15


def provider(base_url: str, hosts: str, key: str = "sk-1") -> Provider:
    """A provider with a key for these hosts."""
    view = FrontierProvider.from_object(
        {
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "baseURL": base_url,
                "credentials": {"secretRef": {"name": "s"}},
                "models": [SOLD.model_dump(by_alias=True)],
                "limits": {"maxConcurrency": 4},
            },
        }
    )
    made = Provider(view)
    made.update(view, SecretView(frozenset(hosts.split(",")), {"api-key": key}))
    return made


@pytest.mark.parametrize(
    ("base_url", "hosts", "may"),
    [
        ("https://api.example.com/v1", "api.example.com", True),
        ("https://API.example.com/v1", "api.example.com", True),
        ("https://api.example.com:8443/v1", "api.example.com", True),
        ("https://api.example.com:8443/v1", "api.example.com:443", False),
        ("https://api.example.com/v1", "api.example.com:443", True),
        ("http://api.example.com/v1", "api.example.com:443", False),
        ("https://evil.com/api.example.com", "api.example.com", False),
        ("https://api.example.com.evil.com/v1", "api.example.com", False),
        ("https://evil-api.example.com/v1", "api.example.com", False),
        ("http://[2001:db8::1]:80/v1", "[2001:db8::1]:80", True),
    ],
)
def test_a_key_goes_only_where_its_secret_says(base_url: str, hosts: str, may: bool) -> None:
    made = provider(base_url, hosts)
    assert (made.key == "sk-1") is may
    assert bool(made.no_key) is not may
    assert made.blocked("big", chat(), 0.0, 1) is (None if may else Reason.PROVIDER_UNAVAILABLE)


@pytest.mark.parametrize(
    "base_url", ["https://h:99999/v1", "https://h:abc/v1", "http://[::1/v1", "http://:80/v1", "https://h:0/v1"]
)
def test_a_base_url_without_host_and_port_gets_no_key(base_url: str) -> None:
    made = provider(base_url, "h,h:99999,[::1,,:80,h:443")
    assert (made.key, made.no_key) == ("", "baseURL has no valid host and port")


def test_a_key_of_two_lines_is_none() -> None:
    assert not provider("https://a.b/v1", "a.b", "sk-1\r\nx-evil: 1").key
    assert provider("https://a.b/v1", "a.b", " sk-1\n").key == "sk-1"


def test_why_a_provider_cannot_take_a_request() -> None:
    made = provider("https://a.b/v1", "a.b")
    assert made.blocked("small", chat(), 0.0, 1) is Reason.PROVIDER_MISSING
    assert made.blocked("big", chat(user="x" * 4100), 0.0, 1) is Reason.CONTEXT_TOO_LONG
    made.in_flight = 2
    assert made.blocked("big", chat(), 0.0, 1) is None
    assert made.blocked("big", chat(), 0.0, 2) is Reason.PROVIDER_BUSY, "two gateways share four"
    made.breaker.full(0.0, 1.0, probe=False)
    assert made.blocked("big", chat(), 0.5, 1) is Reason.PROVIDER_BUSY
    assert made.blocked("big", chat(), 1.5, 1) is None


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("255.255.255.255", "::1", "::", "fe80::1%2", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::"),
    ],
)
def test_private_addresses_are_no_providers(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(PrivateAddressError):
        _public_socket((family, socket.SOCK_STREAM, 6, "", (address, 443)))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _public_socket((family, socket.SOCK_STREAM, 6, "", (address, 443))).close()


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}', Usage(1, 2)),
        (b'{"usage" : {"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}', Usage(9, 2, 4)),
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null}}', Usage(1, 2)),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":5}","usage":{"prompt_tokens":1,"completion_tokens":2}}', Usage(1, 2)),
        (b'{"content":"usage","x":1}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}', None),
        (b'{"usage":{"prompt_tokens":1', None),
        (b"", None),
    ],
)  # fmt: skip
def test_usage_is_found_without_decoding_the_rest(body: bytes, usage: Usage | None) -> None:
    assert sse.find_usage(body) == usage


@given(
    st.lists(st.sampled_from([b"data: a", b": c", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"x"]), max_size=12),
    st.integers(1, 40),
)
def test_events_and_the_rest_are_all_there_is(parts: list[bytes], size: int) -> None:
    buffer, rest, found = b"".join(parts), bytearray(), []
    for start in range(0, len(buffer), size):
        found += sse.split(rest, buffer[start : start + size])
    assert b"".join(found) + rest == buffer
    assert all(event.endswith((b"\n\n", b"\n\r\n")) for event in found)
    assert not any(end in rest for end in (b"\n\n", b"\n\r\n"))
