"""One line of a mapping: which field, where its value comes from, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from schemas import Reason, SchemaError
from schemas.validation import schema_error
from worker.mapping.documents import Document
from worker.mapping.expressions import Expression
from worker.mapping.problem import MisfitError
from worker.printable import shortened

_TEXT_CHARS = 80


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    """Field of the message, as `content.image`."""
    place: str
    """In the mapping, as `shop.yaml line 3`; where nothing is written, the default that holds."""
    expression: Expression
    convert: Callable[[Any], Any]
    """To what the message takes; None for what is missing. Raises `MisfitError`."""
    is_required: bool = False

    def read(self, document: Document) -> Any:
        """None where there is none. Raises `SchemaError`, which names the field and the line."""
        try:
            value = self.convert(self.expression.get(document))
        except MisfitError as problem:
            raise self.error(str(problem), problem.reason) from None
        if value is None and self.is_required:
            raise self.error("is missing")
        return value

    def error(self, problem: str, reason: Reason = Reason.INVALID_FIELD) -> SchemaError:
        return SchemaError(
            reason, self.name, f"{problem} ({self.place}: {shortened(self.expression.text, _TEXT_CHARS)})"
        )


def refused(error: ValidationError, fields: Iterable[Field]) -> SchemaError:
    """The contract's objection to a message, with the line that has led to it."""
    found = schema_error(error)
    path = found.field
    told = str(found).removeprefix(f"{path}: ")
    by_name = {field.name: field for field in fields}
    while path and path not in by_name:
        path = path.rpartition(".")[0]
    if path:
        return by_name[path].error(told, found.reason)
    file = next(iter(by_name.values())).place.partition(",")[0]
    return SchemaError(found.reason, found.field or "value", f"{told} ({file})")


@dataclass(frozen=True, slots=True)
class Hash:
    """An id made of several values: the same values, the same id."""

    parts: Sequence[Field]

    def read(self, document: Document) -> tuple[Any, ...]:
        return tuple(part.read(document) for part in self.parts)
