"""Whether something holds of a record: what is a delete, and what is none of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.mapping.documents import Document
from worker.mapping.expressions import Expression
from worker.mapping.problem import MisfitError, shown


@dataclass(frozen=True, slots=True)
class Condition:
    expression: Expression
    is_one_of: frozenset[str] | None = None
    """Values, as text, that fulfil it. None: the value itself says it."""

    def holds(self, document: Document) -> bool:
        """Decide whether a value fulfils the condition; a missing one does not. Raises `MisfitError`."""
        value = self.expression.get(document)
        if value is None:
            return False
        if self.is_one_of is not None:
            return _text(value) in self.is_one_of
        if not isinstance(value, bool):
            raise MisfitError(f"should be true or false, got {shown(value)}: is: […] says which values count")
        return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
