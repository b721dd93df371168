"""What a request costs is exact, and what it may cost at most is never less."""

from hypothesis import given
from hypothesis import strategies as st

from weir.api.frontierprovider import Pricing
from weir.economics.pricing import Price, Usage, bound_micros, cost_micros, prompt_tokens_bound

PRICE = Price(input=3_000_000, cached_input=300_000, output=15_000_000)


def test_the_worked_example() -> None:
    assert cost_micros(PRICE, Usage(prompt=1000, completion=200, cached=400)) == 4920


def test_cached_tokens_are_counted_once() -> None:
    assert cost_micros(PRICE, Usage(1000, 0, 1000)) == 300
    assert cost_micros(PRICE, Usage(10, 0, 999)) == 3, "more cached than prompt is a provider's slip, not a refund"


def test_a_fraction_of_a_micro_dollar_is_rounded_up() -> None:
    assert cost_micros(Price(1, 1, 1), Usage(1, 0)) == 1


def test_cached_input_defaults_to_the_input_price() -> None:
    pricing = Pricing.model_validate({"inputUsdPerMTok": "0.15", "outputUsdPerMTok": "0.6"})
    assert Price.from_api(pricing) == Price(150_000, 150_000, 600_000)


prices = st.builds(Price, *[st.integers(0, 100_000_000)] * 3)


@given(prices, st.text(max_size=400), st.integers(0, 20), st.integers(1, 8), st.data())
def test_no_usage_exceeds_the_bound(price: Price, text: str, messages: int, choices: int, data: st.DataObject) -> None:
    prompt_bound = prompt_tokens_bound(len(text.encode(errors="surrogatepass")), messages)
    cap = data.draw(st.integers(1, 4000))
    prompt = data.draw(st.integers(0, prompt_bound))
    usage = Usage(prompt, data.draw(st.integers(0, cap * choices)), data.draw(st.integers(0, prompt)))
    assert cost_micros(price, usage) <= bound_micros(price, prompt_bound, cap, choices)
