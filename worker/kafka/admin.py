"""What the cluster says of topics, and how it comes by new ones. The library's errors are left to the caller."""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError
from kafka.errors import for_code as error_for_code

from worker.kafka.connection import CALL_TIMEOUT_MS
from worker.kafka.port import TopicDescription, TopicLook
from worker.kafka.translation import translated

log = logging.getLogger(__name__)

DEFAULT_MAX_MESSAGE_BYTES = 1_048_588  # the broker's own default


def existing_topics(
    admin: KafkaAdminClient, names: Collection[str], has_configurations: bool
) -> dict[str, TopicDescription]:
    """Those among `names` that exist; without configurations to ask for, each with the broker's default limit."""
    found = _existing(admin.describe_topics(list(names)))
    limits = _max_message_bytes(admin, list(found), has_configurations)
    return {name: TopicDescription(look.num_partitions, limits[name], look.topic_id) for name, look in found.items()}


class KafkaPythonTopics:
    """Implements `TopicsPort`. The client behind it is replaced after a failure."""

    def __init__(self, open_admin: Callable[[], KafkaAdminClient]) -> None:
        self._open = open_admin
        self._admin: KafkaAdminClient | None = None

    def look(self, names: Collection[str]) -> Mapping[str, TopicLook]:
        with translated("looking at topics"):
            try:
                if self._admin is None:
                    self._admin = self._open()
                return _existing(self._admin.describe_topics(list(names)))
            except KafkaError:
                self.close()
                raise

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


def _existing(described: Sequence[Mapping[str, Any]]) -> dict[str, TopicLook]:
    """The topics that exist, by name, from the answer to a metadata request."""
    found = {}
    for topic in described:
        error = error_for_code(topic["error_code"])
        if error is NoError:
            found[topic["name"]] = TopicLook(len(topic["partitions"]), topic_id(topic.get("topic_id")))
        elif error is not UnknownTopicOrPartitionError:
            raise error(f"topic {topic['name']!r}")
    return found


def topic_id(found: uuid.UUID | str | None) -> str:
    """As Kafka's tools write it; empty for none."""
    known = uuid.UUID(str(found)) if found else uuid.UUID(int=0)
    return base64.urlsafe_b64encode(known.bytes).decode().rstrip("=") if known.int else ""


def _max_message_bytes(admin: KafkaAdminClient, names: Sequence[str], has_configurations: bool) -> Mapping[str, int]:
    """Topic limits; the broker's default for those that we may not or cannot ask for."""
    limits = dict.fromkeys(names, DEFAULT_MAX_MESSAGE_BYTES)
    if not names or not has_configurations:
        return limits
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        described = admin.describe_configs(resources, config_filter="all")[ConfigResourceType.TOPIC.name.lower()]
    except KafkaError as error:
        if error.retriable:  # a limit that is guessed too low refuses good records
            raise
        log.warning("cannot read topic limits: %s", error, extra={"action": "topic_limits_unknown"})
        return limits
    for name in names:
        if limit := described.get(name, {}).get("max.message.bytes"):
            limits[name] = int(limit["value"])
        else:  # an access control that forbids it gives no error but an empty answer
            detail = "may not read the configuration of topic %s, taking it to have max.message.bytes=%d"
            log.warning(detail, name, limits[name], extra={"action": "topic_limits_unknown"})
    return limits


def add_topics(
    admin: KafkaAdminClient, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int
) -> None:
    admin.create_topics(
        [
            NewTopic(
                name,
                num_partitions=num_partitions,
                replication_factor=replication,
                topic_configs=dict(config),
            )
            for name, config in topics.items()
        ],
        timeout_ms=CALL_TIMEOUT_MS,
    )
