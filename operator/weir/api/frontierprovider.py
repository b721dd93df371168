"""FrontierProvider: an OpenAI-compatible API that takes what does not fit, with its key, prices, limits and budget."""

from typing import ClassVar

from pydantic import Field

from weir.api.base import ApiModel, CustomResource, ObjectMeta, Rule
from weir.api.conditions import Condition
from weir.api.modeldeployment import Budget
from weir.api.quantity import Duration, Usd

ALLOWED_HOSTS_ANNOTATION = "weir.dev/allowed-hosts"
"""On the Secret: comma-separated hosts (host or host:port) that its key may be sent to. Whoever may write a provider must
not be able to send a Secret to a host of their own."""


class KeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253)
    key: str = Field("api-key", min_length=1, max_length=253)


class ProviderCredentials(ApiModel):
    """The API key, sent as a bearer token to the hosts that the Secret's annotation weir.dev/allowed-hosts names."""

    secret_ref: KeyRef


class Pricing(ApiModel):
    """Dollars per million tokens."""

    input_usd_per_m_tok: Usd = Field(alias="inputUsdPerMTok")
    cached_input_usd_per_m_tok: Usd | None = Field(
        None, alias="cachedInputUsdPerMTok", description="default: the input price"
    )
    output_usd_per_m_tok: Usd = Field(alias="outputUsdPerMTok")


class ProviderModel(ApiModel):
    """A model that the provider sells. Without a price it is never spilled to."""

    name: str = Field(min_length=1, max_length=256)
    context_tokens: int = Field(ge=1, le=100_000_000, description="longer requests stay here")
    max_output_tokens: int = Field(
        ge=1, le=10_000_000, description="the cap set where the client set none; bounds what a request can cost"
    )
    pricing: Pricing | None = None


class Limits(ApiModel):
    """What the provider lets us do."""

    max_concurrency: int = Field(64, ge=1, le=100_000, description="requests in flight there, over all gateways")


class Timeouts(ApiModel):
    """How long each phase of a request may take there."""

    connect: Duration = Duration("3s")
    first_byte: Duration = Duration("60s")
    first_token: Duration = Field(Duration("120s"), description="streams only")
    between_events: Duration = Duration("60s")
    total: Duration = Duration("10m")


class FrontierProviderSpec(ApiModel):
    """What the user wants."""

    base_url: str = Field(
        alias="baseURL",
        max_length=2048,
        description="up to and without /chat/completions, e.g. https://api.openai.com/v1",
    )
    credentials: ProviderCredentials
    models: tuple[ProviderModel, ...] = Field(
        min_length=1,
        max_length=128,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    limits: Limits = Limits()
    budget: Budget | None = None
    timeouts: Timeouts = Timeouts()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(  # in the path: printable ASCII but ? and #, and no / at the end
            rule="self.baseURL.matches('^https?://([A-Za-z0-9.-]+|\\\\[[0-9A-Fa-f:.]+\\\\])(:[0-9]{1,5})?(/[!-\"$->@-~]*[!-\"$-.0->@-~])?$')",
            message="spec.baseURL must be http(s)://HOST[:PORT][/PATH] without user, query, fragment, blank or a slash at the end",
            field_path=".baseURL",
        ),
    )


class Spend(ApiModel):
    """What the SpendLedger says."""

    usd_today: Usd = Usd("0")
    leased_usd: Usd = Usd("0")
    window_start: str = ""


class FrontierProviderStatus(ApiModel):
    """What the operator observed."""

    observed_generation: int = 0
    spend: Spend = Spend()
    ledger_uid: str | None = Field(None, alias="ledgerUID")
    ledger_lost_on: str = Field(
        "", description="UTC day on which that SpendLedger was found gone: nothing may be spent until it ends"
    )
    conditions: tuple[Condition, ...] = Field(
        (), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    )


class FrontierProvider(CustomResource):
    """A frontier API that takes what does not fit."""

    kind_name: ClassVar[str] = "FrontierProvider"
    metadata: ObjectMeta
    spec: FrontierProviderSpec
    status: FrontierProviderStatus = FrontierProviderStatus()

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="size(self.metadata.name) <= 200",
            message="metadata.name must have at most 200 characters: its SpendLedger is named after it",
        ),
    )

    def find_model(self, name: str) -> ProviderModel | None:
        """The model of that exact name."""
        return next((m for m in self.spec.models if m.name == name), None)
