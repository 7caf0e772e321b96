"""Where a rollout stands, and which steps lead on. Pure: a plan comes in, another one goes out.

    STABLE ── begun ──▶ MOVING ── cut over ──▶ SWITCHED
       ▲                 │  ▲                   │    │
       └── abandoned ────┘  └── rolled back ────┘    │
       └────────────────── finished ─────────────────┘

While it is MOVING, readers read the primary space, and the workers fill the topics of the next one; SWITCHED, readers
read the next one, and both are published. A plan is one record of the control topic, whole, so that the last one says
everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from worker.errors import RolloutError
from worker.json_text import read_json

VERSION = 1
_SPACE_ID = re.compile(r"[0-9a-f]{16}")


class Phase(StrEnum):
    STABLE = "stable"
    MOVING = "moving"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class PlannedSpace:
    """A space, and the topics that its vectors are in."""

    space_id: str
    path: str
    """Its directory, as the workers see it."""
    item_vectors: str
    user_vectors: str

    def outputs(self, role: str) -> str:
        return self.item_vectors if role == "items" else self.user_vectors


@dataclass(frozen=True, slots=True)
class Plan:
    """Of the workers of one group."""

    phase: Phase
    primary: PlannedSpace
    """What the workers publish first, and what is remembered in commits."""
    next: PlannedSpace | None
    roles: Sequence[str]
    """Which have to be moved: `items`, `users`."""
    revision: int
    """Counts the steps."""
    begun: int
    """The revision with which this rollout began."""
    at_ms: int
    swapped_from: PlannedSpace | None = None
    """The space in whose place the primary one has come, in the same topics."""

    @property
    def readers(self) -> PlannedSpace:
        """Whose vectors are to be read."""
        return self.next if self.phase is Phase.SWITCHED and self.next is not None else self.primary

    @property
    def is_swap(self) -> bool:
        """Whether the last step has put another space into the topics of the one before."""
        return self.swapped_from is not None and self.revision == self.begun and self.next is None

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            "version": VERSION,
            "phase": self.phase.value,
            "readers": _document(self.readers),
            "primary": _document(self.primary),
            "next": None if self.next is None else _document(self.next),
            "roles": list(self.roles),
            "revision": self.revision,
            "begun": self.begun,
            "at_ms": self.at_ms,
        }
        if self.swapped_from is not None:
            document["swapped_from"] = _document(self.swapped_from)
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, value: bytes) -> Plan:
        """Raises `RolloutError` for what `encode` has not made."""
        try:
            document = read_json(value)
            if document["version"] != VERSION:
                raise RolloutError(
                    f"the control record has version {document['version']}, this program reads {VERSION}: upgrade it"
                )
            found, before = document["next"], document.get("swapped_from")
            return cls(
                Phase(document["phase"]),
                _space(document["primary"]),
                None if found is None else _space(found),
                tuple(map(str, document["roles"])),
                int(document["revision"]),
                int(document["begun"]),
                int(document["at_ms"]),
                None if before is None else _space(before),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RolloutError(f"the control record cannot be read: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker could not go on with the next space."""

    begun: int
    """Of which rollout."""
    detail: str

    def encode(self) -> bytes:
        return json.dumps({"version": VERSION, "begun": self.begun, "detail": self.detail}).encode()

    @classmethod
    def decode(cls, value: bytes) -> Failure:
        try:
            document = read_json(value)
            return cls(int(document["begun"]), str(document["detail"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RolloutError(f"the control record cannot be read: {error!r}") from error

    def concerns(self, plan: Plan | None) -> bool:
        return plan is not None and (plan.next is not None or plan.is_swap) and plan.begun == self.begun


@dataclass(frozen=True, slots=True)
class Standing:
    """What the control topic says: the plan, and what has gone wrong with it."""

    plan: Plan | None = None
    failure: str = ""

    @property
    def live(self) -> Plan | None:
        """What a process publishes that begins now: after a swap that a worker has refused, the space before it."""
        plan = self.plan
        if plan is None or not plan.is_swap or not self.failure or plan.swapped_from is None:
            return plan
        return replace(plan, primary=plan.swapped_from, swapped_from=plan.primary)

    @property
    def published_beside(self) -> PlannedSpace | None:
        """The space that the workers publish beside the primary one. One that has failed is published no more, unless
        readers read it already."""
        if self.plan is None or (self.failure and self.plan.phase is Phase.MOVING):
            return None
        return self.plan.next


def topic_of(base: str, space_id: str) -> str:
    """The topic of a space's vectors."""
    return f"{base}-{space_id}"


def stable(space: PlannedSpace, roles: Sequence[str], at_ms: int) -> Plan:
    """Before the first rollout of a group."""
    return Plan(Phase.STABLE, space, None, tuple(roles), 0, 0, at_ms)


def begun(plan: Plan, following: PlannedSpace, roles: Sequence[str], at_ms: int) -> Plan:
    """A rollout to another space. The same one again takes up what had failed."""
    if plan.phase is Phase.SWITCHED:
        raise RolloutError(
            f"space {plan.readers.space_id} is read already and the rollout to it not over: `space rollout finish` "
            "ends it, `space rollout rollback` takes it back"
        )
    if plan.next is not None and plan.next.space_id != following.space_id:
        raise RolloutError(
            f"a rollout to space {plan.next.space_id} is under way: end it with `space rollout finish --abandon`"
        )
    if following.space_id == plan.primary.space_id:
        raise RolloutError(f"space {following.space_id} is the one that is published now")
    revision = plan.revision + 1
    return Plan(Phase.MOVING, plan.primary, following, tuple(roles), revision, revision, at_ms, plan.swapped_from)


def swapped(plan: Plan, following: PlannedSpace, at_ms: int) -> Plan:
    """Another space of equal contract comes in the place of the one that is published, in the same topics."""
    if plan.next is not None:
        raise RolloutError(
            f"a rollout to space {plan.next.space_id} is under way: end it with `space rollout finish`, or with "
            "`finish --abandon`"
        )
    if following.space_id == plan.primary.space_id:
        raise RolloutError(f"space {following.space_id} is the one that is published now")
    revision = plan.revision + 1
    return replace(plan, primary=following, swapped_from=plan.primary, revision=revision, begun=revision, at_ms=at_ms)


def cut_over(plan: Plan, objections: Sequence[str], at_ms: int) -> Plan:
    """Readers read the next space. `objections`: why they should not."""
    if plan.phase is Phase.SWITCHED:
        raise RolloutError(f"space {plan.readers.space_id} is read already")
    _require_next(plan)
    if objections:
        raise RolloutError("the cutover stays shut: " + "; ".join(objections))
    return _stepped(plan, Phase.SWITCHED, at_ms)


def rolled_back(plan: Plan, at_ms: int) -> Plan:
    """Readers read the primary space again; the next one goes on being published. After a swap: the space before it
    comes back."""
    if plan.is_swap and plan.swapped_from is not None:
        return swapped(plan, plan.swapped_from, at_ms)
    if plan.phase is not Phase.SWITCHED:
        raise RolloutError(
            f"space {plan.primary.space_id} is read: there is nothing to take back"
            + ("" if plan.next is None else " (`space rollout finish --abandon` gives the rollout up)")
        )
    return _stepped(plan, Phase.MOVING, at_ms)


def finished(plan: Plan, at_ms: int, *, abandon: bool = False) -> Plan:
    """One space alone is published: the one that readers read."""
    if plan.phase is Phase.SWITCHED and plan.next is not None:
        if abandon:
            raise RolloutError(
                f"space {plan.next.space_id} is read: take it back first (`space rollout rollback`), then abandon it"
            )
        return replace(_stepped(plan, Phase.STABLE, at_ms), primary=plan.next, next=None, swapped_from=None)
    _require_next(plan)
    if not abandon:
        raise RolloutError(
            f"readers still read space {plan.primary.space_id}: `space rollout cutover` first, or `finish --abandon` "
            "to give the rollout up"
        )
    return replace(_stepped(plan, Phase.STABLE, at_ms), next=None)


def _require_next(plan: Plan) -> None:
    if plan.next is None:
        raise RolloutError("no rollout is under way: `space rollout PATH` begins one")


def _stepped(plan: Plan, phase: Phase, at_ms: int) -> Plan:
    return replace(plan, phase=phase, revision=plan.revision + 1, at_ms=at_ms)


def _document(space: PlannedSpace) -> Mapping[str, str]:
    return {
        "space_id": space.space_id,
        "path": space.path,
        "item_vectors": space.item_vectors,
        "user_vectors": space.user_vectors,
    }


def _space(document: Any) -> PlannedSpace:
    space = PlannedSpace(*(str(document[name]) for name in ("space_id", "path", "item_vectors", "user_vectors")))
    if not _SPACE_ID.fullmatch(space.space_id):
        raise ValueError(f"{space.space_id!r} is no id of a space")
    return space
