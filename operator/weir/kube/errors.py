"""What the API server can answer instead of an object, as exceptions that say what a caller may do next. Pure."""
# ruff: noqa: N818 - they are called what Kubernetes calls them

from __future__ import annotations

from collections.abc import Mapping

import orjson


class ApiError(Exception):
    """The API server refused. `status` is the HTTP status (0: no answer), `reason` Kubernetes' CamelCase word for it."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asked to wait, or None."""

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


class Unreachable(ApiError):
    """No answer: refused, reset, timed out. Whether a write took effect is unknown: read before writing again."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


class BadRequest(ApiError):
    """400: a value is of the wrong type, or not of its format. Sending it again cannot help."""


class Forbidden(ApiError):
    """401 or 403: the credentials are wrong, or a role is missing. Waiting does not help, a person does."""


class NotFound(ApiError):
    """404: no such object, or no such resource type (a CRD that is not installed)."""


class Conflict(ApiError):
    """409: somebody wrote in between, the uid is another's, or another field manager owns the field. Read again."""


class AlreadyExists(ApiError):
    """409 on create: the name is taken."""


class Expired(ApiError):
    """410: the resource version, or the continue token, is older than what the server remembers. List again."""


class Invalid(ApiError):
    """422: the object breaks its schema or a rule. Sending it again cannot help."""


class TooManyRequests(ApiError):
    """429: the server sheds load; nothing was done. `retry_after` seconds is when to come back."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def error_from(status: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The exception for an HTTP answer. The body is a Kubernetes Status, or whatever a proxy in between wrote."""
    reason, message, seconds = "", "", _seconds(headers.get("Retry-After"))
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        message = body[:200].decode("utf-8", "replace").strip()
    else:
        if isinstance(answer, dict):
            return error_from_status({"code": status, **answer}, retry_after=seconds)
    return _BY_STATUS.get(status, ApiError)(status, reason or "Unknown", message or "no message", seconds)


def error_from_status(answer: Mapping[str, object], retry_after: float | None = None) -> ApiError:
    """The exception for a Kubernetes Status object, as error answers and broken watches carry it."""
    code = answer.get("code")
    status = code if isinstance(code, int) else 500
    reason = str(answer.get("reason") or "Unknown")
    details = answer.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    if retry_after is None and isinstance(seconds, (int, float)) and seconds:
        retry_after = float(seconds)
    kind = AlreadyExists if reason == "AlreadyExists" else _BY_STATUS.get(status, ApiError)
    return kind(status, reason, str(answer.get("message") or "no message"), retry_after)


def _seconds(value: str | None) -> float | None:
    # The API server sends whole seconds; a proxy may send an HTTP date, which is not worth a parser: back off instead.
    return float(value) if value is not None and value.isdecimal() else None
