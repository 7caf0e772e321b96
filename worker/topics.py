"""The topics the worker needs: what they must be like, and making them."""

from __future__ import annotations

from collections.abc import Mapping

from worker.errors import ConfigError, TopicError
from worker.kafka.port import ClientPort, TopicDescription
from worker.settings import Settings, TopicSettings

# Vectors are kept for ever, one per key; a day for readers to see a tombstone.
_COMPACTED = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "86400000",
    "min.cleanable.dirty.ratio": "0.3",
}
MAX_INPUT_BYTES = 4 * 2**20
# A dead letter carries its record whole, with a kilobyte or two of its own.
MAX_DEAD_LETTER_BYTES = MAX_INPUT_BYTES + 2**16
DEAD_LETTER_DAYS = 30  # time to notice them, find the cause and replay


def wanted_topics(topics: TopicSettings) -> dict[str, dict[str, str]]:
    """Configuration of each topic that the items role uses, by name."""
    return {
        topics.items: {"cleanup.policy": "compact", "max.message.bytes": str(MAX_INPUT_BYTES)},
        topics.item_vectors: dict(_COMPACTED),
        topics.dead_letters: {
            "cleanup.policy": "delete",
            "max.message.bytes": str(MAX_DEAD_LETTER_BYTES),
            "retention.ms": str(DEAD_LETTER_DAYS * 86_400_000),
        },
    }


def problems(topics: TopicSettings, described: Mapping[str, TopicDescription]) -> list[str]:
    """What keeps the worker from using the topics as they are; empty when all is well."""
    found = [
        f"topics.{field}: topic {name!r} does not exist"
        for field, name in (
            ("items", topics.items),
            ("item_vectors", topics.item_vectors),
            ("dead_letters", topics.dead_letters),
        )
        if name not in described
    ]
    items, vectors = described.get(topics.items), described.get(topics.item_vectors)
    if items and vectors and items.num_partitions != vectors.num_partitions:
        found.append(
            f"topics.item_vectors: topic {topics.item_vectors!r} has {vectors.num_partitions} partitions, "
            f"{topics.items!r} has {items.num_partitions}: they must have the same number"
        )
    return found


def warnings(topics: TopicSettings, described: Mapping[str, TopicDescription]) -> list[str]:
    """What works now and will hurt later."""
    items, letters = described.get(topics.items), described.get(topics.dead_letters)
    if items and letters and letters.max_message_bytes <= items.max_message_bytes:
        return [
            f"topics.dead_letters: topic {topics.dead_letters!r} takes up to {letters.max_message_bytes} bytes, topic "
            f"{topics.items!r} up to {items.max_message_bytes}: a large poison record will stop its partition"
        ]
    return []


def check_topics(client: ClientPort, settings: Settings) -> list[str]:
    """Raise `TopicError` unless the worker can use its topics; returns warnings."""
    described = client.describe_topics(list(wanted_topics(settings.topics)))
    if found := problems(settings.topics, described):
        raise TopicError(
            f"{'; '.join(found)} (make them with `align-worker topics create`; a topic that we may not describe looks "
            f"missing, too)"
        )
    return warnings(settings.topics, described)


def create_topics(client: ClientPort, settings: Settings, num_partitions: int, replication: int) -> list[str]:
    """Make the topics that do not exist; returns their names. Existing ones are left as they are."""
    if num_partitions < 1 or replication < 1:
        raise ConfigError("--partitions and --replication must be at least 1")
    wanted = wanted_topics(settings.topics)
    described = client.describe_topics(list(wanted))
    missing = {name: config for name, config in wanted.items() if name not in described}
    if missing:
        existing = [described[name].num_partitions for name in (settings.topics.items, settings.topics.item_vectors)
                    if name in described]  # fmt: skip
        client.create_topics(missing, existing[0] if existing else num_partitions, replication)
    return list(missing)
