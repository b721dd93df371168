"""A request leaves only if the provider understands all of it and its cost has a bound."""

from typing import Any

import pytest

from weir.overflow.parameters import spillability
from weir.overflow.policy import Reason

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("route", "body", "reason"),
    [
        (CHAT, {"messages": MESSAGES, "temperature": 0, "tools": []}, None),
        (CHAT, {"messages": MESSAGES, "top_k": 5}, Reason.PARAMETER_NOT_SUPPORTED),
        (CHAT, {"messages": MESSAGES, "top_k": None}, None),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, None),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, Reason.UNBOUNDED_COST),
        (CHAT, {"messages": ["nonsense"]}, Reason.UNBOUNDED_COST),
        (CHAT, {"messages": MESSAGES, "service_tier": "priority"}, Reason.PARAMETER_NOT_SUPPORTED),
        (CHAT, {"messages": MESSAGES, "tools": None}, None),
        (CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}, {"type": "custom"}]}, None),
        (CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}, {"type": "web_search"}]}, Reason.UNBOUNDED_COST),
        (CHAT, {"messages": MESSAGES, "tools": [5]}, Reason.UNBOUNDED_COST),
        (CHAT, {"messages": MESSAGES, "tools": "web_search"}, Reason.UNBOUNDED_COST),
        (COMPLETIONS, {"prompt": "hi"}, None),
        (COMPLETIONS, {"prompt": "hi", "messages": None}, None),
        (COMPLETIONS, {"prompt": "hi", "messages": 5}, Reason.PARAMETER_NOT_SUPPORTED),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, Reason.PARAMETER_NOT_SUPPORTED),
        (COMPLETIONS, {"prompt": "hi", "best_of": 4}, Reason.UNBOUNDED_COST),
        ("/v1/embeddings", {"input": "hi"}, Reason.ROUTE_NOT_SPILLABLE),
    ],
)
def test_reason(route: str, body: dict[str, Any], reason: Reason | None) -> None:
    assert spillability(route, {"model": "m", **body}).reason is reason


def test_what_is_dropped_costs_nothing() -> None:
    assert spillability(CHAT, {"messages": MESSAGES, "tools": [{"type": "web_search"}]}, drop=["tools"]).reason is None
    assert spillability(COMPLETIONS, {"prompt": "hi", "messages": 5}, drop=["messages"]).reason is None


def test_what_is_dropped_and_redacted_is_named() -> None:
    body = {"messages": MESSAGES, "top_k": 5, "user": "someone", "metadata": {}, "min_p": None, "model": "m"}
    verdict = spillability(CHAT, body, drop=["top_k"])
    assert verdict.reason is None
    assert verdict.removed == {"top_k", "user", "metadata", "min_p"}
