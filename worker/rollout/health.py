"""What the processes of a group have found of the vectors that they publish in the next space, and what a cutover makes
of it. Pure.

Each process has a record of its own in the control topic, and it stays there when the process is gone, because what it
has published stays, too. The records of a space are taken away with the end of its rollout.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import RolloutError
from worker.json_text import read_json
from worker.vector_health.verdict import Decision

LEAST_JUDGED = 1_000
"""Item vectors that all processes together have to have judged; and the last ones of each, which have to be well."""
OVERRIDE = "--accept-health"


@dataclass(frozen=True, slots=True)
class RoleHealth:
    """Of a role of one process."""

    num_judged: int
    """Of the last vectors, no more than are asked for."""
    ill: Mapping[str, str]
    """By check what is wrong."""

    @classmethod
    def of(cls, decision: Decision) -> RoleHealth:
        return cls(decision.num_items, {each.check: each.detail for each in decision.ill})


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """Of one process, by role."""

    space_id: str
    """Of the next space."""
    roles: Mapping[str, RoleHealth]

    @property
    def says_something(self) -> bool:
        return any(each.num_judged or each.ill for each in self.roles.values())

    def encode(self) -> bytes:
        roles = {role: {"judged": each.num_judged, "ill": dict(each.ill)} for role, each in self.roles.items()}
        return json.dumps({"version": 1, "space_id": self.space_id, "roles": roles}).encode()

    @classmethod
    def decode(cls, value: bytes) -> ProcessHealth:
        """Raises `RolloutError` for what `encode` has not made."""
        try:
            document = read_json(value)
            return cls(str(document["space_id"]), {str(k): _role(v) for k, v in document["roles"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RolloutError(f"the health record of a process cannot be read: {error!r}") from error


def _role(document: Any) -> RoleHealth:
    return RoleHealth(int(document["judged"]), {str(k): str(v) for k, v in document["ill"].items()})


def health_of(found: Collection[ProcessHealth], space_id: str) -> Mapping[str, RoleHealth]:
    """Of all processes together, by role: what is ill in one of them is ill."""
    together: dict[str, RoleHealth] = {}
    for each in found:
        for role, mine in each.roles.items() if each.space_id == space_id else ():
            known = together.get(role, RoleHealth(0, {}))
            together[role] = RoleHealth(known.num_judged + mine.num_judged, {**mine.ill, **known.ill})
    return together


def health_objections(health: Mapping[str, RoleHealth]) -> Iterator[str]:
    """Why its vectors are not to be read yet. Users are too few in some streams to ask for a number of them."""
    for role, each in sorted(health.items()):
        if each.ill:
            details = ", ".join(f"{check} ({detail})" for check, detail in each.ill.items())
            yield f"{role}: vectors of the next space do not pass {details} ({OVERRIDE} reads them all the same)"
    num_judged = health["items"].num_judged if "items" in health else 0
    if num_judged < LEAST_JUDGED:
        yield (
            f"items: of {LEAST_JUDGED:,} vectors of the next space that have to be judged {num_judged:,} are "
            f"({OVERRIDE} does without)"
        )
