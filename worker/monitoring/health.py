"""Answers to probes, from state that other threads keep; nothing here asks Kafka or the GPU anything.

`/livez` red means "restart me", so it knows only what a restart cures: a stage that stopped moving or died. Broker
outages, lag, an empty assignment and a running rebalance are none of its business.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import NamedTuple


class Probe(NamedTuple):
    ok: bool
    detail: str


class Health:
    """Set by the pipeline and the watchdog, read by the HTTP threads."""

    def __init__(self, roles: Collection[str] = ("items",)) -> None:
        self._lock = threading.Lock()
        self._started = False
        self._roles = frozenset(roles)
        self._to_join = set(roles)
        self._draining = False
        self._dead: str | None = None

    def started(self) -> None:
        """Settings are valid, the model is warm and a broker has answered."""
        with self._lock:
            self._started = True

    def joined(self, role: str = "items") -> None:
        """The group of a role has been stable once, and the role has what it works with. A spare without partitions
        counts."""
        with self._lock:
            self._to_join.discard(role)

    def draining(self) -> None:
        with self._lock:
            self._draining = True

    def begin_again(self) -> None:
        """Drained, to go on with another space."""
        with self._lock:
            self._draining, self._to_join = False, set(self._roles)

    def dead(self, reason: str) -> None:
        """A restart is the cure. The first reason stays."""
        with self._lock:
            self._dead = reason or "dead" if self._dead is None else self._dead

    def livez(self) -> Probe:
        with self._lock:
            return Probe(self._dead is None, self._dead or "alive")

    def startupz(self) -> Probe:
        with self._lock:
            return Probe(self._started, "started" if self._started else "starting")

    def readyz(self) -> Probe:
        with self._lock:
            if self._dead is not None:
                return Probe(False, self._dead)
            if self._draining:
                return Probe(False, "draining")
            if not self._started:
                return Probe(False, "starting")
            return Probe(not self._to_join, "joining the group" if self._to_join else "ready")
