"""One JSON object a line, whoever logs it, and no credential in any of them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from weir.observability.logs import REDACTED, configure_logging, redact, render


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_our_own_lines(stream: io.StringIO) -> None:
    structlog.get_logger("weir.x").info("scaled", model="a/m", replicas=3)
    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("Z")
    assert line == {"level": "info", "event": "scaled", "logger": "weir.x", "model": "a/m", "replicas": 3}


def test_lines_of_libraries(stream: io.StringIO) -> None:
    logging.getLogger("kopf.objects").warning("handler %r failed after %d s", "f", 3)
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "handler 'f' failed after 3 s", "kopf.objects")


def test_a_traceback_stays_on_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("Authorization: Bearer abcdef123456")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("lib").exception("failed")
    for line in lines(stream):
        assert "ValueError: Authorization: Bearer [redacted]" in str(line["exception"])


def test_the_level_holds_for_both(stream: io.StringIO) -> None:
    structlog.get_logger().debug("no")
    logging.getLogger("lib").debug("no")
    assert lines(stream) == []
    configure_logging("debug", stream)
    structlog.get_logger().debug("yes")
    logging.getLogger("lib").debug("yes")
    assert [line["event"] for line in lines(stream)] == ["yes", "yes"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        configure_logging("loud")


def test_what_json_does_not_know_is_logged_all_the_same(stream: io.StringIO) -> None:
    structlog.get_logger().info("odd", value={1: object, "set": {4}})
    structlog.get_logger().info("odder", value={(2, 3): "\ud800"})
    assert [line["event"] for line in lines(stream)] == ["odd", "odder"]


@pytest.mark.parametrize(
    "values",
    [
        {"headers": {"Authorization": "Bearer s3cr3t-s3cr3t", "X-Api-Key": "s3cr3t"}},
        {"headers": [{"proxy-authorization": "s3cr3t"}]},
        {"body": '{"api_key": "s3cr3t", "nested": "{\\"password\\": \\"s3cr3t\\"}"}'},
        {"error": "401 for {'authorization': 'Basic czNjcjN0OnM='}"},
        {"password": """it's "a" s3cr3t""", "after": 1},
        {"hf_token": "s3cr3t", "client_secret": "s3cr3t", "aws_secret_access_key": "s3cr3t", "token": "s3cr3t"},
        {"url": "curl -H 'Authorization: Bearer s3cr3t-s3cr3t'"},
        {"text": "key sk-ant-api03-s3cr3t and sk-proj-s3cr3ts3cr3t and hf_s3cr3ts3cr3t"},
        {"text": "over\nsk-s3cr3ts3cr3t lines, Bearer\ns3cr3ts3cr3t"},
        {"api_keys": {"Api-Key": ["s3cr3t"]}},
        {"text": "jwt eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzM2NyM3QifQ.s3cr3t-s3cr3t"},
    ],
)
def test_credentials_are_taken_out(stream: io.StringIO, values: dict[str, object]) -> None:
    structlog.get_logger().info("request", **values)
    assert len(lines(stream)) == 1
    assert "s3cr3t" not in stream.getvalue()
    assert "czNjcjN0" not in stream.getvalue()
    assert REDACTED in stream.getvalue()


def test_token_counts_and_names_stay() -> None:
    text = '{"prompt_tokens": 12, "max_tokens": 5, "model": "task-skiing-model", "secret_name": "openai", "reason": "token"}'
    assert redact(text) == text


pieces = st.sampled_from(["token", "password", '"', "'", "\\", ":", " ", "\n", "Bearer abcdef", "x", "sk-abcdefghij"])
words = st.lists(pieces).map("".join) | st.text()


@given(st.dictionaries(words, words | st.lists(words) | st.dictionaries(words, words)))
def test_every_line_is_json_with_all_its_fields(fields: dict[str, object]) -> None:
    line = orjson.loads(render(None, "info", dict(fields)))
    assert set(line) == {redact(name) for name in fields}


@given(words, st.sampled_from(["sk-", "Bearer ", '{"token": "', "{'password': '", '{"a": "{\\"x-api-key\\":\\"']))
def test_a_credential_is_found_wherever_it_stands(around: str, before: str) -> None:
    line = render(None, "info", {"a": [{"b": f"{around} {before}s3cr3ts3cr3t"}]})
    assert "s3cr3t" not in line
