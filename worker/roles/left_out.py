"""Inputs that are left out without being mistakes: counted by what they are, and told of from time to time.

A stream may carry more than a space was made for, and zeros for what an exporter lacks. But where nobody has been told,
a whole kind of behaviour, or a modality, is missing from every vector, and nothing looks wrong.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping

log = logging.getLogger(__name__)

MOST_TYPES = 20
"""Types told apart; those that come after them are one. A type is whatever a producer writes."""
OTHER = "other"
TOLD_EVERY_S = 600.0
_NAME_CHARS = 64


class LeftOut:
    """Counts by name. The poll thread counts; others copy `totals`, which is a single step under the interpreter
    lock."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        """Since the start."""
        self._told: dict[str, float] = {}
        """When each was told of last."""
        self._untold: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int], now: float) -> None:
        """Logs a line for a name that is new, and again when ten minutes have passed."""
        for given, count in counts.items():
            name = self._label(given)
            self.totals[name] += count
            self._untold[name] += count
            if now - self._told.get(name, -TOLD_EVERY_S) >= TOLD_EVERY_S:
                self._told[name] = now
                self._tell(name, self._untold.pop(name))

    def _label(self, given: str) -> str:
        name = given if given.isprintable() else ascii(given)[1:-1]
        name = name if len(name) <= _NAME_CHARS else name[:_NAME_CHARS] + "…"
        return name if name in self.totals or len(self.totals) < MOST_TYPES else OTHER

    def _tell(self, name: str, count: int) -> None:
        raise NotImplementedError


class UnusedTypes(LeftOut):
    """Events of types that the space does not use."""

    def __init__(self, used: Collection[str]) -> None:
        """`used` are the types that the space uses."""
        super().__init__()
        self._used = ", ".join(sorted(used))

    def _tell(self, name: str, count: int) -> None:
        log.warning(
            "%d events of type %s are not used: the space gives a weight to %s alone (`align-worker space show`). "
            "To use the type, make a space with a weight for it (`space create --event TYPE=WEIGHT`, `train --event`)",
            count, "further types" if name == OTHER else repr(name), self._used, extra={"action": "unused_type"},
        )  # fmt: skip


class Uninformative(LeftOut):
    """Features without information, by modality."""

    def _tell(self, name: str, count: int) -> None:
        log.warning(
            "%d features of %s say nothing and were left out: vectors of zeros, of one value throughout, or nearly so. "
            "An exporter writes them for what it lacks, or an encoder has failed",
            count, name, extra={"action": "uninformative"},
        )  # fmt: skip
