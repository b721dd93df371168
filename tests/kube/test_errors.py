"""Every way of refusing becomes the exception that says what to do next."""

from __future__ import annotations

import orjson
import pytest

from weir.kube import errors


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Forbidden),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Expired),
        (410, "Gone", errors.Expired),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ApiError),
    ],
)
def test_a_status_object(status: int, reason: str, kind: type[errors.ApiError]) -> None:
    body = orjson.dumps({"kind": "Status", "code": status, "reason": reason, "message": "why"})
    error = errors.error_from(status, body, {})
    assert type(error) is kind
    assert str(error) == f"{status} {reason}: why"


def test_a_taken_name_is_no_lost_race() -> None:
    assert not issubclass(errors.AlreadyExists, errors.Conflict)


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"[1]", b'"text"'])
def test_what_a_proxy_wrote_is_an_error_all_the_same(body: bytes) -> None:
    error = errors.error_from(502, body, {})
    assert (type(error), error.status, error.reason) == (errors.ApiError, 502, "Unknown")


def test_when_to_come_back_is_read_from_the_header_first() -> None:
    body = orjson.dumps({"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}})
    assert errors.error_from(429, body, {"Retry-After": "3"}).retry_after == 3.0
    assert errors.error_from(429, body, {}).retry_after == 7.0
    assert errors.error_from(429, b"", {"Retry-After": "Fri, 21 Nov 2026 07:28:00 GMT"}).retry_after is None
