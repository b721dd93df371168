"""What the gateway reads in other people's objects."""

from __future__ import annotations

from typing import Any

from weir.gateway.view import EngineView, decode_engine


def engine(restarts: int, *, ready: bool = True) -> EngineView:
    """As read from a pod whose engine was started again so often."""
    pod: dict[str, Any] = {
        "metadata": {"name": "m-1", "namespace": "space", "uid": "uid", "labels": {"weir.dev/model": "m"}},
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {
            "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "engine", "restartCount": restarts}],
        },
    }
    view = decode_engine(pod)
    assert view is not None
    return view


def test_an_engine_that_was_started_again_is_another_replica() -> None:
    """What the one before it failed may be tried on it, and what ran on the one before it does not count against it."""
    assert engine(0) == engine(0)
    assert engine(0).uid == engine(0, ready=False).uid
    assert engine(0).uid != engine(1).uid
    assert engine(0).key == engine(1).key
