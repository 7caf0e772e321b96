"""The topics of each role, the group that shares their partitions, and the configuration that topics are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.settings import Settings

RoleName = Literal["items", "users", "relay-items", "relay-events"]
# Vectors and what is remembered are kept for ever, one per key; a day for readers to see a tombstone.
COMPACTED = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "86400000",
    "min.cleanable.dirty.ratio": "0.3",
}
MAX_INPUT_BYTES = 4 * 2**20
# A dead letter carries its record whole, with a kilobyte or two of its own; so does what is remembered of an item.
MAX_WRAPPED_BYTES = MAX_INPUT_BYTES + 2**16
DEAD_LETTER_DAYS = 30  # time to notice them, find the cause and replay
EVENT_DAYS = 30


@dataclass(frozen=True, slots=True)
class RoleTopics:
    """Inputs, outputs and state have the same number of partitions: what belongs to a record of input partition P lies
    in partition P of the others. Of a relay, which remembers nothing, outputs lie where their keys have them."""

    role: RoleName
    group_id: str
    inputs: str
    outputs: str
    state: str
    """Empty where nothing is remembered."""
    dead_letters: str

    @property
    def is_relay(self) -> bool:
        return not self.state

    @property
    def aligned(self) -> Sequence[str]:
        """Those that have the same number of partitions."""
        return () if self.is_relay else (self.inputs, self.outputs, self.state)

    @property
    def written(self) -> Sequence[str]:
        """Outputs and, where there is one, state."""
        return (self.outputs,) if self.is_relay else (self.outputs, self.state)

    @property
    def settings(self) -> tuple[str, str, str]:
        """Names of the settings for the topics of inputs, outputs and state, in that order."""
        return _SETTINGS[self.role]


_SETTINGS: dict[RoleName, tuple[str, str, str]] = {
    "items": ("topics.items", "topics.item_vectors", "topics.item_state"),
    "users": ("topics.events", "topics.user_vectors", "topics.user_state"),
    "relay-items": ("relay.items.topic", "topics.items", ""),
    "relay-events": ("relay.events.topic", "topics.events", ""),
}


def topics_of(role: RoleName, settings: Settings) -> RoleTopics:
    topics, group_id = settings.topics, settings.kafka.group_id
    if role == "relay-items":
        return RoleTopics(
            role, f"{group_id}-{role}", settings.relay.items.topic or "", topics.items, "", topics.dead_letters
        )
    if role == "relay-events":
        return RoleTopics(
            role, f"{group_id}-{role}", settings.relay.events.topic or "", topics.events, "", topics.dead_letters
        )
    if role == "items":
        return RoleTopics(role, group_id, topics.items, topics.item_vectors, topics.item_state, topics.dead_letters)
    return RoleTopics(
        role, f"{group_id}-users", topics.events, topics.user_vectors, topics.user_state, topics.dead_letters
    )


def topics_of_roles(settings: Settings) -> list[RoleTopics]:
    """Topics of the roles of this process, in the order in which one needs what another makes."""
    return [topics_of(role, settings) for role in role_names(settings)]


def role_names(settings: Settings) -> list[RoleName]:
    """Roles of the process, each with a loop of its own."""
    relayed: list[tuple[RoleName, str | None]] = [
        ("relay-items", settings.relay.items.topic),
        ("relay-events", settings.relay.events.topic),
    ]
    names = [name for name, topic in relayed if topic] if "relay" in settings.roles else []
    own: tuple[Literal["items", "users"], ...] = ("items", "users")
    return names + [name for name in own if name in settings.roles]


def wanted_topics(settings: Settings) -> dict[str, dict[str, str]]:
    """Configuration of each topic that the roles use, by name."""
    wanted: dict[str, dict[str, str]] = {}
    for topics in topics_of_roles(settings):
        if topics.is_relay:  # what it reads is other people's
            wanted[topics.outputs] = _inputs("items" if topics.role == "relay-items" else "users", settings)
            continue
        wanted[topics.inputs] = _inputs(topics.role, settings)
        wanted[topics.outputs] = dict(COMPACTED)
        wanted[topics.state] = {**COMPACTED, "max.message.bytes": str(MAX_WRAPPED_BYTES)}
    if "users" in settings.roles:
        wanted.setdefault(settings.topics.item_vectors, dict(COMPACTED))
    wanted[settings.topics.dead_letters] = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_WRAPPED_BYTES),
        "retention.ms": _days(DEAD_LETTER_DAYS),
    }
    return wanted


def _inputs(role: RoleName, settings: Settings) -> dict[str, str]:
    if role == "users":
        return {"cleanup.policy": "delete", "retention.ms": _days(EVENT_DAYS)}
    # Compaction would keep the last part of an item and drop those before it.
    policy = {"cleanup.policy": "delete", "retention.ms": "-1"}
    return {
        **(policy if settings.state.features else {"cleanup.policy": "compact"}),
        "max.message.bytes": str(MAX_INPUT_BYTES),
    }


def _days(count: int) -> str:
    return str(count * 86_400_000)


def needed_topics(settings: Settings) -> dict[str, str]:
    """The topics that must exist, by name, with the setting that names each. Users are made of item vectors, too."""
    needed: dict[str, str] = {}
    for topics in topics_of_roles(settings):
        needed |= dict(zip((topics.inputs, *topics.written), filter(None, topics.settings), strict=True))
    if "users" in settings.roles:
        needed[settings.topics.item_vectors] = "topics.item_vectors"
    needed[settings.topics.dead_letters] = "topics.dead_letters"
    return needed
