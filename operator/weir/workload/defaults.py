"""What the operator's own configuration adds to every ModelDeployment, and how it refuses one. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkloadDefaults:
    """The part of the operator's configuration that shapes pods."""

    engine_image: str
    """For a spec without engine.image. Pinned: a tag that moves would give replicas of one revision different engines."""
    allow_host_paths: bool = False
    """Whether pods may mount folders of their node. Whoever may write a ModelDeployment then reads the node's files."""


class Refused(Exception):  # noqa: N818 - it says what happened
    """The spec asks for what this operator does not do. `reason` is a condition's, the text says what to change."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
