"""The topics that belong together, and the group that shares their partitions: one flow per role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.settings import Settings

RoleName = Literal["items", "users"]


@dataclass(frozen=True, slots=True)
class Flow:
    """Inputs, outputs and state have the same number of partitions: what belongs to a record of input partition P lies
    in partition P of the others."""

    role: RoleName
    group_id: str
    inputs: str
    outputs: str
    state: str
    dead_letters: str

    @property
    def settings(self) -> tuple[str, str, str]:
        """Which settings name inputs, outputs and state."""
        if self.role == "items":
            return "topics.items", "topics.item_vectors", "topics.item_state"
        return "topics.events", "topics.user_vectors", "topics.user_state"


def flow_of(role: RoleName, settings: Settings) -> Flow:
    topics, group_id = settings.topics, settings.kafka.group_id
    if role == "items":
        return Flow(role, group_id, topics.items, topics.item_vectors, topics.item_state, topics.dead_letters)
    return Flow(role, f"{group_id}-users", topics.events, topics.user_vectors, topics.user_state, topics.dead_letters)


def flows(settings: Settings) -> list[Flow]:
    """Of the roles of this process, items first."""
    return [flow_of(role, settings) for role in sorted(settings.roles)]
