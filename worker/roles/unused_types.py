"""Events of types that the space does not use: counted by type, and told of from time to time.

Such an event is no mistake of its own: a stream may carry more than a space was made for. But where nobody has been
told, a whole kind of behaviour is missing from every vector, and nothing looks wrong.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping

log = logging.getLogger(__name__)

MOST_TYPES = 20
"""That are told apart; what comes after them is one. A type is whatever a producer writes."""
OTHER = "other"
TOLD_EVERY_S = 600.0
_NAME_CHARS = 64


class UnusedTypes:
    """Used by one thread."""

    def __init__(self, used: Collection[str]) -> None:
        """`used` are the types that the space uses."""
        self._used = ", ".join(sorted(used))
        self.totals: Counter[str] = Counter()
        """Events since the start, by type."""
        self._told: dict[str, float] = {}
        """When each type was told of last."""
        self._untold: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int], now: float) -> None:
        """Count events by type. Logs a line for a type that is new, and again when ten minutes have passed."""
        for event_type, count in counts.items():
            name = self._label(event_type)
            self.totals[name] += count
            self._untold[name] += count
            if now - self._told.get(name, -TOLD_EVERY_S) >= TOLD_EVERY_S:
                self._told[name] = now
                self._tell(name, self._untold.pop(name))

    def _label(self, event_type: str) -> str:
        name = event_type if event_type.isprintable() else ascii(event_type)[1:-1]
        name = name if len(name) <= _NAME_CHARS else name[:_NAME_CHARS] + "…"
        return name if name in self.totals or len(self.totals) < MOST_TYPES else OTHER

    def _tell(self, name: str, count: int) -> None:
        log.warning(
            "%d events of type %s are not used: the space gives a weight to %s alone (`align-worker space show`). "
            "To use the type, make a space with a weight for it (`space create --event TYPE=WEIGHT`, `train --event`)",
            count, "further types" if name == OTHER else repr(name), self._used, extra={"action": "unused_type"},
        )  # fmt: skip
