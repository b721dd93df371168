"""Faults on purpose: which one is on, how often it strikes. Pure but for its own seeded dice.

Both stand-ins take a fault at start (flags or environment) and change it at run time (POST /sim/fault).
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` strikes each request with `probability` once `after` requests have passed, at most `times` times (None: always).

    `tokens`: how many tokens are out before a stream dies; `factor`: how much slower `slow` is; `seed`: of the dice.
    """

    kind: str
    probability: float = 1.0
    after: int = 0
    times: int | None = None
    tokens: int = 3
    factor: float = 10.0
    seed: int = 0

    @classmethod
    def parse(cls, data: Mapping[str, object], kinds: Collection[str]) -> "Fault | None":
        """A fault from JSON or flags; None for kind "none". Raises ValueError with the reason for anything not understood."""
        names = {f.name: f for f in fields(cls)}
        unknown = set(data) - set(names)
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)}: a fault has {sorted(names)}")
        kind = data.get("kind", "none")
        if kind == "none":
            return None
        if kind not in kinds:
            raise ValueError(f"unknown fault {kind!r}: use one of {sorted(kinds)} or none")
        default = cls(kind=str(kind))
        fault = cls(
            kind=str(kind),
            probability=float(_given(data, "probability", default.probability)),
            after=int(_given(data, "after", default.after)),
            times=None if data.get("times") is None else int(_given(data, "times", 0)),
            tokens=int(_given(data, "tokens", default.tokens)),
            factor=float(_given(data, "factor", default.factor)),
            seed=int(_given(data, "seed", default.seed)),
        )
        if not 0 <= fault.probability <= 1 or fault.factor <= 0 or min(fault.after, fault.tokens, fault.times or 0) < 0:
            raise ValueError(f"{fault}: probability is in [0, 1], factor above 0, counts not negative")
        return fault

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def _given(data: Mapping[str, object], key: str, default: float) -> float | str:
    value = data.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{key}: {value!r} is not a number")
    return value


class FaultPlan:
    """Decides, request by request, whether the fault strikes. Setting a new one starts its counts afresh."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.set(fault)

    def set(self, fault: Fault | None) -> None:
        self.fault = fault
        self.seen = 0
        self.struck = 0
        self._dice = random.Random(fault.seed if fault else 0)

    def next(self) -> Fault | None:
        """The fault for the request that comes now, or None."""
        fault = self.fault
        if fault is None:
            return None
        self.seen += 1
        if self.seen <= fault.after or (fault.times is not None and self.struck >= fault.times):
            return None
        if self._dice.random() >= fault.probability:
            return None
        self.struck += 1
        return fault
