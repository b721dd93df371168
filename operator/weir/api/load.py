"""What a gateway answers on /load: the contract between gateways, and between gateways and the operator.

Sums only grow while a gateway lives (`gateway` and `started_at` tell one life from the next), so that any reader gets the
exact mean over any window as a difference of two answers, however often it asks.
"""

from weir.api.base import ApiModel


class ModelLoad(ApiModel):
    """One model's load at one gateway. Slots are requests times their number of choices `n`."""

    in_flight: dict[str, int] = {}
    """Slots taken now, by replica (pod name)."""
    queued: int = 0
    """Slots' worth of requests waiting for one now."""
    spilling: int = 0
    """Slots' worth of requests at a provider now that went there for want of capacity here."""
    local_slot_seconds: float = 0.0
    queued_slot_seconds: float = 0.0
    spilled_work_seconds: float = 0.0
    """Slots x mean local service seconds of each request that left or was refused for want of capacity, added as it leaves."""
    mean_service_seconds: float = 0.0
    requests: dict[str, dict[str, int]] = {}
    """Decided requests by route (local, frontier, refused) and reason."""
    last_request_at: float = 0.0
    """Unix seconds of the latest arrival, 0 for none."""
    observed_generation: int = 0
    frontier_micro_usd: int = 0
    """Settled spending at providers since the start, micro-dollars."""

    @property
    def work_seconds(self) -> float:
        """Slot-seconds of demand so far: local, queued, and what left or was refused for want of capacity."""
        return self.local_slot_seconds + self.queued_slot_seconds + self.spilled_work_seconds


class LoadReport(ApiModel):
    """One gateway's answer."""

    gateway: str
    """Pod uid (or a process id where there is none)."""
    started_at: float
    at: float
    """Unix seconds when this was taken."""
    ready: bool
    models: dict[str, ModelLoad] = {}
    """By `namespace/name` of the ModelDeployment."""
