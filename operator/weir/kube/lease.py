"""One leader among equals, by compare-and-swap on a coordination.k8s.io Lease.

The rules are client-go's. A holder writes every `retry_seconds`; one that has not got through for `renew_seconds` stops; others
take over `lease_seconds` after they last saw the record change. The gap between the two (5 s) is what the old leader has to stop
in. Everybody measures with their own monotonic clock: times inside the record are for people to read.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from weir.kube.client import KubeClient
from weir.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from weir.kube.resources import LEASES, Json
from weir.observability import metrics

log = structlog.get_logger(__name__)


class LeaseLost(Exception):  # noqa: N818 - it says what happened
    """Somebody else leads, or soon will: this process must write nothing more, and exit."""


class LeaderElection:
    """Runs something while, and only while, this process holds the Lease.

    `identity` must differ between any two processes, restarts of one pod included: pod name plus something random.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_seconds: float = 15.0,
        renew_seconds: float = 10.0,
        retry_seconds: float = 2.0,
    ) -> None:
        if not lease_seconds > renew_seconds > retry_seconds > 0:
            raise ValueError("lease_seconds > renew_seconds > retry_seconds > 0 is what keeps two leaders apart")
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._retry_seconds = retry_seconds
        self._held: Json | None = None  # the Lease as we last wrote it
        self._renewed_at = -math.inf
        self._observed: Json = {}  # the spec as last read, and when it was first seen like this
        self._observed_at = -math.inf

    @property
    def is_leader(self) -> bool:
        """Whether nobody else can hold the Lease at this moment, by our own clock; false at once in a process just thawed."""
        return time.monotonic() < self._renewed_at + self._lease_seconds

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, runs `lead()` until it returns or raises, then lets go of the Lease for a successor.

        Cancelling `run` cancels `lead`, waits for it while keeping the Lease, and lets go. Raises LeaseLost when the Lease
        cannot be kept: `lead` is cancelled and given until the Lease runs out; the caller then ends the process.
        """
        await self._acquire()
        log.info("leading", lease=self._name, identity=self.identity)
        metrics.LEADER.labels(self._name).set(1)
        work = asyncio.ensure_future(lead())
        keep = asyncio.create_task(self._keep())
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait({work}, timeout=self._renewed_at + self._lease_seconds - time.monotonic())
            lost = keep.done()
            keep.cancel()
            await asyncio.wait({keep})
            metrics.LEADER.labels(self._name).set(0)
            self._renewed_at = -math.inf
            if lost:
                error = work.exception() if work.done() and not work.cancelled() else None
                log.error(
                    "leadership lost", lease=self._name, identity=self.identity, stopped=work.done(), exc_info=error
                )
            else:
                await self._release()
        if lost:
            keep.result()
        work.result()

    async def _acquire(self) -> None:
        while True:
            try:
                if await self._write():
                    return
            except ApiError as error:
                log.warning("the Lease cannot be read or written", lease=self._name, error=str(error))
            await asyncio.sleep(self._retry_seconds * random.uniform(1.0, 1.2))  # noqa: S311 - so that rivals do not march in step

    async def _keep(self) -> None:
        """Renews for ever. Raises LeaseLost."""
        loop = asyncio.get_running_loop()
        while True:
            left = self._renewed_at + self._renew_seconds - time.monotonic()
            try:
                async with asyncio.timeout_at(loop.time() + left):
                    await asyncio.sleep(self._retry_seconds)
                    await self._renew()
            except TimeoutError:
                raise LeaseLost(f"the Lease {self._name} was not renewed for {self._renew_seconds:g} s") from None

    async def _renew(self) -> None:
        try:
            renewed = await self._write()
        except ApiError as error:
            log.warning("the Lease was not renewed", lease=self._name, error=str(error))
            return
        holder = self._observed.get("holderIdentity")
        if not renewed and holder and holder != self.identity:
            raise LeaseLost(f"the Lease {self._name} is held by {holder}")

    async def _write(self) -> bool:
        """One attempt to take or keep the Lease. Returns whether it is ours; False also where somebody wrote first."""
        held, self._held = self._held, None  # after any failure: read again, what was written is unknown
        timeout = self._renew_seconds / 2  # so that one dead connection leaves time for another try
        sent = time.monotonic()
        try:
            lease = held or await self._client.get(LEASES, self._namespace, self._name, timeout=timeout)
            if not self._free(lease["spec"]):
                return False
            sent = time.monotonic()
            lease = lease | {"spec": self._claim(lease["spec"])}
            self._held = await self._client.update(LEASES, lease, timeout=timeout)
        except NotFound:
            sent = time.monotonic()
            lease = {"metadata": {"namespace": self._namespace, "name": self._name}, "spec": self._claim({})}
            try:
                self._held = await self._client.create(LEASES, lease, timeout=timeout)
            except AlreadyExists:
                return False
        except Conflict:
            return await self._write() if held else False  # ours by memory: look who it is now
        self._renewed_at = sent  # the others' patience starts later than this, never earlier
        return True

    def _free(self, spec: Json) -> bool:
        now = time.monotonic()
        if spec != self._observed:
            self._observed, self._observed_at = spec, now
        holder = spec.get("holderIdentity")
        patience = spec.get("leaseDurationSeconds") or self._lease_seconds
        return not holder or holder == self.identity or now >= self._observed_at + patience

    def _claim(self, spec: Json) -> Json:
        now = self._client.server_now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = spec.get("holderIdentity") == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._lease_seconds),
            "acquireTime": spec["acquireTime"] if ours else now,
            "renewTime": now,
            "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if ours or not spec else 1),
        }

    async def _release(self) -> None:
        """Lets go, if it is still ours. Failing that a successor has to wait, which is safe and is logged."""
        try:
            lease = self._held or await self._client.get(LEASES, self._namespace, self._name, timeout=2.0)
            if lease["spec"].get("holderIdentity") != self.identity:
                return
            spec = {**lease["spec"], "holderIdentity": None, "leaseDurationSeconds": 1}
            await self._client.update(LEASES, lease | {"spec": spec}, timeout=2.0)
            log.info("leadership given up", lease=self._name, identity=self.identity)
        except ApiError as error:
            log.warning(
                "the Lease was not let go, a successor waits for it to run out", lease=self._name, error=str(error)
            )
