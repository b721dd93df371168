"""What the stub sells and what it charged. Money is exact: pico-dollars, since tokens times micro-dollars per million is that."""

from dataclasses import asdict, dataclass, field
from decimal import Decimal

PICO_PER_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model for sale: prices in micro-dollars per million tokens."""

    name: str
    input: int
    cached_input: int
    output: int
    context_tokens: int = 128_000
    max_output_tokens: int = 16_384

    @classmethod
    def parse(cls, text: str) -> "Model":
        """NAME=INPUT/CACHED/OUTPUT in dollars per million tokens, then optionally ,CONTEXT,MAX_OUTPUT in tokens. Raises ValueError."""
        name, equals, rest = text.partition("=")
        prices, *sizes = rest.split(",")
        dollars = [Decimal(price) * 1_000_000 for price in prices.split("/")]
        if not name or not equals or len(dollars) != 3 or any(d < 0 or d != int(d) for d in dollars) or len(sizes) > 2:
            raise ValueError(f"{text!r}: expected NAME=INPUT/CACHED/OUTPUT[,CONTEXT[,MAX_OUTPUT]]")
        return cls(name, *(int(d) for d in dollars), *(int(s) for s in sizes))

    def pico_usd(self, prompt: int, cached: int, output: int) -> int:
        return (prompt - cached) * self.input + cached * self.cached_input + output * self.output


DEFAULT_MODELS = ("frontier-large=3/0.3/15", "frontier-small=0.25/0.025/2")


@dataclass(slots=True)
class Line:
    """One model's line on the bill. `microUsd` rounds every request up to a micro-dollar; `picoUsd` rounds nothing."""

    requests: int = 0
    promptTokens: int = 0  # noqa: N815 - the names are JSON
    cachedTokens: int = 0  # noqa: N815
    outputTokens: int = 0  # noqa: N815
    microUsd: int = 0  # noqa: N815
    picoUsd: int = 0  # noqa: N815


@dataclass(slots=True)
class Bill:
    """What was sold. A stream that breaks off is charged for what had been generated, as providers do."""

    lines: dict[str, Line] = field(default_factory=dict)

    def charge(self, model: Model, prompt: int, cached: int, output: int) -> None:
        line = self.lines.setdefault(model.name, Line())
        cost = model.pico_usd(prompt, cached, output)
        line.requests += 1
        line.promptTokens += prompt
        line.cachedTokens += cached
        line.outputTokens += output
        line.picoUsd += cost
        line.microUsd += -(-cost // PICO_PER_MICRO)

    def as_dict(self) -> dict[str, object]:
        total = sum(line.microUsd for line in self.lines.values())
        return {"microUsd": total, "models": {name: asdict(line) for name, line in self.lines.items()}}
