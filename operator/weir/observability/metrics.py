"""Metrics that both programs share. Names follow Prometheus' conventions: base units, `_total` for counters.

Definitions only: whoever does the work counts it.
"""

from __future__ import annotations

import platform
from importlib import metadata

from prometheus_client import Counter, Gauge, Histogram, Info


def version() -> str:
    """The installed version; a bare source tree on the path has none."""
    try:
        return metadata.version("weir")
    except metadata.PackageNotFoundError:
        return "0+source"


BUILD = Info("weir_build", "Version of Weir and of Python that this process runs.")
BUILD.info({"version": version(), "python": platform.python_version()})

KUBE_REQUESTS = Counter(
    "weir_kube_requests_total",
    "Requests to the Kubernetes API, by outcome. code is the HTTP status, or `unreachable`.",
    ["verb", "resource", "code"],
)
KUBE_REQUEST_SECONDS = Histogram(
    "weir_kube_request_duration_seconds",
    "Time from sending a request to the Kubernetes API to having its whole answer (for a watch: its headers).",
    ["verb", "resource"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
KUBE_RETRIES = Counter("weir_kube_retries_total", "Reads of the Kubernetes API that were sent again.", ["resource"])

REFLECTOR_RELISTS = Counter(
    "weir_reflector_relists_total",
    "Whole listings, by why: start, expired (410), stalled (no byte in time), error.",
    ["reflector", "reason"],
)
REFLECTOR_EVENTS = Counter("weir_reflector_events_total", "Watch events, by type.", ["reflector", "type"])
REFLECTOR_OBJECTS = Gauge("weir_reflector_objects", "Objects in the local store.", ["reflector"])
REFLECTOR_LAST_CONTACT = Gauge(
    "weir_reflector_last_contact_timestamp_seconds",
    "Unix time at which the API server last confirmed the local store; its age is time() minus this.",
    ["reflector"],
)
REFLECTOR_DECODE_ERRORS = Counter(
    "weir_reflector_decode_errors_total",
    "Objects that could not be understood and count as absent (the log says which and why).",
    ["reflector"],
)

LEADER = Gauge("weir_leader", "1 while this process holds the Lease.", ["lease"])

EVENTS_WRITTEN = Counter("weir_events_written_total", "Kubernetes Events written: create or update.", ["verb"])
EVENTS_DROPPED = Counter(
    "weir_events_dropped_total", "Kubernetes Events not written: overflow (too many waiting) or error.", ["reason"]
)

WORKQUEUE_DEPTH = Gauge("weir_workqueue_depth", "Keys waiting to be worked on.", ["queue"])
WORKQUEUE_ADDS = Counter("weir_workqueue_adds_total", "Keys added, before de-duplication.", ["queue"])
WORKQUEUE_RETRIES = Counter("weir_workqueue_retries_total", "Keys added again after a failure.", ["queue"])
WORKQUEUE_QUEUE_SECONDS = Histogram(
    "weir_workqueue_queue_duration_seconds",
    "Time a key waited before work on it began.",
    ["queue"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
)

RECONCILES = Counter(
    "weir_reconcile_total", "Reconciles, by result: success, requeue, stalled, error.", ["controller", "result"]
)
RECONCILE_ERRORS = Counter("weir_reconcile_errors_total", "Reconciles that failed unexpectedly.", ["controller"])
RECONCILE_SECONDS = Histogram(
    "weir_reconcile_duration_seconds",
    "Time one reconcile took.",
    ["controller"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
