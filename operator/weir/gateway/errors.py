"""The gateway's own errors in the shape that OpenAI's clients expect. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass(eq=False)  # not frozen: Python writes a traceback into it
class RefusedError(Exception):
    """What a client is told instead of an answer."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: int | None = None
    """Seconds; None where a retry cannot help."""
    should_retry: bool | None = None
    """False: the SDKs are told not to try again by themselves."""

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> bytes:
        """The JSON of the answer, and of the event inside a stream."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def event(self) -> bytes:
        """The last event of a stream that cannot go on."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Beside content-type and content-length."""
        found = []
        if self.retry_after is not None:
            found.append((b"retry-after", b"%d" % self.retry_after))
        if self.should_retry is False:
            found.append((b"x-should-retry", b"false"))
        return tuple(found)
