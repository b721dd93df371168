"""One JSON object a line on standard error, from our own code and from libraries alike, with credentials taken out."""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

# Three shapes: a value under a telling name (JSON or repr, however often escaped), a scheme before a credential, and
# keys that tell themselves by their prefix (OpenAI and Anthropic, Google, Groq, Hugging Face, GitHub, AWS, a JWT).
_NAMED = re.compile(
    r"""((?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?(?:goog-)?api[-_]?key|(?:access|refresh|id|auth|bearer)[-_]token"""
    r"""|client[-_]secret|secret[-_]access[-_]key|password|token|secret)(\\*["']\s*:\s*\\*["'])[^"'\\]+""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_PREFIXED = re.compile(
    r"\b(?:sk-[\w-]{8,}|AIza[\w-]{30,}|gsk_\w{8,}|hf_[A-Za-z0-9]{8,}|gh[pousr]_\w{8,}|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


def redact(text: str) -> str:
    """The text without what looks like a credential. For log lines, and for any error text that goes to a client or a status."""
    text = _NAMED.sub(rf"\1\2{REDACTED}", text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    return _PREFIXED.sub(REDACTED, text)


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
    """The last processor: one line of JSON, redacted as a whole so that no nesting hides anything."""
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    line = orjson.dumps({**first, **event}, default=str, option=orjson.OPT_NON_STR_KEYS)
    return redact(line.decode())
