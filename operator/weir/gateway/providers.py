"""The providers as the gateway uses them: key, price, breaker and concurrency, and why one cannot take a request now."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from weir.api.frontierprovider import FrontierProvider, ProviderModel
from weir.api.spendledger import ledger_name
from weir.economics.pricing import Price, bound_micros, prompt_tokens_bound
from weir.gateway.breaker import Breaker
from weir.gateway.money import Budget
from weir.gateway.request import InferenceRequest
from weir.gateway.view import SecretView
from weir.kube.resources import Key
from weir.overflow.policy import Reason

TEXT_BYTES_PER_TOKEN = 4
"""To judge whether a prompt fits the context: the usual ratio of English text. Too long by this measure is too long for certain
in most other languages, and what is only just too long gets the provider's own 400, which costs nothing."""


_LINE = re.compile(r"[!-~]+")


class Provider:
    """One FrontierProvider."""

    def __init__(self, view: FrontierProvider) -> None:
        self.view = view
        self.key = ""
        """Its API key; empty where there is none, or none that may be sent to its host."""
        self.no_key = ""
        """Why there is none, in words for the log."""
        self.breaker = Breaker()
        self.in_flight = 0

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return self.view.key

    @property
    def budget(self) -> Budget | None:
        """The provider's own budget, if it has one."""
        spec, meta = self.view.spec, self.view.metadata
        if spec.budget is None:
            return None
        key = Key(meta.namespace, ledger_name("FrontierProvider", meta.name))
        return Budget(key, spec.budget.usd_per_day.micros, self.view.status.ledger_uid)

    def update(self, view: FrontierProvider, secret: SecretView | None) -> None:
        """Its object or its Secret changed."""
        if view.spec.base_url != self.view.spec.base_url:
            self.breaker = Breaker()
        self.view = view
        ref = view.spec.credentials.secret_ref
        self.key = ""
        if secret is None:
            self.no_key = (
                f"Secret {ref.name} is missing, may not be read here, or has no annotation weir.dev/allowed-hosts"
            )
        elif (origin := _origin(view.spec.base_url)) is None:
            self.no_key = "baseURL has no valid host and port"
        elif not origin & secret.allowed_hosts:
            self.no_key = f"Secret {ref.name} does not name the host of baseURL in weir.dev/allowed-hosts"
        elif not _LINE.fullmatch(secret.data.get(ref.key, "").strip()):
            self.no_key = f"Secret {ref.name} has no key {ref.key} of one line"
        else:
            self.key = secret.data[ref.key].strip()
            self.no_key = ""

    def blocked(self, model: str, request: InferenceRequest, now: float, gateways: int) -> Reason | None:
        """Why it cannot take this request now, money apart. `gateways` share its concurrency."""
        sold = self.view.find_model(model)
        if sold is None:
            return Reason.PROVIDER_MISSING
        if sold.pricing is None:
            return Reason.UNKNOWN_PRICE
        if not self.key or not self.breaker.allows(now):
            return Reason.PROVIDER_UNAVAILABLE
        if len(request.body) // TEXT_BYTES_PER_TOKEN > sold.context_tokens:
            return Reason.CONTEXT_TOO_LONG
        share = max(1, self.view.spec.limits.max_concurrency // max(1, gateways))
        if self.in_flight >= share or self.breaker.full_for(now) > 0:
            return Reason.PROVIDER_BUSY
        return None


def price_of(sold: ProviderModel) -> Price:
    """The model's price. Raises ValueError where there is none: such a model is never asked."""
    if sold.pricing is None:
        raise ValueError(f"the price of {sold.name} is not known")
    return Price.from_api(sold.pricing)


def bound_of(sold: ProviderModel, request: InferenceRequest) -> int:
    """The most that the request can cost there, in micro-dollars."""
    prompt = prompt_tokens_bound(len(request.body), request.messages)
    return bound_micros(price_of(sold), prompt, request.output_cap or sold.max_output_tokens, request.choices)


def _origin(base_url: str) -> set[str] | None:
    """The spellings of its host, with and without the port. None: it has no host, or a port that is none."""
    try:
        url = urlsplit(base_url)
        host, port = (url.hostname or "").lower(), url.port
    except ValueError:
        return None
    if port is None:
        port = 443 if url.scheme == "https" else 80
    bracketed = f"[{host}]" if ":" in host else host
    return {host, bracketed, f"{bracketed}:{port}"} if host and port else None
