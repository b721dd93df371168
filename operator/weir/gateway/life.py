"""A request's life, top to bottom: parse, authorize, decide, attempt, first token, relay, settle.

    decide -> local | hold | spill | refuse

The decision is the pure one of `overflow.policy`, made again on the view of the moment before every attempt and whenever a wait
ends. An attempt that fails before its first token leads back to it; after the first token the answer stands as far as it came,
and ends with an error event. Whatever way a request ends, also by its client's leaving (then the task is cancelled), its
slot, its place in the queue and its money are released by the `finally` or `with` around what took them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from weir.api.frontierprovider import ProviderModel
from weir.economics.pricing import Usage, cost_micros
from weir.gateway.config import GatewayConfig
from weir.gateway.errors import RefusedError
from weir.gateway.frontier import Frontier, outgoing_body
from weir.gateway.job import Job
from weir.gateway.meter import CLIENT_LEFT, FRONTIER, LOCAL, REFUSED, Meter
from weir.gateway.money import Account, Till, reserve_all
from weir.gateway.providers import Provider, bound_of, price_of
from weir.gateway.registry import Registry
from weir.gateway.relay import SSE_TYPE, End, Relay
from weir.gateway.replicas import Slot
from weir.gateway.request import parse
from weir.gateway.server import JSON_TYPE, Exchange
from weir.gateway.upstream import Failure
from weir.gateway.view import ClusterView
from weir.kube.resources import Key
from weir.observability.logs import redact
from weir.overflow.parameters import REDACTED, spillability
from weir.overflow.policy import Decision, LocalView, Reason, RequestFacts, Route, TargetView, Wish, decide

log = structlog.get_logger(__name__)

RECONSIDER_SECONDS = 0.5
"""A request that waits is decided anew this often: a provider may have come free."""
MAX_PROVIDER_ATTEMPTS = 3
PROVIDER_FULL_SECONDS = 1.0
"""After a 429 without Retry-After."""
MAX_FULL_SECONDS = 300.0
"""The most of a Retry-After that is believed; then the provider is asked again."""
OUR_FAULT = frozenset({401, 402, 403, 404, 405, 407})
"""What a provider says when key, account or model name are wrong: no fault of the client's."""
NOT_BILLED = frozenset({503, 529})
"""What a provider says when it did not begin. Other 5xx leave open whether it did, and stay charged."""
FOR_WANT_OF_CAPACITY = frozenset({Reason.SATURATED, Reason.COLD_START, Reason.WAIT_EXCEEDED, Reason.QUEUE_FULL})


class Life:
    """Takes requests for completions through the gateway."""

    def __init__(
        self, config: GatewayConfig, registry: Registry, view: ClusterView, till: Till, frontier: Frontier, meter: Meter
    ) -> None:
        self._config = config
        self._registry = registry
        self._view = view
        self._till = till
        self._frontier = frontier
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._waiting: set[Job] = set()
        """Streams without a first token."""

    def handle(self, exchange: Exchange, route: str) -> Coroutine[Any, Any, None]:
        """Parse and find the model. Raises RefusedError where there is nothing to be done."""
        request = parse(route, exchange.request.body, exchange.request.headers)
        served = self._registry.names.get(request.model)
        if served is None:
            raise _unknown_model(request.model)
        served.model.arrived()
        return self._live(Job(exchange, request, served))

    def tick(self, now: float) -> None:
        """Called a few times a second, for streams that wait."""
        for job in list(self._waiting):
            if job.relay is not None and job.relay.first_token_at is not None:
                self._waiting.discard(job)
            else:
                job.sign_of_life(now, self._config.comment_seconds)

    async def _live(self, job: Job) -> None:
        if job.request.stream:
            self._waiting.add(job)
        try:
            while not await self._step(job):
                pass
        except asyncio.CancelledError:
            job.code = CLIENT_LEFT
            raise
        except RefusedError as problem:
            job.route, job.reason, job.code = REFUSED, problem.code, problem.status
            job.exchange.refuse(problem, job.id_line())
        except Exception:
            log.exception("a request could not be handled", model=job.served.model.key, request=job.request_id.decode())
            job.code = 500
            failed = RefusedError(500, "the gateway failed; its log says why", "internal_error")
            job.exchange.refuse(failed, job.id_line())
        finally:
            self._waiting.discard(job)
            self._meter.finished(job)

    async def _step(self, job: Job) -> bool:
        """One decision and what follows from it. True when the client has its answer."""
        decision, slot = await self._place(job)
        if slot is not None:
            return await self._serve_here(job, slot)
        if decision.route is Route.SPILL:
            return await self._spill(job, decision)
        if decision.route is Route.REFUSE:
            self._refuse(job, decision)
            return True
        return False  # the free slot was gone again

    # decide, and hold

    async def _place(self, job: Job) -> tuple[Decision, Slot | None]:
        """Where to: a slot in hand, a provider, or nowhere. Waits if that is the decision."""
        model, slots = job.served.model, job.request.slots
        decision = self._decide(job, model.queue_length)
        if decision.route is Route.HOLD:
            began = self._loop.time()
            try:
                with model.queue(slots, job.failed) as waiter:
                    while decision.route is Route.HOLD:
                        slot = await waiter.wait(min(decision.until - job.waited(), RECONSIDER_SECONDS))
                        if slot is not None:
                            return Decision(Route.LOCAL, Reason.SLOT_FREE), slot
                        decision = self._decide(job, waiter.ahead)
            finally:
                job.held += self._loop.time() - began
        return decision, model.take(slots, job.failed) if decision.route is Route.LOCAL else None

    def _decide(self, job: Job, ahead: int) -> Decision:
        self._read_terms(job)
        model, request = job.served.model, job.request
        fits = model.fits(request.slots, job.failed)
        facts = RequestFacts(request.wish, None, job.waited(), None, len(job.failed))
        if fits and not ahead and request.wish is not Wish.ONLY:
            # Nothing about providers can change this decision, so their books need not be read for it.
            return decide(facts, LocalView(fits, ready=1), (), model.policy)
        ready = model.ready(job.failed)
        # A queue can end in room for it only where some replica is large enough.
        policy = replace(model.policy, max_queue=0) if _is_too_large(job) else model.policy
        return decide(
            RequestFacts(request.wish, self._unspillable(job), facts.waited, None, len(job.failed)),
            LocalView(fits, ready, ahead, model.ready() - ready),
            self._targets(job),
            policy,
            stale=self._view.is_stale(self._loop.time()),
        )

    def _read_terms(self, job: Job) -> None:
        """The model may have changed while the request waited. Raises RefusedError where it is gone."""
        present = self._registry.names.get(job.served.name)
        if present is None or present.key != job.served.key:
            raise _unknown_model(job.served.name)
        if present is not job.served:
            job.served, job.spillability = present, None

    def _unspillable(self, job: Job) -> Reason | None:
        """Why this very request may go to no provider."""
        if not self._config.anonymous_overflow:  # without API keys there is nobody who could be allowed to
            return Reason.NOT_AUTHORIZED
        if job.spillability is None and (overflow := job.served.spec.overflow) is not None:
            job.spillability = spillability(job.request.route, job.request.parsed(), overflow.drop_parameters)
        return job.spillability.reason if job.spillability is not None else None

    def _targets(self, job: Job) -> list[TargetView]:
        """The providers that the model's owner names, and why each cannot take this request now."""
        overflow = job.served.spec.overflow
        if overflow is None:
            return []
        namespace = job.served.key.namespace
        found = []
        for target in overflow.targets:
            provider = self._registry.providers.get(Key(namespace, target.provider_ref.name))
            blocked = self._blocked(job, provider, target.model)
            found.append(TargetView(target.provider_ref.name, target.model, blocked))
        return found

    def _blocked(self, job: Job, provider: Provider | None, model: str) -> Reason | None:
        if provider is None:
            return Reason.PROVIDER_MISSING
        known = job.blocked.get((provider.view.metadata.name, model))
        if known or job.attempts >= MAX_PROVIDER_ATTEMPTS:
            return known or Reason.PROVIDER_TRIED
        blocked = provider.blocked(model, job.request, self._loop.time(), self._view.gateway_count)
        if blocked is not None:
            return blocked
        sold = provider.view.find_model(model)
        if sold is None:
            return Reason.PROVIDER_MISSING
        bound = bound_of(sold, job.request)
        covered = all(account.may_cover(bound) for account in self._accounts(job, provider))
        return None if covered else Reason.BUDGET_EXHAUSTED

    def _accounts(self, job: Job, provider: Provider) -> list[Account]:
        """The provider's budget and the model's: both must hold."""
        budgets = (provider.budget, self._registry.budget_of(job.served))
        return [self._till.account(budget) for budget in budgets if budget is not None]

    # local

    async def _serve_here(self, job: Job, slot: Slot) -> bool:
        """One attempt at a replica."""
        replica, request, exchange = slot.replica, job.request, job.exchange
        job.route, job.reason = LOCAL, Reason.SLOT_FREE
        head = job.head(b"local", Reason.SLOT_FREE, job.served.name, replica.name)
        relay = Relay(exchange, stream=request.stream, strip_usage=not request.wants_usage, head=head)
        job.relay, began = relay, self._loop.time()
        job.deadline = began + self._config.first_token_seconds
        call = None
        try:
            body = request.engine_body(job.served.engine_name)
            call = replica.pool.call(_engine_head(job, replica.pool.address, len(body)) + body, relay)
            exchange.on_pause = call.pause
            call.pause(exchange.paused)
            end = await relay.ended
            return self._judge_replica(job, slot, relay, end, head, began)
        finally:
            job.deadline = float("inf")
            exchange.on_pause = None
            if call is not None:
                call.cancel()
            slot.release()

    def _judge_replica(self, job: Job, slot: Slot, relay: Relay, end: End, head: bytes, began: float) -> bool:
        replica, load = slot.replica, job.served.model.load
        now = self._loop.time()
        if end is End.FULL:
            replica.full(now)
            self._meter.attempt_failed(job, LOCAL, replica.name, "full", f"status {relay.status}")
            return False
        if end is End.FAILED:
            job.failed.add(replica.uid)
            replica.failed(relay.failure, now)
            self._meter.attempt_failed(job, LOCAL, replica.name, str(relay.failure), relay.detail)
            return False
        if end is End.BROKEN:
            replica.failed(relay.failure, now)
            self._meter.broken(job, replica.name, relay.detail)
        elif relay.answering:
            replica.errors = 0
            load.served(now - began, local=True)
        if end is End.WHOLE:
            _deliver(job, relay.status, relay.body, head, relay.content_type)
        job.code = relay.status
        load.decided(LOCAL, Reason.SLOT_FREE)
        return True

    # spill

    async def _spill(self, job: Job, decision: Decision) -> bool:
        """One attempt at a provider."""
        target, provider, sold, removed = self._offer(job, decision)
        body, load = outgoing_body(job.request, sold, removed), job.served.model.load
        bound = bound_of(sold, job.request)
        cost: int | None = None
        usage: Usage | None = None
        probe = provider.breaker.begin()
        provider.in_flight += 1
        load.spilling += job.request.slots
        reservations = None
        verdict = False
        try:
            reservations = await reserve_all(self._accounts(job, provider), bound)
            if reservations is None:
                job.block(target, Reason.BUDGET_EXHAUSTED)
                return False
            job.route, job.reason = FRONTIER, decision.reason
            job.attempts += 1
            self._count_demand(job, decision.reason)
            cost = bound  # until the provider says otherwise
            began = self._loop.time()
            relay = job.relay = self._relay_from(job, decision, target, provider)
            job.deadline = float("inf")  # the provider's own timeouts hold
            self._count_removed(job, removed)
            sent = await self._frontier.ask(provider, job.request, body, job.exchange, relay)
            end = relay.ended.result()
            verdict = True
            self._judge_provider(provider, relay, end, probe=probe)
            if relay.usage is not None and end in (End.WHOLE, End.STREAMED):
                usage = relay.usage  # of an answer that broke it may be a count on the way
                cost = cost_micros(price_of(sold), usage)
            elif not sent or end is End.FULL or (end is not End.BROKEN and not _may_be_billed(relay.status)):
                cost = 0
            return self._answer_from(job, decision, target, relay, end, cost, self._loop.time() - began)
        finally:
            if not verdict:
                provider.breaker.cancel(probe=probe)
            provider.in_flight -= 1
            load.spilling -= job.request.slots
            job.exchange.on_pause = None
            if reservations is not None and cost is not None:
                for reservation in reservations:
                    reservation.settle(cost)
                load.frontier_micro_usd += cost
                self._meter.spent(job, provider, sold.name, cost, usage)
            job.served.model.wake()

    def _offer(self, job: Job, decision: Decision) -> tuple[TargetView, Provider, ProviderModel, Collection[str]]:
        """What is behind a decision to spill, and the fields that stay here."""
        target = decision.target
        provider = self._registry.providers.get(Key(job.served.key.namespace, target.provider)) if target else None
        sold = provider.view.find_model(target.model) if provider and target else None
        if target is None or provider is None or sold is None or job.spillability is None:
            raise RuntimeError(
                "a decision to spill names a provider's model that is there, for a request that may leave"
            )
        return target, provider, sold, job.spillability.removed

    def _relay_from(self, job: Job, decision: Decision, target: TargetView, provider: Provider) -> Relay:
        return Relay(
            job.exchange,
            stream=job.request.stream,
            strip_usage=not job.request.wants_usage,
            head=job.head(b"frontier", decision.reason, target.model),
            is_full=lambda status, body: status == 429,
            secret=provider.key,
        )

    def _count_removed(self, job: Job, removed: Collection[str]) -> None:
        """Under names that the client cannot make up: each is a series for as long as the gateway lives."""
        overflow = job.served.spec.overflow
        known = REDACTED | frozenset(overflow.drop_parameters if overflow is not None else ())
        self._meter.redacted({name if name in known else "other" for name in removed})

    def _judge_provider(self, provider: Provider, relay: Relay, end: End, *, probe: bool) -> None:
        now, breaker = self._loop.time(), provider.breaker
        if end is End.FULL:
            breaker.full(now, min(relay.retry_after or PROVIDER_FULL_SECONDS, MAX_FULL_SECONDS), probe=probe)
        elif relay.failure is Failure.CLIENT:
            breaker.cancel(probe=probe)
        elif end in (End.FAILED, End.BROKEN) or relay.status in OUR_FAULT:
            breaker.fail(now, probe=probe)
        else:
            breaker.succeed(now, probe=probe)

    def _answer_from(
        self, job: Job, decision: Decision, target: TargetView, relay: Relay, end: End, cost: int, seconds: float
    ) -> bool:
        if end is End.FULL:
            self._meter.attempt_failed(job, FRONTIER, target.provider, "full", f"status {relay.status}")
            return False
        if end is End.FAILED or (end is End.WHOLE and relay.status in OUR_FAULT):
            kind = str(relay.failure) if end is End.FAILED else "refused"
            detail = relay.detail or f"status {relay.status}: {relay.body[:200].decode('utf-8', 'replace')}"
            self._meter.attempt_failed(job, FRONTIER, target.provider, kind, detail)
            job.block(target, Reason.PROVIDER_TRIED)
            return False
        load = job.served.model.load
        if end is End.BROKEN:
            self._meter.broken(job, target.provider, relay.detail)
        elif relay.answering:
            load.served(seconds, local=False)
        if end is End.WHOLE:
            head = job.head(b"frontier", decision.reason, target.model) + b"x-weir-cost-usd: %d.%06d\r\n" % divmod(
                cost, 1_000_000
            )
            body = relay.body if relay.answering else redact(relay.body.decode("utf-8", "replace")).encode()
            _deliver(job, relay.status, body, head, relay.content_type)
        job.code = relay.status
        load.decided(FRONTIER, decision.reason)
        return True

    # refuse

    def _refuse(self, job: Job, decision: Decision) -> None:
        """429 or 503, with the reason, and a time to come back where that can help. Raises RefusedError where it never can."""
        if job.request.wish is not Wish.ONLY and _is_too_large(job):
            raise RefusedError(
                400,
                f"n: the request is {job.request.slots} sequences at once, and no replica of {job.served.name!r} runs so many",
                "invalid_value",
                "n" if job.request.choices > 1 else "prompt",
            )
        self._count_demand(job, decision.reason)
        why = decision.not_spilled if decision.not_spilled not in (None, Reason.NO_TARGET) else decision.reason
        job.route, job.reason, job.code = REFUSED, str(why), decision.status
        job.served.model.load.decided(REFUSED, why or decision.reason)
        reasons = f"{decision.reason}; not spilled: {decision.not_spilled}" if decision.not_spilled else decision.reason
        problem = RefusedError(
            decision.status,
            f"the model {job.served.name!r} cannot take the request now ({reasons})",
            str(why).replace("-", "_"),
            retry_after=decision.retry_after,
            should_retry=False if decision.retry_after is None or why is Reason.BUDGET_EXHAUSTED else None,
        )
        line = b"x-weir-reason: %b\r\n" % str(why).encode()
        job.exchange.refuse(problem, line + job.id_line())

    def _count_demand(self, job: Job, reason: Reason) -> None:
        if not job.counted and reason in FOR_WANT_OF_CAPACITY and not _is_too_large(job):
            job.counted = True
            job.served.model.load.left(job.request.slots)


def _unknown_model(name: str) -> RefusedError:
    return RefusedError(404, f"the model {name!r} does not exist", "model_not_found", "model")


def _is_too_large(job: Job) -> bool:
    """It runs more sequences at once than any replica has slots: no wait and no further replica can help."""
    largest = job.served.model.largest() or job.served.spec.engine.max_concurrency
    return job.request.slots > largest


def _engine_head(job: Job, address: bytes, length: int) -> bytes:
    """The head of the request to an engine. Of the client's headers only what traces it goes along."""
    headers = job.exchange.request.headers
    tracing = b""
    if b"traceparent" in headers:
        tracing = b"traceparent: %b\r\ntracestate: %b\r\n" % (headers[b"traceparent"], headers.get(b"tracestate", b""))
    return (
        b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%bx-request-id: %b\r\n\r\n"
        % (
            job.request.route.encode(),
            address,
            length,
            tracing,
            job.engine_id,
        )
    )


def _deliver(job: Job, status: int, body: bytes, head: bytes, content_type: bytes) -> None:
    """A whole answer: as it is, or as the last event of a stream that had to begin before it came."""
    exchange = job.exchange
    if exchange.begun:
        exchange.write(b"data: " + body.replace(b"\n", b" ") + b"\n\n")
        exchange.finish()
    else:
        exchange.respond(status, body, head, content_type if content_type != SSE_TYPE else JSON_TYPE)


def _may_be_billed(status: int) -> bool:
    """Whether a provider that answered so, without a report of usage, may want money. 0: it did not answer."""
    return status < 300 or (status >= 500 and status not in NOT_BILLED)
