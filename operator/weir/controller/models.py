"""ModelDeployments: observe, plan, carry out, say how it stands. The operator's main work, one object at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from weir.api import claims
from weir.api.modeldeployment import ModelDeployment, ModelDeploymentStatus
from weir.controller import evidence, spill
from weir.controller.autoscale import Autoscaler
from weir.controller.conditions import Facts, ScalingView, changed
from weir.controller.config import OperatorConfig
from weir.controller.errors import RECHECK_SECONDS, Stalled, Waiting
from weir.controller.evidence import Evidence
from weir.controller.execute import FIELD_MANAGER, Executor
from weir.controller.ledgers import Book, Ledgers
from weir.controller.own import OwnKinds
from weir.controller.plan import Children, plan, rolled_out
from weir.controller.providers import measure_budget, seconds_to_midnight
from weir.controller.secrets import FINE_SECONDS, LACKING_SECONDS, Secrets
from weir.controller.status import QUIET_SECONDS, build, economics, to_apply, urgent
from weir.controller.telling import Teller
from weir.controller.views import Views
from weir.kube.client import KubeClient
from weir.kube.errors import ApiError, NotFound
from weir.kube.resources import MODELDEPLOYMENTS, Key
from weir.observability import operator_metrics as metrics
from weir.workload.names import revision_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Attempt:
    """How carrying out the plan went."""

    stalled: Evidence | None = None
    waiting: Evidence | None = None
    again: float = float("inf")
    """Seconds."""


class ModelReconciler:
    """Looks at one ModelDeployment."""

    def __init__(
        self, kube: KubeClient, config: OperatorConfig, own: OwnKinds, views: Views, autoscaler: Autoscaler,
        secrets: Secrets, ledgers: Ledgers, teller: Teller,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._config = config
        self._own = own
        self._views = views
        self._autoscaler = autoscaler
        self._executor = Executor(kube)
        self._secrets = secrets
        self._ledgers = ledgers
        self._teller = teller
        self._written: dict[str, float] = {}  # uid -> monotonic seconds

    async def reconcile(self, key: Key) -> float | None:
        """Answers in how many seconds to look again; None where something will happen before that is worth it."""
        try:
            mdep = ModelDeployment.from_object(await self._kube.get(MODELDEPLOYMENTS, *key))
        except NotFound:
            self.forget(key)
            return None
        if mdep.metadata.deletion_timestamp:
            return None  # the garbage collector's turn
        self._own.models[key] = mdep
        revision = revision_of(mdep, self._config.workload)
        children = self._views.children(mdep)
        self._autoscaler.adopt(mdep, _last_desired(mdep, children, revision))
        attempt = await self._act(mdep, key, revision, children)
        view = self._autoscaler.view(key)
        if (
            view is None
        ):  # it looks within the second, and then says so: no status before that, or it would tell of no demand
            return attempt.again if attempt.again != float("inf") else None

        now = self._kube.server_now()
        book, spent = await self._budget(mdep, key, now.strftime("%Y-%m-%d"))
        facts = await self._facts(mdep, key, revision, children, attempt, book, spent, view)
        status = build(
            facts, book.uid, book.lost_on, spent.spent if spent else None, now.strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        self._measure(key, facts, status, children)
        again = [attempt.again, await self._write(mdep, status)]
        if mdep.spec.model.credentials:
            again.append(LACKING_SECONDS if facts.secret else FINE_SECONDS)
        if spent:
            again.append(seconds_to_midnight(now))
        return min(again) if min(again) != float("inf") else None

    def forget(self, key: Key) -> None:
        """It is gone; the garbage collector removes what it owned. Names it held are free for others."""
        gone = self._own.models.pop(key, None)
        self._autoscaler.forget(key)
        metrics.forget_model(*key)
        metrics.forget_budget(key.namespace, ModelDeployment.kind_name, key.name)
        if gone is not None:
            self._written.pop(gone.metadata.uid, None)

    async def _act(self, mdep: ModelDeployment, key: Key, revision: str, children: Children) -> _Attempt:
        desired, in_flight = self._autoscaler.desired(mdep), self._autoscaler.in_flight(key)
        try:
            planned = plan(mdep, revision, desired, children, in_flight, self._config.workload)
            await self._executor.carry_out(mdep, planned.actions)
        except Stalled as error:
            return _Attempt(stalled=Evidence(error.reason, error.message), again=error.recheck)
        except Waiting as error:
            return _Attempt(waiting=Evidence(error.reason, error.message), again=error.after)
        except ApiError:
            raise
        except Exception as error:  # a fault of Weir's: logged for its author, and told to whom it keeps from serving
            log.exception("cannot act", model=mdep.key)
            message = f"Weir itself failed, its log has the trace: {evidence.said(repr(error))}"
            return _Attempt(stalled=Evidence("InternalError", message), again=RECHECK_SECONDS)
        refused = planned.refused
        return _Attempt(stalled=Evidence(refused.reason, refused.message) if refused else None)

    async def _budget(self, mdep: ModelDeployment, key: Key, today: str) -> tuple[Book, spill.Spending | None]:
        overflow = mdep.spec.overflow
        if overflow is None or overflow.budget is None:
            measure_budget(key, mdep.kind_name, None)
            return Book(None), None
        noted = mdep.status.overflow
        book = await self._ledgers.book("ModelDeployment", key, noted.ledger_uid, noted.ledger_lost_on, today)
        spent = spill.spending(book.ledger, overflow.budget.usd_per_day, today)
        measure_budget(key, mdep.kind_name, spent)
        return book, spent

    async def _facts(
        self, mdep: ModelDeployment, key: Key, revision: str, children: Children, attempt: _Attempt, book: Book,
        spent: spill.Spending | None, view: ScalingView,
    ) -> Facts:  # fmt: skip
        live = [pod for pod in children.pods if pod.live]
        now = [pod for pod in children.pods if pod.revision == revision]
        credentials = mdep.spec.model.credentials
        secret = None
        if credentials:
            secret = await self._secrets.lacks(key.namespace, credentials.secret_ref.name, "HF_TOKEN")
        current_sets = [rs for rs in children.replica_sets if rs.revision == revision]
        owners = claims.owners(self._own.models_of(key.namespace))
        providers = self._own.providers_of(key.namespace)
        return Facts(
            mdep=mdep,
            revision=revision,
            desired=self._autoscaler.desired(mdep),
            replicas=len(live),
            ready=sum(pod.ready for pod in live),
            ready_now=sum(pod.ready and pod.live for pod in now),
            rolled_out=rolled_out(children, revision),
            stalled=attempt.stalled,
            waiting=attempt.waiting,
            trouble=evidence.of_pods(now) or evidence.of_replica_sets(current_sets),
            secret=secret and Evidence(secret.reason, f"spec.model.credentials.secretRef: {secret.message}"),
            unscheduled=evidence.of_capacity(mdep, live, self._views.nodes),
            lost_names=tuple(
                (name, owners[name].metadata.name)
                for name in mdep.served_names
                if owners[name].metadata.uid != mdep.metadata.uid
            ),
            scaling=view,
            overflow=spill.availability(
                mdep,
                providers,
                book.problem or spent,
                out_of_budget=self._autoscaler.out_of_budget(key),
                leaves=self._config.anonymous_overflow,
                keys_in=self._config.secret_namespaces,
            ),
        )

    async def _write(self, mdep: ModelDeployment, status: ModelDeploymentStatus) -> float:
        """Seconds until something is left to write; infinite where nothing is."""
        old, uid = mdep.status, mdep.metadata.uid
        if status == old.model_copy(update={"conditions": tuple(sorted(old.conditions, key=lambda c: c.type))}):
            return float("inf")
        quiet = self._written.get(uid, 0.0) + QUIET_SECONDS - time.monotonic()
        if quiet > 0 and not urgent(old, status):
            return quiet
        applied = to_apply(mdep, status)
        await self._kube.apply(MODELDEPLOYMENTS, applied, field_manager=FIELD_MANAGER, subresource="status")
        self._written[uid] = time.monotonic()
        self._teller.conditions(mdep, changed(old.conditions, status.conditions))
        return float("inf")

    def _measure(self, key: Key, facts: Facts, status: ModelDeploymentStatus, children: Children) -> None:
        scaling = facts.mdep.spec.scaling
        states = [pod.state for pod in children.pods]
        for state in metrics.REPLICA_STATES:
            metrics.REPLICAS.labels(*key, state).set(states.count(state))
        metrics.TARGET.labels(*key).set(scaling.target_utilization / 100)
        metrics.DESIRED.labels(*key).set(facts.desired)
        metrics.MIN_REPLICAS.labels(*key).set(scaling.min_replicas)
        metrics.MAX_REPLICAS.labels(*key).set(scaling.max_replicas)
        for condition in status.conditions:
            metrics.MODEL_CONDITION.labels(*key, condition.type).set(condition.status == "True")
        hourly = economics(facts.mdep, facts.replicas).usd_per_hour
        if hourly is None:
            metrics.USD_PER_HOUR.remove_by_labels({"namespace": key.namespace, "model": key.name})
        else:
            metrics.USD_PER_HOUR.labels(*key).set(hourly.micros / 1_000_000)


def _last_desired(mdep: ModelDeployment, children: Children, revision: str) -> int | None:
    """What an operator before this one wanted: from the ReplicaSets, or from status where somebody removed them all."""
    noted = children.last_desired(revision)
    return noted if noted is not None or not mdep.status.observed_generation else mdep.status.desired_replicas
