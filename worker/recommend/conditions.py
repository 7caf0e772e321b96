"""What the attributes of an item must be for it to be an answer: `price < 40`, `category = kitchen`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from schemas import DEFAULT_LIMITS, AttributeValue
from worker.errors import ConfigError

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
_SHAPE = re.compile(r"\s*([^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class Condition(NamedTuple):
    """Of one attribute. An item without it, or with one of another kind, is no answer."""

    name: str
    operator: Operator
    value: str | float | bool

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.value}"

    def holds(self, attributes: Mapping[str, AttributeValue]) -> bool:
        """A list is equal to each of its texts."""
        found = attributes.get(self.name)
        if found is None:
            return False
        if self.operator in ("=", "!="):
            return self._is_equal(found) == (self.operator == "=")
        if isinstance(found, bool) or not isinstance(found, int | float) or isinstance(self.value, str):
            return False
        return {
            "<": found < self.value,
            "<=": found <= self.value,
            ">": found > self.value,
            ">=": found >= self.value,
        }[self.operator]

    def _is_equal(self, found: AttributeValue) -> bool:
        if isinstance(found, list | tuple):
            return self.value in found
        return isinstance(found, bool) == isinstance(self.value, bool) and found == self.value


def condition(text: str) -> Condition:
    """From `price < 40`. What looks like a number is one, and `true` and `false` are what they say; in double quotes a
    value is text. Raises `ConfigError`."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--where {text!r}: should be an attribute, one of {' '.join(OPERATORS)}, and a value, as 'price < 40'"
        )
    name, operator, written = found[1], found[2], found[3].strip()
    if len(name) > DEFAULT_LIMITS.name_chars:
        raise ConfigError(
            f"--where {text!r}: no attribute has a name of more than {DEFAULT_LIMITS.name_chars} characters"
        )
    if not written:
        raise ConfigError(f'--where {text!r}: the value is missing; the empty text is ""')
    value = _value(written)
    if operator not in ("=", "!=") and (isinstance(value, str | bool)):
        raise ConfigError(f"--where {text!r}: {operator} compares numbers, and {written} is none")
    return Condition(name, operator, value)  # type: ignore[arg-type]  # the expression knows no others


def _value(written: str) -> str | float | bool:
    if len(written) >= 2 and written[0] == written[-1] == '"':
        return written[1:-1]
    if written in ("true", "false"):
        return written == "true"
    return float(written) if _NUMBER.fullmatch(written) else written
