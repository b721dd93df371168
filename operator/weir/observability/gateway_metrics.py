"""What the gateway says to Prometheus. Definitions only; labels are bounded by the models and providers there are.

The series carry the `namespace` and `model` of the ModelDeployment; requests that name no known model have empty ones.
`route` is local, frontier or refused; `reason` is the word of the `x-weir-reason` header; `code` the HTTP status (499: the client
left before its answer was whole).
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_MODEL = ["namespace", "model"]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter("weir_gateway_requests_total", "Requests, when they ended.", [*_MODEL, "route", "reason", "code"])
REPLICAS = Gauge("weir_gateway_replicas", "Replicas that this gateway sends requests to.", _MODEL)
IN_FLIGHT = Gauge("weir_gateway_in_flight", "Slots taken on local replicas by this gateway.", _MODEL)
PEERS_IN_FLIGHT = Gauge(
    "weir_gateway_peers_in_flight", "Slots taken by the other gateways, as this one was last told.", _MODEL
)
QUEUED = Gauge("weir_gateway_queued", "Requests that wait for a local slot.", _MODEL)
SPILLING = Gauge("weir_gateway_spilling", "Requests at a provider now.", _MODEL)
HOLD_SECONDS = Histogram(
    "weir_gateway_hold_seconds", "Time spent waiting for a local slot, of those that waited.", _MODEL, buckets=_SECONDS
)
FIRST_TOKEN_SECONDS = Histogram(
    "weir_gateway_time_to_first_token_seconds",
    "From the whole request to its first token; without streaming to its whole answer.",
    [*_MODEL, "route"],
    buckets=_SECONDS,
)
DURATION_SECONDS = Histogram(
    "weir_gateway_request_duration_seconds", "From the whole request to the end.", [*_MODEL, "route"], buckets=_SECONDS
)
TOKENS = Counter(
    "weir_gateway_tokens_total",
    "Tokens as reported, by kind: prompt (with cached), cached, completion.",
    [*_MODEL, "route", "kind"],
)
SPEND = Counter(
    "weir_frontier_spend_usd_total",
    "Settled spending at providers; a request without a report of usage counts its upper bound.",
    ["namespace", "provider", "model"],
)
UNREPORTED_SPEND = Counter(
    "weir_frontier_unreported_spend_usd_total",
    "The part of it that is upper bounds of requests whose usage was never reported.",
    ["namespace", "provider", "model"],
)
BUDGET_REMAINING = Gauge(
    "weir_budget_remaining_usd",
    "What this gateway could still get of a budget today, by its SpendLedger.",
    ["namespace", "ledger"],
)
BREAKER = Gauge("weir_provider_breaker_state", "0 closed, 1 half-open, 2 open.", ["namespace", "provider"])
UPSTREAM_FAILURES = Counter(
    "weir_gateway_upstream_failures_total",
    "Attempts that failed, by kind and side (local, frontier); full: it had no room, which is no failure of its own.",
    [*_MODEL, "side", "kind"],
)
BROKEN_STREAMS = Counter(
    "weir_gateway_broken_streams_total", "Streams that ended with an error event after their first token.", _MODEL
)
LOST = Counter("weir_gateway_lost_total", "Requests without an answer, or cut off without an error event.", _MODEL)
REDACTED = Counter(
    "weir_frontier_redacted_fields_total", "Fields removed from requests that left the cluster.", ["field"]
)
HTTP_REFUSED = Counter(
    "weir_gateway_http_refused_total", "Requests refused before they could be read, by status.", ["code"]
)
VIEW_AGE = Gauge(
    "weir_gateway_view_age_seconds", "Since the Kubernetes API last confirmed what decides about leaving the cluster."
)
PEERS_SILENT = Gauge(
    "weir_gateway_peers_silent", "Ready gateways that did not answer the last question for their load."
)
