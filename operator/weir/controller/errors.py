"""Why a reconcile stopped short, as exceptions that say what happens next. Anything else that is raised is retried with backoff."""
# ruff: noqa: N818 - they are called what they say

from __future__ import annotations

RECHECK_SECONDS = 30.0


class Stalled(Exception):
    """Somebody must change something: condition Stalled. Looked at again when the object changes, and after `recheck` seconds,
    because what is in the way may be no object that is watched."""

    def __init__(self, reason: str, message: str, recheck: float = RECHECK_SECONDS) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.recheck = recheck


class Waiting(Exception):
    """Something must happen first that happens by itself: condition Reconciling. Looked at again after `after` seconds."""

    def __init__(self, reason: str, message: str, after: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.after = after
