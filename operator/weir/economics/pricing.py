"""What a request to a provider costs: an upper bound before it leaves, the exact amount once usage is known.

Prices are integer micro-dollars per million tokens, amounts integer micro-dollars, always rounded up: a budget may be
over-counted by less than a millionth of a dollar a request, never under-counted.
"""

from dataclasses import dataclass
from typing import Self

from weir.api.frontierprovider import Pricing

TOKENS_PER_PRICE = 1_000_000
PROMPT_BASE_TOKENS = 64
PROMPT_MESSAGE_TOKENS = 16
"""What a chat template adds around a prompt and around each message: 3-12 tokens in the published templates of OpenAI,
Llama and Qwen (their longest, Llama's default system header, has 26 tokens); these are above all of them."""


@dataclass(frozen=True)
class Price:
    """Micro-dollars per million tokens."""

    input: int
    cached_input: int
    output: int

    @classmethod
    def from_api(cls, pricing: Pricing) -> Self:
        """The price that a provider's entry states; cached input costs as much as input where it says nothing."""
        cached = pricing.cached_input_usd_per_m_tok or pricing.input_usd_per_m_tok
        return cls(pricing.input_usd_per_m_tok.micros, cached.micros, pricing.output_usd_per_m_tok.micros)


@dataclass(frozen=True)
class Usage:
    """Tokens as OpenAI reports them: `prompt` includes `cached`."""

    prompt: int
    completion: int
    cached: int = 0


def cost_micros(price: Price, usage: Usage) -> int:
    """The exact cost of a finished request, rounded up to a micro-dollar.

    1,000 prompt tokens of which 400 cached at 3 / 0.3 USD per million and 200 output tokens at 15 USD:
    600 x 3 + 400 x 0.3 + 200 x 15 = 4,920 micro-dollars.
    """
    cached = min(usage.cached, usage.prompt)
    total = (usage.prompt - cached) * price.input + cached * price.cached_input + usage.completion * price.output
    return -(-total // TOKENS_PER_PRICE)


def prompt_tokens_bound(body_bytes: int, messages: int) -> int:
    """At least as many tokens as the prompt of a request of text can have.

    A token stands for one byte of UTF-8 or more, and a JSON string is never shorter than the text it stands for, so the
    length of the body bounds the text; the chat template adds its own.
    """
    return body_bytes + PROMPT_BASE_TOKENS + messages * PROMPT_MESSAGE_TOKENS


def bound_micros(price: Price, prompt_tokens: int, output_tokens: int, choices: int) -> int:
    """The most that a request can cost: every prompt token at the dearer of the input rates, every choice to its cap."""
    dearest_input = max(price.input, price.cached_input)
    return -(-(prompt_tokens * dearest_input + output_tokens * choices * price.output) // TOKENS_PER_PRICE)
