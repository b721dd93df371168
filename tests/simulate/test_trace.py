"""Traces are read as published, and what is no trace is refused with its line."""

from pathlib import Path

import pytest

from weir.simulate.trace import Arrival, TraceError, parse, read, speed_up

SLICE = Path(__file__).parents[2] / "hack/demo/trace/azure2023-conv-8min.csv"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def test_the_shipped_slice_is_read_whole() -> None:
    arrivals = read(SLICE)
    assert len(arrivals) == 2247
    assert arrivals[0] == Arrival(0.0, 374, 44)
    assert arrivals[1].at == pytest.approx(4.314579)
    assert arrivals[-1].at < 480


def test_speed_up_changes_times_only() -> None:
    assert speed_up([Arrival(6.0, 10, 20)], 6) == [Arrival(1.0, 10, 20)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b"], "first line must be"),
        ([], "first line must be"),
        ([HEADER, "soon,1,2"], "line 2"),
        ([HEADER, "2023-11-16 18:15:46.0000000,1"], "line 2"),
        ([HEADER, "2023-11-16 18:15:46.0000000,1,-2"], "negative"),
        ([HEADER, "2023-11-16 18:15:46.0000000,1,2", "2023-11-16 18:15:45.0000000,1,2"], "line 3"),
    ],
)
def test_what_is_no_trace_is_refused(lines: list[str], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        list(parse(lines, "t.csv"))
