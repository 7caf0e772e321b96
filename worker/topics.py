"""The topics of each role, and the group that shares their partitions: what they must be like, and making them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.errors import ConfigError, TopicError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, TopicDescription
from worker.settings import Settings

RoleName = Literal["items", "users"]
# Vectors and what is remembered are kept for ever, one per key; a day for readers to see a tombstone.
_COMPACTED = {
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


def topics_of(role: RoleName, settings: Settings) -> RoleTopics:
    topics, group_id = settings.topics, settings.kafka.group_id
    if role == "items":
        return RoleTopics(role, group_id, topics.items, topics.item_vectors, topics.item_state, topics.dead_letters)
    return RoleTopics(
        role, f"{group_id}-users", topics.events, topics.user_vectors, topics.user_state, topics.dead_letters
    )


def topics_of_roles(settings: Settings) -> list[RoleTopics]:
    """Of the roles of this process, items first."""
    return [topics_of(role, settings) for role in sorted(settings.roles)]


def wanted_topics(settings: Settings) -> dict[str, dict[str, str]]:
    """Configuration of each topic that the roles use, by name."""
    wanted: dict[str, dict[str, str]] = {}
    for topics in topics_of_roles(settings):
        wanted[topics.inputs] = _inputs(topics, settings)
        wanted[topics.outputs] = dict(_COMPACTED)
        wanted[topics.state] = {**_COMPACTED, "max.message.bytes": str(MAX_WRAPPED_BYTES)}
    if "users" in settings.roles:
        wanted.setdefault(settings.topics.item_vectors, dict(_COMPACTED))
    wanted[settings.topics.dead_letters] = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(MAX_WRAPPED_BYTES),
        "retention.ms": _days(DEAD_LETTER_DAYS),
    }
    return wanted


def _inputs(topics: RoleTopics, settings: Settings) -> dict[str, str]:
    if topics.role == "users":
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
        needed |= dict(zip((topics.inputs, topics.outputs, topics.state), topics.settings, strict=True))
    if "users" in settings.roles:
        needed[settings.topics.item_vectors] = "topics.item_vectors"
    needed[settings.topics.dead_letters] = "topics.dead_letters"
    return needed


def problems(settings: Settings, described: Mapping[str, TopicDescription]) -> list[str]:
    """What keeps the worker from using the topics as they are; empty when all is well."""
    found = [
        f"{setting}: topic {name!r} does not exist"
        for name, setting in needed_topics(settings).items()
        if name not in described
    ]
    for topics in topics_of_roles(settings):
        found += _uneven(topics, described)
    return found


def _uneven(topics: RoleTopics, described: Mapping[str, TopicDescription]) -> list[str]:
    inputs = described.get(topics.inputs)
    others = zip((topics.outputs, topics.state), topics.settings[1:], strict=True)
    return [
        f"{setting}: topic {name!r} has {described[name].num_partitions} partitions, "
        f"{topics.inputs!r} has {inputs.num_partitions}: they must have the same number"
        for name, setting in others
        if inputs and name in described and described[name].num_partitions != inputs.num_partitions
    ]


def warnings(settings: Settings, described: Mapping[str, TopicDescription]) -> list[str]:
    """What works now and will hurt later."""
    letters = described.get(settings.topics.dead_letters)
    return [
        f"topics.dead_letters: topic {settings.topics.dead_letters!r} takes up to {letters.max_message_bytes} bytes, "
        f"topic {topics.inputs!r} up to {inputs.max_message_bytes}: a large poison record will stop its partition"
        for topics in topics_of_roles(settings)
        if letters
        and (inputs := described.get(topics.inputs))
        and letters.max_message_bytes <= inputs.max_message_bytes
    ]


def check_topics(client: ClientPort, settings: Settings) -> list[str]:
    """Raise `TopicError` unless the worker can use its topics; returns warnings."""
    needed = list(needed_topics(settings))
    described = patiently("asking for topics", lambda: client.describe_topics(needed), *patience(settings.kafka))
    if found := problems(settings, described):
        raise TopicError(
            f"{'; '.join(found)} (make them with `align-worker topics create`; a topic that we may not describe looks "
            f"missing, too)"
        )
    return warnings(settings, described)


def create_topics(client: ClientPort, settings: Settings, num_partitions: int, replication: int) -> list[str]:
    """Make the topics that do not exist; returns their names. Existing ones are left as they are, and decide how many
    partitions the others of their role get."""
    if num_partitions < 1 or replication < 1:
        raise ConfigError("--partitions and --replication must be at least 1")
    wanted = wanted_topics(settings)
    created: dict[str, None] = {}

    def create() -> None:
        described = client.describe_topics(list(wanted))  # a try without an answer may have made some
        missing = {name: config for name, config in wanted.items() if name not in described}
        for count, names in _by_partitions(settings, missing, described, num_partitions).items():
            created.update(dict.fromkeys(names))
            client.create_topics({name: missing[name] for name in names}, count, replication)

    patiently("making topics", create, *patience(settings.kafka))
    return [name for name in wanted if name in created]


def _by_partitions(
    settings: Settings,
    missing: Mapping[str, Mapping[str, str]],
    described: Mapping[str, TopicDescription],
    num_partitions: int,
) -> dict[int, Sequence[str]]:
    """The missing topics by the number of partitions they are to have."""
    counts = dict.fromkeys(missing, num_partitions)
    for topics in topics_of_roles(settings):
        together = (topics.inputs, topics.outputs, topics.state)
        existing = [described[name].num_partitions for name in together if name in described]
        if existing:
            counts |= dict.fromkeys((name for name in together if name in missing), existing[0])
    return {count: [name for name in missing if counts[name] == count] for count in sorted(set(counts.values()))}
