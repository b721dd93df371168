"""Durations and dollars: exact, and the text of the user kept."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from weir.api.quantity import MICROS_PER_USD, Duration, Usd


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("1m30s", 90), ("1h", 3600), ("1.5h", 5400), ("1h1m1s1ms", 3661.001), ("0s", 0)],
)
def test_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert Duration(text).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "5d", "5us", "s", "1h ", "1h\n", ".5s", "5.s", "\u0665s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a Duration: write it like '1m30s'"):
        Duration(text)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("50", 50_000_000),
        ("2.95", 2_950_000),
        ("0.000001", 1),
        ("0.30", 300_000),
        ("999999999", 999_999_999_000_000),
    ],
)
def test_dollars_are_integer_micros(text: str, micros: int) -> None:
    assert Usd(text).micros == micros


@pytest.mark.parametrize("text", ["", "-1", "+1", "1,5", "$5", "1e3", ".5", "5.", "0.0000001", "1000000000", "5\n"])
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a Usd: write it like '2.95'"):
        Usd(text)


@given(st.integers(0, 999_999_999 * MICROS_PER_USD))
def test_an_amount_survives_the_way_to_its_string_and_back(micros: int) -> None:
    text = Usd.from_micros(micros)
    assert text.micros == micros
    assert not re.search(r"\.\d*0$|\.$", text), "the shortest string has no zeros at its end"


@pytest.mark.parametrize("micros", [-1, -MICROS_PER_USD, 1_000_000_000 * MICROS_PER_USD])
def test_an_amount_that_has_no_string_is_an_error(micros: int) -> None:
    with pytest.raises(ValueError, match="is not a Usd"):
        Usd.from_micros(micros)


@given(st.from_regex(Usd.pattern, fullmatch=True).filter(str.isascii), st.from_regex(Duration.pattern, fullmatch=True))
def test_a_model_gives_back_exactly_what_the_user_wrote(price: str, timeout: str) -> None:
    class Box(BaseModel):
        price: Usd
        timeout: Duration

    box = Box.model_validate({"price": price, "timeout": timeout})
    assert box.model_dump(mode="json") == {"price": price, "timeout": timeout}
    assert isinstance(box.price, Usd)
    assert isinstance(box.timeout, Duration)
