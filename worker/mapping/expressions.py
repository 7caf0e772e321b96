"""Paths, variables and templates: what a mapping says of where a value is found.

A path is JMESPath, of which names joined by dots are read by a few lines here, ten times as fast; the library is asked
for nothing else. What does not stand in the value of a record is a variable, which begins with `$`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.mapping.documents import VARIABLES, Document
from worker.mapping.problem import MisfitError, shown
from worker.printable import shortened

Getter = Callable[[Document], Any]
"""None: there is nothing. Raises `MisfitError`."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLAIN = re.compile(rf"{_NAME}(\.{_NAME})*")
_VARIABLE = re.compile(rf"\$({_NAME})?(.*)", re.DOTALL)
JOINED_BY = ", "
"""Between the elements of a list in a text."""


class ExpressionError(ValueError):
    """An expression is wrong. Says what and how, without the place."""


@dataclass(frozen=True, slots=True)
class Expression:
    """Where a value comes from, ready to be asked."""

    text: str
    """The expression as it was written."""
    get: Getter
    is_constant: bool = False
    variables: frozenset[str] = frozenset()
    """Those that it asks for."""


def constant(value: str) -> Expression:
    return Expression(value, lambda document: value, is_constant=True)


def expression(text: str) -> Expression:
    """A path, a variable, or a template where there are braces. Raises `ExpressionError`."""
    if not text.strip():
        raise ExpressionError("is empty: name a path in the record, such as after.sku")
    return template(text) if "{" in text or "}" in text else path(text.strip())


def path(text: str) -> Expression:
    """Compile the path of one value. Raises `ExpressionError`."""
    if text.startswith("$"):
        return _variable(text)
    if _PLAIN.fullmatch(text):
        return Expression(text, _plain(text.split(".")))
    return Expression(text, _jmespath(text))


def template(text: str, *, needs_all: bool = False) -> Expression:
    """A text with paths in braces. What is missing is left out, and a text without any of them is missing; with
    `needs_all`, one that lacks any. `{{` and `}}` are braces. Raises `ExpressionError`."""
    pieces: list[str | Expression] = list(_pieces(text))
    inner = [each for each in pieces if isinstance(each, Expression)]
    if not inner:
        raise ExpressionError('has braces and no path in them: write "{title}", or {{ for a brace')
    variables = frozenset(name for each in inner for name in each.variables)
    return Expression(text, _filled(pieces, needs_all), variables=variables)


def _plain(names: Sequence[str]) -> Getter:
    if len(names) == 1:
        (name,) = names
        return lambda document: document.root.get(name)
    if len(names) == 2:
        outer, inner = names

        def of_two(document: Document) -> Any:
            value = document.root.get(outer)
            return value.get(inner) if type(value) is dict else None

        return of_two

    def of_many(document: Document) -> Any:
        return follow(document.root, names)

    return of_many


def follow(value: Any, names: Sequence[str]) -> Any:
    """Look up names, one inside the other; None where one is missing."""
    for name in names:
        if type(value) is not dict:
            return None
        value = value.get(name)
    return value


def _jmespath(text: str) -> Getter:
    search = _compiled(text)
    return lambda document: search(document.root)


def _compiled(text: str) -> Callable[[Any], Any]:
    try:
        import jmespath
        from jmespath.exceptions import JMESPathError
    except ImportError:
        raise ExpressionError(
            f"{shortened(text)!r} is more than names joined by dots, which needs jmespath: "
            "pip install 'align-worker[json]'"
        ) from None
    try:
        compiled = jmespath.compile(text)
    except (JMESPathError, RecursionError, ValueError) as error:
        raise ExpressionError(_syntax(text, str(error))) from None

    def search(root: Any) -> Any:
        try:
            return compiled.search(root)
        except (JMESPathError, RecursionError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise MisfitError(f"the path cannot be followed: {shortened(_first_line(str(error)), 120)}") from None

    return search


def _syntax(text: str, told: str) -> str:
    column = re.search(r"column (\d+)", told)
    where = f" at character {int(column[1]) + 1}" if column else ""
    advice = f"; a name with other characters stands in quotes: '\"{text}\"'" if re.fullmatch(r"[\w.-]+", text) else ""
    return f"{shortened(text)!r} is no path{where}{advice}"


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _variable(text: str) -> Expression:
    found = _VARIABLE.fullmatch(text)
    name, rest = (found[1] or "", found[2]) if found else ("", "")
    if name not in VARIABLES:
        raise ExpressionError(f"there is no variable ${name}; there are {', '.join(f'${each}' for each in VARIABLES)}")
    names = frozenset({name})
    if name == "header":
        if not rest.startswith(".") or len(rest) < 2:
            raise ExpressionError("$header needs the name of a header, such as $header.ce_type")
        return Expression(text, lambda document: document.header(rest[1:]), variables=names)
    if not rest:
        return Expression(text, VARIABLES[name], variables=names)
    if name != "key" or not rest.startswith(".") or len(rest) < 2:
        raise ExpressionError(f"${name} has nothing in it: {shortened(text)!r}")
    if _PLAIN.fullmatch(rest[1:]):
        inner = rest[1:].split(".")
        return Expression(text, lambda document: follow(document.key, inner), variables=names)
    search = _compiled(rest[1:])
    return Expression(text, lambda document: search(document.key), variables=names)


def _pieces(text: str) -> list[str | Expression]:
    pieces: list[str | Expression] = []
    literal, position = "", 0
    while position < len(text):
        char = text[position]
        if char in "{}" and text[position : position + 2] == char * 2:
            literal, position = literal + char, position + 2
        elif char == "}":
            raise ExpressionError(f"a brace is closed at character {position + 1} that was not opened; }}}} is a brace")
        elif char == "{":
            end = text.find("}", position)
            if end < 0:
                raise ExpressionError(f"the brace at character {position + 1} is not closed; {{{{ is a brace")
            inner = text[position + 1 : end].strip()
            if not inner:
                raise ExpressionError(f"the braces at character {position + 1} are empty: a path belongs in them")
            pieces += [literal] if literal else []
            pieces.append(path(inner))
            literal, position = "", end + 1
        else:
            literal, position = literal + char, position + 1
    return [*pieces, literal] if literal else pieces


def _filled(pieces: Sequence[str | Expression], needs_all: bool) -> Getter:
    steps = [each if isinstance(each, str) else each.get for each in pieces]

    def fill(document: Document) -> str | None:
        parts: list[str] = []
        num_found = num_missing = 0
        for step in steps:
            if type(step) is str:
                parts.append(step)
                continue
            value = step(document)  # type: ignore[operator]
            text = value if type(value) is str else as_text(value)
            if text:
                num_found += 1
                parts.append(text)
            else:
                num_missing += 1
        if not num_found or (needs_all and num_missing):
            return None
        return "".join(parts).strip()

    return fill


def as_text(value: Any) -> str:
    """A value as it stands in a text; empty for what is missing. Raises `MisfitError` for what has no text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    if isinstance(value, list | tuple):
        return JOINED_BY.join(filter(None, map(as_text, value)))
    if isinstance(value, dict | bytes | bytearray | memoryview):
        raise MisfitError(f"should be text, got {shown(value)}")
    return str(value)
