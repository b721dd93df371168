"""One JSON object a line on standard error, from our own code and from libraries alike, with credentials taken out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

# Three shapes: a value under a telling name (in JSON or repr, however often escaped), a scheme before a credential, and keys that
# tell themselves by their prefix (OpenAI and Anthropic, Google, Groq, Hugging Face, GitHub, AWS, any JWT).
_NAME = r"(?:authorization|cookie|api[-_]?key|password|token|secret|access[-_]key)"  # and whatever ends like this
_VALUE = r"""(?:\\.|(?!(?P=quote))[^\\])+"""
_SCHEME = r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"
_PREFIXED = (
    r"\b(?:sk-[\w-]{8,}|AIza[\w-]{30,}|gsk_\w{8,}|hf_[A-Za-z0-9]{8,}|gh[pousr]_\w{8,}|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_IS_NAME = re.compile(rf".*{_NAME}", re.IGNORECASE)
_IN_NAMED = re.compile(rf"""({_NAME}\\*["']\s*:\s*\\*(?P<quote>["'])){_VALUE}""", re.IGNORECASE)
_IN_SCHEME = re.compile(_SCHEME, re.IGNORECASE)
_IN_PREFIXED = re.compile(_PREFIXED)
# Whatever the others would find contains one of these, in lower case and also where JSON has escaped it already. Plain
# searching costs 2 us a line; the expressions would cost 40.
_SUSPECT = (
    *("authorization", "cookie", "api_key", "api-key", "apikey", "password", "secret", "access_key", "access-key"),
    *('token"', "token'", "token\\", "bearer", "basic"),
    *("sk-", "aiza", "gsk_", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "akia", "eyj"),
)


def redact(text: str) -> str:
    """The text without what looks like a credential. For log lines, and for any error text that goes to a client or a status."""
    text = _IN_NAMED.sub(rf"\1{REDACTED}", text)
    text = _IN_SCHEME.sub(rf"\1 {REDACTED}", text)
    return _IN_PREFIXED.sub(REDACTED, text)


def _scrub_all(fields: Mapping[Any, object]) -> dict[str, object]:
    return {redact(str(name)): _scrub(str(name), value) for name, value in fields.items()}


def _scrub(name: str, value: object) -> object:
    match value:
        case bool() | int() | float() | None:
            return value
        case dict():
            return _scrub_all(value)
        case list() | tuple():
            return [_scrub(name, each) for each in value]
        case _:
            return REDACTED if _IS_NAME.fullmatch(name) else redact(str(value))


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Routes structlog and the standard library's logging (kopf's, aiohttp's) to one stream. Call once, at the start.

    Raises ValueError for an unknown level.
    """
    threshold = logging.getLevelNamesMapping().get(level.upper())
    if threshold is None:
        raise ValueError(f"unknown log level {level!r}: use debug, info, warning, error or critical")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:3], structlog.stdlib.PositionalArgumentsFormatter(), *shared[3:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)


def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """The last processor: one line of JSON. A line in which nothing looks suspect, as in nearly all, costs no more."""
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    fields = {**first, **event}
    line = _line(fields)
    lowered = line.lower()
    return _line(_scrub_all(fields)) if any(word in lowered for word in _SUSPECT) else line


def _line(fields: Mapping[str, object]) -> str:
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a key of some odd type, half a surrogate pair: better ugly than lost
        return orjson.dumps({_ascii(name): _ascii(value) for name, value in fields.items()}).decode()


def _ascii(value: object) -> str:
    return str(value).encode("ascii", "backslashreplace").decode()
