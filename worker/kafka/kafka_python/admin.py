"""Topics of the cluster: described, created and configured. The library's errors are left to the caller."""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    NoError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.errors import for_code as error_for_code

from worker.errors import AccessError, CallTimeoutError, TopicError
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.kafka.kafka_python.translation import translated
from worker.kafka.port import TopicDescription, TopicLook
from worker.kafka.refused_topics import DEFAULT_MAX_MESSAGE_BYTES, cure

log = logging.getLogger(__name__)


def existing_topics(
    admin: KafkaAdminClient, names: Collection[str], has_configurations: bool
) -> dict[str, TopicDescription]:
    """Those among `names` that exist; without configurations to ask for, each with the broker's default limit."""
    found = _existing(admin.describe_topics(list(names)))
    configurations = _configurations(admin, list(found)) if has_configurations else {}
    return {
        name: TopicDescription(
            len(topic["partitions"]),
            _limit(name, configurations),
            topic_id(topic.get("topic_id")),
            _copies(topic["partitions"]),
            configurations.get(name),
        )
        for name, topic in found.items()
    }


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
                found = _existing(self._admin.describe_topics(list(names)))
            except KafkaError:
                self.close()
                raise
        return {
            name: TopicLook(len(topic["partitions"]), topic_id(topic.get("topic_id"))) for name, topic in found.items()
        }

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


def _existing(described: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Topics that exist, by name, from the answer to a metadata request."""
    found = {}
    for topic in described:
        error = error_for_code(topic["error_code"])
        if error is NoError:
            found[topic["name"]] = topic
        elif error is not UnknownTopicOrPartitionError:
            raise error(f"topic {topic['name']!r}")
    return found


def topic_id(found: uuid.UUID | str | None) -> str:
    """Topic id as Kafka's tools write it; empty for none."""
    known = uuid.UUID(str(found)) if found else uuid.UUID(int=0)
    return base64.urlsafe_b64encode(known.bytes).decode().rstrip("=") if known.int else ""


def _copies(partitions: Sequence[Mapping[str, Any]]) -> int | None:
    return min((len(partition.get("replica_nodes") or ()) for partition in partitions), default=0) or None


def _configurations(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Configurations of the topics that we may ask for."""
    if not names:
        return {}
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        described = admin.describe_configs(resources, config_filter="all")[ConfigResourceType.TOPIC.name.lower()]
    except KafkaError as error:
        if error.retriable:  # a limit that is guessed too low refuses good records
            raise
        log.warning("cannot read topic limits: %s", error, extra={"action": "topic_limits_unknown"})
        return {name: {"max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES)} for name in names}
    found: dict[str, Mapping[str, str]] = {}
    for name in names:
        if configuration := described.get(name):
            found[name] = {key: entry["value"] for key, entry in configuration.items() if entry["value"] is not None}
        else:  # an access control that forbids it gives no error but an empty answer
            detail = "may not read the configuration of topic %s, taking it to have max.message.bytes=%d"
            log.warning(detail, name, DEFAULT_MAX_MESSAGE_BYTES, extra={"action": "topic_limits_unknown"})
    return found


def _limit(name: str, configurations: Mapping[str, Mapping[str, str]]) -> int:
    return int(configurations.get(name, {}).get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES))


def num_brokers(admin: KafkaAdminClient) -> int:
    return sum(not broker.get("is_fenced") for broker in admin.describe_cluster()["brokers"])


def add_topics(
    admin: KafkaAdminClient, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int
) -> None:
    """Raises our errors for what the broker refuses, by topic."""
    answer = admin.create_topics(
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
        raise_errors=False,
    )
    refused = {each["name"]: each for each in answer["topics"] if error_for_code(each["error_code"]) not in _MADE}
    _raise_refused("created", {name: (each["error_code"], each.get("error_message")) for name, each in refused.items()})


def change_topics(admin: KafkaAdminClient, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Raises our errors for what the broker refuses."""
    answer = admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, configs=dict(each)) for name, each in changes.items()],
        incremental=True,
    )
    refused = {name: told for name, told in answer[ConfigResourceType.TOPIC.name.lower()].items() if told != "OK"}
    if refused:
        told = "; ".join(f"{name} cannot be configured: {each}" for name, each in refused.items())
        raise (AccessError if "AuthorizationFailed" in told else TopicError)(told)


_MADE = (NoError, TopicAlreadyExistsError)  # somebody else may have been quicker


def _raise_refused(done: str, refused: Mapping[str, tuple[int, str | None]]) -> None:
    """Raise what a refusal of topics means: a line with each cause once, and the topics that it keeps from existing."""
    if not refused:
        return
    names: dict[tuple[type[KafkaError], str], list[str]] = {}
    for name, (code, message) in refused.items():
        names.setdefault((error_for_code(code), message or ""), []).append(name)
    told = "; ".join(
        f"{', '.join(those)} cannot be {done}: {cure(error.__name__, message)}"
        for (error, message), those in names.items()
    )
    kinds = [error for error, _ in names]
    if any(issubclass(error, AuthorizationError) for error in kinds):
        raise AccessError(told)
    if all(issubclass(error, RequestTimedOutError) for error in kinds):
        raise CallTimeoutError(told)
    raise TopicError(told)
