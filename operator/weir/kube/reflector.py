"""Keeps a local copy of one kind of object: lists it in pages, then watches it, and starts over when in doubt.

The copy is what readers decide by, so its age is known at every moment (`last_contact`): the server is made to say something
every `watch_seconds` (an event, a bookmark, the end of the watch), and silence beyond that is a dead stream. A
watch that ended in order goes on from its last resource version; after anything else the whole is listed
again and compared, so nothing missed stays missed.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

import pydantic
import structlog

from weir.kube.backoff import Backoff
from weir.kube.client import PAGE_SIZE, KubeClient
from weir.kube.errors import ApiError, Expired, Forbidden, NotFound, Unreachable
from weir.kube.resources import Json, Key, Resource, key_of
from weir.kube.watch import WatchEvent
from weir.observability import metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")
OnChange = Callable[[Key, T | None, T | None], None]
"""Called with key, new value (None: gone), old value (None: new), after the store has the new one."""


class Reflector(Generic[T]):
    """A store of what `decode` makes of the objects of one resource. Used from one event loop.

    `decode` trims the object at the door; None, or an exception, means that the object counts as absent. A value equal to the one
    stored is no change, so T should hold all that its readers look at (the uid too, where identity matters).
    `on_change` must be quick and must not raise: put the key in a queue. What it raises ends `run()`.
    `name`, by default the resource's, tells two reflectors of one resource apart in metrics and logs.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        decode: Callable[[Json], T | None],
        *,
        namespaces: Sequence[str] | None = None,
        label_selector: str = "",
        field_selector: str = "",
        on_change: OnChange[T] | None = None,
        name: str = "",
        page_size: int = PAGE_SIZE,
        watch_seconds: float = 25.0,
        stall_seconds: float = 5.0,
    ) -> None:
        if namespaces is not None and not namespaces:
            raise ValueError("an empty list of namespaces would watch nothing: give None for all of them")
        self._client = client
        self._resource = resource
        self._name = name or resource.plural
        self._decode = decode
        self._on_change = on_change
        self._selectors = {"label_selector": label_selector, "field_selector": field_selector}
        self._page_size = page_size
        self._watch_seconds = watch_seconds
        self._stall_seconds = stall_seconds
        self._values: dict[Key, T] = {}
        self._versions: dict[Key, str] = {}  # of every object seen, of those that could not be decoded too
        scopes: Sequence[str | None] = [None] if namespaces is None else namespaces
        self._contacts = dict.fromkeys(scopes, -math.inf)
        self._unsynced = set(self._contacts)
        self.store: Mapping[Key, T] = MappingProxyType(self._values)
        """A live, read-only view."""
        self.synced = asyncio.Event()
        """Set once everything has been listed for the first time."""

    @property
    def last_contact(self) -> float:
        """Monotonic seconds at which the server last confirmed the whole store; of several namespaces the oldest. -inf: never."""
        return min(self._contacts.values())

    async def run(self) -> None:
        """Follows the server until cancelled. Raises only what `on_change` raises."""
        try:
            async with asyncio.TaskGroup() as group:
                for namespace in self._contacts:
                    group.create_task(self._follow(namespace))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _follow(self, namespace: str | None) -> None:
        backoff = Backoff(base=0.25, cap=8.0)
        version, reason = "", "start"
        while True:
            began, failure = time.monotonic(), None
            try:
                if not version:
                    metrics.REFLECTOR_RELISTS.labels(self._name, reason).inc()
                    version = await self._list(namespace)
                version = await self._watch(namespace, version)
            except ApiError as error:
                version, reason, failure = "", _reason(error), error
            if time.monotonic() - began >= 1.0:
                backoff.reset()
                if failure is None:
                    continue
            delay = backoff.next(failure.retry_after if failure else None)  # also for a server that hangs up at once
            if failure is not None:
                self._report(failure, namespace, delay)
            await asyncio.sleep(delay)

    async def _list(self, namespace: str | None) -> str:
        """Brings the store in line with a fresh listing. Returns the resource version to watch from."""
        gone = {key for key in self._versions if namespace in (None, key.namespace)}
        version = ""
        async for page in self._client.pages(self._resource, namespace, page_size=self._page_size, **self._selectors):
            for number, obj in enumerate(page.items):
                gone.discard(key_of(obj))
                self._take(obj)
                if number % 32 == 31:  # some 2 ms of decoding: whatever else this loop serves comes first
                    await asyncio.sleep(0)
            version = page.resource_version
        for key in gone:
            self._drop(key)
        self._touch(namespace)
        self._unsynced.discard(namespace)
        if not self._unsynced:
            self.synced.set()
        return version

    async def _watch(self, namespace: str | None, version: str) -> str:
        """Follows one watch to its end in order. Returns the resource version to go on from."""
        async with self._client.watch(
            self._resource,
            namespace,
            resource_version=version,
            seconds=self._watch_seconds * random.uniform(0.8, 1.0),  # noqa: S311 - so that watches do not all end at once
            stall_seconds=self._stall_seconds,
            **self._selectors,
        ) as events:
            self._touch(namespace)
            async for event in events:
                self._see(event)
                self._touch(namespace)
                version = event.resource_version
        self._touch(namespace)
        return version

    def _see(self, event: WatchEvent) -> None:
        metrics.REFLECTOR_EVENTS.labels(self._name, event.type).inc()
        if event.type == "DELETED":
            self._drop(key_of(event.object))
        elif event.type != "BOOKMARK":
            self._take(event.object)

    def _take(self, obj: Json) -> None:
        key, version = key_of(obj), obj["metadata"]["resourceVersion"]
        if self._versions.get(key) == version:
            return
        self._versions[key] = version
        try:
            value = self._decode(obj)
        except Exception as error:  # one object that cannot be understood must not hide all the others
            metrics.REFLECTOR_DECODE_ERRORS.labels(self._name).inc()
            log.error(
                "object cannot be understood and counts as absent",
                reflector=self._name,
                object=str(key),
                resource_version=version,
                error=_describe(error),
            )
            value = None
        self._put(key, value)

    def _drop(self, key: Key) -> None:
        self._versions.pop(key, None)
        self._put(key, None)

    def _put(self, key: Key, new: T | None) -> None:
        old = self._values.get(key)
        if new == old:
            return
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new
        metrics.REFLECTOR_OBJECTS.labels(self._name).set(len(self._values))
        if self._on_change is not None:
            self._on_change(key, new, old)

    def _touch(self, namespace: str | None) -> None:
        now = time.monotonic()
        self._contacts[namespace] = now
        age = now - self.last_contact  # infinite until every namespace was listed once
        if age != math.inf:
            metrics.REFLECTOR_LAST_CONTACT.labels(self._name).set(time.time() - age)

    def _report(self, error: ApiError, namespace: str | None, delay: float) -> None:
        say = log.info if isinstance(error, Expired) else log.warning
        fix = {
            Forbidden: f"grant get, list and watch on {self._resource.plural} to this ServiceAccount",
            NotFound: f"install the CRD of {self._resource.plural}.{self._resource.group}",
        }.get(type(error))
        say(
            "the local copy is listed again",
            reflector=self._name,
            namespace=namespace or "*",
            error=str(error),
            retry_seconds=round(delay, 2),
            **({"fix": fix} if fix else {}),
        )


def _reason(error: ApiError) -> str:
    if isinstance(error, Expired):
        return "expired"
    if isinstance(error, Unreachable) and isinstance(error.__cause__, TimeoutError):
        return "stalled"
    return "error"


def _describe(error: Exception) -> str:
    """What is wrong, without the values: they may be those of a Secret."""
    if isinstance(error, pydantic.ValidationError):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)
    if isinstance(error, KeyError):
        return f"no field {error}"
    return type(error).__name__
