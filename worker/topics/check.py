"""Checks of topics: problems that keep the worker from using them, risks of loss, and what helps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from worker.errors import TopicError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, TopicDescription
from worker.settings import Settings
from worker.topics.wanted import (
    DEAD_LETTER_DAYS,
    EVENT_DAYS,
    MAX_WRAPPED_BYTES,
    RoleTopics,
    needed_topics,
    topics_of_roles,
)

DAY_MS = 86_400_000
MIN_DEAD_LETTER_DAYS = 7
MIN_TOMBSTONE_MS = 3_600_000
"""Readers that are away for longer than tombstones are kept miss deletes."""
HALF_LIVES = 4
"""An event counts a sixteenth after as many, and less from then on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a topic that works now and will hurt later."""

    topic: str
    what: str
    """Which setting names the topic, what is so, and what comes of it."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """The configuration that ends it; empty where none does."""
    loses: bool = False
    """Whether something is lost with time, and not only made slower or less safe."""

    def told(self, bootstrap_servers: str) -> str:
        """With the command that helps."""
        if not self.changes:
            return self.what
        values = ",".join(
            f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, value in self.changes.items()
        )
        return (
            f"{self.what}; set it right with `kafka-configs.sh --bootstrap-server {bootstrap_servers} --alter "
            f"--entity-type topics --entity-name {self.topic} --add-config {values}`"
        )


def problems(settings: Settings, described: Mapping[str, TopicDescription]) -> list[str]:
    """Problems that keep the worker from using the topics as they are; empty when all is well."""
    found = [
        f"{setting}: topic {name!r} does not exist"
        for name, setting in needed_topics(settings).items()
        if name not in described
    ]
    for topics in topics_of_roles(settings):
        found += uneven(settings, topics, described)
    return found + list(_unwritable(settings, described))


def uneven(settings: Settings, topics: RoleTopics, described: Mapping[str, TopicDescription]) -> list[str]:
    """Topics of a role that exist and have not the same number of partitions, each told with the one that it is
    compared with."""
    names = [name for name in topics.aligned if name in described]
    settings_of = needed_topics(settings)
    found: dict[str, str] = {}
    for first, name in combinations(names, 2):
        count, expected = described[name].num_partitions, described[first].num_partitions
        if name in found or first in found or count == expected:
            continue
        cure = (
            f" (add what is missing: `kafka-topics.sh --bootstrap-server {settings.kafka.bootstrap_servers} --alter "
            f"--topic {name} --partitions {expected}`)"
            if count < expected
            else f" (name another topic in {settings_of[name]})"
        )
        found[name] = (
            f"{settings_of[name]}: topic {name!r} has {count} partitions, {first!r} has {expected}: they must have "
            f"the same number{cure}"
        )
    return list(found.values())


def _unwritable(settings: Settings, described: Mapping[str, TopicDescription]) -> Iterator[str]:
    roles = topics_of_roles(settings)
    inputs = {topics.inputs for topics in roles} - {topics.outputs for topics in roles}
    for name, setting in needed_topics(settings).items():
        topic = described.get(name)
        if topic is None or topic.replication is None or name in inputs:
            continue
        needed = _number(topic, "min.insync.replicas")
        if needed is not None and needed > topic.replication:
            yield (
                f"{setting}: topic {name!r} has min.insync.replicas={needed:g} and {topic.replication} "
                f"{'copy' if topic.replication == 1 else 'copies'}: nothing can be written to it; set it right with "
                f"`kafka-configs.sh --bootstrap-server {settings.kafka.bootstrap_servers} --alter --entity-type topics "
                f"--entity-name {name} --add-config min.insync.replicas={max(1, topic.replication - 1)}`"
            )


def findings(
    settings: Settings, described: Mapping[str, TopicDescription], half_life_ms: float | None = None
) -> list[Finding]:
    """Risks: what works now and will hurt later. `half_life_ms`: after which an event counts half, where a space says
    it."""
    found: dict[tuple[str, str], Finding] = {}
    for topics in topics_of_roles(settings):
        for each in _of_role(settings, topics, described, half_life_ms):
            found.setdefault((each.topic, each.what), each)
    return list(found.values())


def _of_role(
    settings: Settings, topics: RoleTopics, described: Mapping[str, TopicDescription], half_life_ms: float | None
) -> Iterator[Finding]:
    setting_of = needed_topics(settings)
    inputs, letters = described.get(topics.inputs), described.get(topics.dead_letters)
    if inputs is not None and not topics.is_relay:
        yield from _of_inputs(settings, topics, inputs, half_life_ms)
    compacted = () if topics.is_relay else (topics.outputs, topics.state, settings.topics.item_vectors)
    for name in dict.fromkeys(compacted):
        if name in described and name in setting_of:
            yield from _of_compacted(setting_of[name], name, described[name])
    if topics.role == "items" and inputs is not None and topics.state in described:
        yield from _of_size(
            setting_of[topics.state],
            topics.state,
            described[topics.state],
            topics.inputs,
            inputs,
            "what is remembered of a large item cannot be written",
        )
    if letters is not None:
        yield from _of_letters(topics.dead_letters, letters)
        if inputs is not None:
            yield from _of_size(
                "topics.dead_letters",
                topics.dead_letters,
                letters,
                topics.inputs,
                inputs,
                "of a large poison record only a part will be kept",
            )
    for name in (topics.outputs, topics.state, topics.dead_letters):
        if name in described:
            yield from _of_safety(setting_of[name], name, described[name])


def _of_inputs(
    settings: Settings, topics: RoleTopics, topic: TopicDescription, half_life_ms: float | None
) -> Iterator[Finding]:
    name, setting = topics.inputs, topics.settings[0]
    about, policy = _about(setting, name), _policy(topic)
    if topics.role == "users":
        if "compact" in policy:
            yield Finding(
                name,
                f"{about} has cleanup.policy={_shown(policy)}: of a user's events only the last is kept",
                {"cleanup.policy": "delete"},
                loses=True,
            )
        reach_ms = EVENT_DAYS * DAY_MS if half_life_ms is None else HALF_LIVES * half_life_ms
        kept_ms = _retention(topic)
        if "delete" in policy and kept_ms < reach_ms:
            yield Finding(
                name,
                f"{about} keeps events for {_days(kept_ms)}, and histories reach back "
                f"{_days(reach_ms)}: a change of space, which reads them again, will not find them",
                {"retention.ms": str(math.ceil(reach_ms))},
            )
        yield from _of_bytes(setting, name, topic, policy, "events are lost before that time")
        return
    if settings.state.features and "compact" in policy:
        yield Finding(
            name,
            f"{about} has cleanup.policy={_shown(policy)}: of an item that comes in "
            "parts only the last part is kept, and whatever reads the topic again lacks the others",
            {"cleanup.policy": "delete", "retention.ms": "-1"},
            loses=True,
        )
    elif "delete" in policy and math.isfinite(_retention(topic)):
        yield Finding(
            name,
            f"{about} keeps items for {_days(_retention(topic))}: a change of space, "
            "which reads them again, will not find the older ones",
            {"retention.ms": "-1"},
        )
    yield from _of_bytes(setting, name, topic, policy, "the oldest items are lost")


def _of_bytes(setting: str, name: str, topic: TopicDescription, policy: set[str], what: str) -> Iterator[Finding]:
    about, limit = _about(setting, name), _number(topic, "retention.bytes")
    if "delete" in policy and limit is not None and limit >= 0:
        yield Finding(name, f"{about} keeps {limit:.0f} bytes of a partition: {what}", {"retention.bytes": "-1"})


def _of_compacted(setting: str, name: str, topic: TopicDescription) -> Iterator[Finding]:
    about, policy = _about(setting, name), _policy(topic)
    if policy and policy != {"compact"}:
        kept = _retention(topic)
        lost = f"is lost after {_days(kept)}" if math.isfinite(kept) else "may be lost with old segments"
        yield Finding(
            name,
            f"{about} has cleanup.policy={_shown(policy)}: what it holds of that which does not change {lost}",
            {"cleanup.policy": "compact"},
            loses=True,
        )
    tombstones = _number(topic, "delete.retention.ms")
    if tombstones is not None and tombstones < MIN_TOMBSTONE_MS:
        yield Finding(
            name,
            f"{about} has delete.retention.ms={tombstones:.0f}: a reader that is away "
            "for longer keeps what was deleted",
            {"delete.retention.ms": str(DAY_MS)},
        )


def _of_letters(name: str, topic: TopicDescription) -> Iterator[Finding]:
    about, policy = _about("topics.dead_letters", name), _policy(topic)
    if "compact" in policy:
        yield Finding(
            name,
            f"{about} has cleanup.policy={_shown(policy)}: of the dead letters "
            "with one key only the last is kept, and one without a key is refused, which stops its partition",
            {"cleanup.policy": "delete"},
            loses=True,
        )
    elif _retention(topic) < MIN_DEAD_LETTER_DAYS * DAY_MS:
        yield Finding(
            name,
            f"{about} keeps dead letters for {_days(_retention(topic))}: "
            "little time to notice them, find the cause and replay",
            {"retention.ms": str(DEAD_LETTER_DAYS * DAY_MS)},
        )


def _of_size(
    setting: str, name: str, topic: TopicDescription, inputs_name: str, inputs: TopicDescription, what: str
) -> Iterator[Finding]:
    if topic.max_message_bytes <= inputs.max_message_bytes:
        needed = max(MAX_WRAPPED_BYTES, inputs.max_message_bytes + 2**16)
        about = _about(setting, name)
        yield Finding(
            name,
            f"{about} takes up to {topic.max_message_bytes} bytes, topic "
            f"{inputs_name!r} up to {inputs.max_message_bytes}: {what}",
            {} if topic.configuration is None else {"max.message.bytes": str(needed)},
        )


def _of_safety(setting: str, name: str, topic: TopicDescription) -> Iterator[Finding]:
    if topic.configuration is None:
        return
    about = _about(setting, name)
    needed, copies = _number(topic, "min.insync.replicas"), topic.replication
    if needed is not None and copies is not None and copies > 1:
        if needed == copies:
            yield Finding(
                name,
                f"{about} has min.insync.replicas={needed:.0f} and as many copies: "
                "while a broker restarts nothing can be written",
                {"min.insync.replicas": str(copies - 1)},
            )
        elif needed < 2 <= copies - 1:
            yield Finding(
                name,
                f"{about} has {copies} copies and min.insync.replicas={needed:.0f}: an "
                "acknowledged record is lost with one broker",
                {"min.insync.replicas": "2"},
            )
    if topic.configuration.get("unclean.leader.election.enable") == "true":
        yield Finding(
            name,
            f"{about} has unclean.leader.election.enable=true: acknowledged records are "
            "lost when a copy that lags behind takes over",
            {"unclean.leader.election.enable": "false"},
        )


def _about(setting: str, name: str) -> str:
    return f"{setting}: topic {name!r}"


def _policy(topic: TopicDescription) -> set[str]:
    """Empty where it is not known."""
    policy = (topic.configuration or {}).get("cleanup.policy", "")
    return {part.strip() for part in policy.split(",") if part.strip()}


def _shown(policy: set[str]) -> str:
    return ",".join(sorted(policy))


def _retention(topic: TopicDescription) -> float:
    """Milliseconds; infinite where records stay, and where it is not known."""
    value = _number(topic, "retention.ms")
    return math.inf if value is None or value < 0 else value


def _number(topic: TopicDescription, key: str) -> float | None:
    value = (topic.configuration or {}).get(key)
    return None if value is None else float(value)


def _days(ms: float) -> str:
    for name, unit_ms in (("day", DAY_MS), ("hour", 3_600_000), ("minute", 60_000)):
        if ms >= unit_ms or name == "minute":
            break
    count = f"{ms / unit_ms:.3g}"
    return f"{count} {name}{'' if count == '1' else 's'}"


def check_topics(client: ClientPort, settings: Settings, half_life_ms: float | None = None) -> list[Finding]:
    """Raise `TopicError` unless the worker can use its topics; returns what will hurt later."""
    needed = list(needed_topics(settings))
    described = patiently("asking for topics", lambda: client.describe_topics(needed), *patience(settings.kafka))
    if found := problems(settings, described):
        missing = any(name not in described for name in needed_topics(settings))
        hint = (
            " (make them with `align-worker topics create`; a topic that we may not describe looks missing, too)"
            if missing
            else ""
        )
        raise TopicError("; ".join(found) + hint)
    return findings(settings, described, half_life_ms)
