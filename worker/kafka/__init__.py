"""The port to Kafka, and its adapters, a folder each: the stream knows a client library nowhere else. The demo, which
plays the shop beside the worker, talks to the broker with a client of its own.

In: settings. Out: consumers, producers and readers, behind `port.py`. The library has threads of its own; each class
says which of its methods are called on them.
"""

from worker.errors import ConfigError
from worker.kafka.port import (
    ClientPort,
    Commit,
    ConsumerPort,
    Lease,
    Membership,
    PartitionListener,
    ProducerPort,
    Receipt,
    TopicDescription,
    TransactionalProducerPort,
)
from worker.settings import KafkaSettings

__all__ = [
    "ClientPort",
    "Commit",
    "ConsumerPort",
    "Lease",
    "Membership",
    "PartitionListener",
    "ProducerPort",
    "Receipt",
    "TopicDescription",
    "TransactionalProducerPort",
    "make_client",
]


def make_client(settings: KafkaSettings) -> ClientPort:
    """The adapter that `kafka.client` names. Raises `ConfigError` where its library is not installed."""
    if settings.client == "confluent-kafka":
        try:
            from worker.kafka.confluent_kafka.client import ConfluentClient
        except ImportError as error:
            raise ConfigError(
                f"kafka.client=confluent-kafka needs the package confluent-kafka, at least version 2.13.2: pip "
                f"install 'confluent-kafka>=2.13.2' ({error})"
            ) from error
        return ConfluentClient(settings)
    from worker.kafka.kafka_python.client import KafkaPythonClient  # one adapter must not need the other's library

    return KafkaPythonClient(settings)
