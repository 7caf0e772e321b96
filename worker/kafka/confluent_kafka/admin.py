"""Topics of the cluster: described, created and configured. The library's errors are left to the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from worker.errors import AccessError, CallTimeoutError, ConfigError, TopicError
from worker.kafka.confluent_kafka.connection import CALL_TIMEOUT_S
from worker.kafka.confluent_kafka.translation import TABLE, codes, kafka_error, translate, translated
from worker.kafka.port import TopicDescription, TopicLook
from worker.kafka.refused_topics import DEFAULT_MAX_MESSAGE_BYTES, cure
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

_UNKNOWN = codes("UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC")
_MADE = codes("TOPIC_ALREADY_EXISTS")  # somebody else may have been quicker
_GROUP_SESSION, _GROUP_HEARTBEAT = "group.consumer.session.timeout.ms", "group.consumer.heartbeat.interval.ms"


def embedded_topics(admin: AdminClient, names: Collection[str]) -> dict[str, TopicDescription]:
    """The same of the embedded broker, which answers the oldest question only."""
    found = admin.list_topics(timeout=CALL_TIMEOUT_S).topics
    counts = {name: len(found[name].partitions) for name in names if name in found}
    return {name: TopicDescription(count, DEFAULT_MAX_MESSAGE_BYTES) for name, count in counts.items()}


def existing(admin: AdminClient, names: Collection[str]) -> dict[str, Any]:
    """Look up the library's descriptions of those among `names` that exist."""
    found: dict[str, Any] = {}
    if not names:
        return found
    for name, future in admin.describe_topics(TopicCollection(list(names)), request_timeout=CALL_TIMEOUT_S).items():
        try:
            found[name] = future.result(CALL_TIMEOUT_S)
        except KafkaException as error:
            known = kafka_error(error)
            if known is None or known.code() not in _UNKNOWN:
                raise translate(error, f"asking for topic {name!r}") from error
    return found


def existing_topics(admin: AdminClient, names: Collection[str]) -> dict[str, TopicDescription]:
    """Those among `names` that exist."""
    found = existing(admin, names)
    configurations = _configurations(admin, list(found))
    return {
        name: TopicDescription(
            len(topic.partitions),
            int(configurations.get(name, {}).get("max.message.bytes", DEFAULT_MAX_MESSAGE_BYTES)),
            topic_id(topic),
            min((len(partition.replicas) for partition in topic.partitions), default=0) or None,
            configurations.get(name),
        )
        for name, topic in found.items()
    }


def topic_id(topic: Any) -> str:
    """Topic id as Kafka's tools write it; empty for none."""
    found = topic.topic_id
    if found is None or not (found.get_most_significant_bits() or found.get_least_significant_bits()):
        return ""
    return str(found).replace("+", "-").replace("/", "_").rstrip("=")


def looked_at(admin: AdminClient, names: Collection[str]) -> dict[str, TopicLook]:
    return {name: TopicLook(len(topic.partitions), topic_id(topic)) for name, topic in existing(admin, names).items()}


def looked_at_embedded(admin: AdminClient, names: Collection[str]) -> dict[str, TopicLook]:
    found = embedded_topics(admin, names)
    return {name: TopicLook(topic.num_partitions) for name, topic in found.items()}


Look = Callable[[AdminClient, Collection[str]], Mapping[str, TopicLook]]


class ConfluentTopics:
    """Implements `TopicsPort`. The client behind it is replaced after a failure."""

    def __init__(self, open_admin: Callable[[], AdminClient], look: Look) -> None:
        self._open = open_admin
        self._look = look
        self._admin: AdminClient | None = None

    def look(self, names: Collection[str]) -> Mapping[str, TopicLook]:
        with translated("looking at topics"):
            try:
                if self._admin is None:
                    self._admin = self._open()
                return self._look(self._admin, names)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self._admin = None


def _configurations(admin: AdminClient, names: Collection[str]) -> dict[str, Mapping[str, str]]:
    """Configurations of the topics that we may ask for."""
    found: dict[str, Mapping[str, str]] = {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return found
    for resource, future in admin.describe_configs(resources, request_timeout=CALL_TIMEOUT_S).items():
        try:
            entries = future.result(CALL_TIMEOUT_S)
        except KafkaException as error:
            known = kafka_error(error)
            if known is None or TABLE.get(known.code()) is not AccessError:
                raise  # a limit that is guessed too low refuses good records
            detail = "may not read the configuration of topic %s, taking it to have max.message.bytes=%d"
            log.warning(detail, resource.name, DEFAULT_MAX_MESSAGE_BYTES, extra={"action": "topic_limits_unknown"})
        else:
            found[resource.name] = {key: entry.value for key, entry in entries.items() if entry.value is not None}
    return found


def num_brokers(admin: AdminClient) -> int:
    return len(admin.describe_cluster(request_timeout=CALL_TIMEOUT_S).result(CALL_TIMEOUT_S).nodes)


def embedded_brokers(admin: AdminClient) -> int:
    return len(admin.list_topics(timeout=CALL_TIMEOUT_S).brokers)


def add_topics(
    admin: AdminClient, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int
) -> None:
    """Raises our errors for what the broker refuses, by topic."""
    new = [NewTopic(name, num_partitions, replication, config=dict(config)) for name, config in topics.items()]
    refused = _refused(admin.create_topics(new, operation_timeout=CALL_TIMEOUT_S, request_timeout=CALL_TIMEOUT_S))
    _raise_refused("created", {name: error for name, error in refused.items() if error.code() not in _MADE})


def change_topics(admin: AdminClient, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Raises our errors for what the broker refuses."""
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in each.items()
            ],
        )
        for name, each in changes.items()
    ]
    futures = admin.incremental_alter_configs(resources, request_timeout=CALL_TIMEOUT_S)
    _raise_refused("configured", _refused({resource.name: future for resource, future in futures.items()}))


def _refused(futures: Mapping[str, Any]) -> dict[str, KafkaError]:
    refused = {}
    for name, future in futures.items():
        try:
            future.result(2 * CALL_TIMEOUT_S)
        except KafkaException as error:
            known = kafka_error(error)
            if known is None:
                raise
            refused[name] = known
    return refused


def _raise_refused(done: str, refused: Mapping[str, KafkaError]) -> None:
    """Raise what a refusal of topics means: a line with each cause once, and the topics that it is about."""
    if not refused:
        return
    names: dict[tuple[str, str], list[str]] = {}
    for name, error in refused.items():
        names.setdefault((error.name(), error.str()), []).append(name)
    told = "; ".join(
        f"{', '.join(those)} cannot be {done}: {cure(cause, message)}" for (cause, message), those in names.items()
    )
    kinds = [TABLE.get(error.code()) for error in refused.values()]
    if AccessError in kinds:
        raise AccessError(told)
    if all(kind is CallTimeoutError for kind in kinds):
        raise CallTimeoutError(told)
    raise TopicError(told)


def require_session(admin: AdminClient, settings: KafkaSettings) -> None:
    """With `kafka.group_protocol=consumer` the brokers say how long a session is, and a member that was frozen may only
    write for as long as it surely lasts. What they do not tell us is taken to be Kafka's default."""
    told: dict[str, str] = {}
    try:
        node = next(iter(admin.describe_cluster(request_timeout=CALL_TIMEOUT_S).result(CALL_TIMEOUT_S).nodes))
        resource = ConfigResource(ResourceType.BROKER, str(node.id))
        (future,) = admin.describe_configs([resource], request_timeout=CALL_TIMEOUT_S).values()
        entries = future.result(CALL_TIMEOUT_S)
        told = {name: entries[name].value for name in (_GROUP_SESSION, _GROUP_HEARTBEAT) if name in entries}
    except KafkaException as error:
        log.info("cannot read the brokers' %s: %s", _GROUP_SESSION, error, extra={"action": "session_unknown"})
    session_ms, heartbeat_ms = int(told.get(_GROUP_SESSION, 45_000)), int(told.get(_GROUP_HEARTBEAT, 5_000))
    if session_ms < settings.session_timeout_ms + heartbeat_ms:
        raise ConfigError(
            f"kafka.session_timeout_ms={settings.session_timeout_ms} must be at most the brokers' {_GROUP_SESSION}="
            f"{session_ms} less their {_GROUP_HEARTBEAT}={heartbeat_ms}, with kafka.group_protocol=consumer: lower it"
        )
