"""The two quantities users write as strings: Go durations ("1m30s") and dollars ("2.95")."""

import re
from decimal import Decimal
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

MICROS_PER_USD = 1_000_000

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


class _Quantity(str):
    """A string that keeps exactly what the user wrote, so that server-side apply sees no difference."""

    __slots__ = ()
    pattern: ClassVar[str]
    example: ClassVar[str]

    def __new__(cls, text: str) -> Self:
        if not re.fullmatch(cls.pattern, text):
            raise ValueError(f"{text!r} is not a {cls.__name__}: write it like {cls.example!r}")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{cls.pattern}$", "maxLength": 32}


class Duration(_Quantity):
    """A Go duration of milliseconds to hours: "500ms", "30s", "1h30m"."""

    __slots__ = ()
    pattern = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+"
    example = "1m30s"

    @property
    def seconds(self) -> float:
        """The duration in seconds, 0 or more."""
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(self))


class Usd(_Quantity):
    """Dollars as a decimal string of at most six places; arithmetic is on `micros`, integer millionths of a dollar.

    Also used for dollars per million tokens, where `micros` is micro-dollars per million tokens.
    """

    __slots__ = ()
    pattern = r"[0-9]{1,9}(\.[0-9]{1,6})?"
    example = "2.95"

    @property
    def micros(self) -> int:
        """Integer micro-dollars, exact."""
        return int(Decimal(self) * MICROS_PER_USD)

    @classmethod
    def from_micros(cls, micros: int) -> Self:
        """The shortest string for an amount: 2_950_000 is "2.95". Negative amounts are a ValueError."""
        whole, part = divmod(micros, MICROS_PER_USD)
        return cls(f"{whole}.{part:06d}".rstrip("0").rstrip("."))
