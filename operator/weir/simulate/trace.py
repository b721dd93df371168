"""Reads request traces. One format so far: the CSV of Azure's LLM inference dataset 2023."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


class TraceError(ValueError):
    """The file is no trace that can be read; the message names the line and what was expected."""


@dataclass(frozen=True)
class Arrival:
    """One request: seconds after the trace's first, tokens in and tokens out."""

    at: float
    prompt_tokens: int
    output_tokens: int


def read(path: Path) -> list[Arrival]:
    """All arrivals of an Azure CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`), in order of time."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(parse(file, str(path)))


def parse(lines: Iterable[str], name: str) -> Iterator[Arrival]:
    """The arrivals in `lines`; `name` is for error messages."""
    rows = csv.DictReader(lines)
    if rows.fieldnames is None or list(rows.fieldnames) != _COLUMNS:
        raise TraceError(
            f"{name}: the first line must be {','.join(_COLUMNS)}, not {','.join(rows.fieldnames or [])!r}"
        )
    first: datetime | None = None
    latest = 0.0
    for row in rows:
        try:
            # The dataset has seven digits of a second, one more than datetime knows.
            moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise TraceError(f"{name}, line {rows.line_num}: {error}") from error
        first = first or moment
        at = (moment - first).total_seconds()
        if at < latest or min(tokens) < 0:
            raise TraceError(f"{name}, line {rows.line_num}: times must not go back and tokens must not be negative")
        latest = at
        yield Arrival(at, *tokens)


def speed_up(arrivals: Iterable[Arrival], factor: float) -> list[Arrival]:
    """The same requests arriving `factor` times as fast; what each one asks for stays as it is."""
    return [replace(a, at=a.at / factor) for a in arrivals]
