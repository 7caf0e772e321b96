"""The only package that knows a Kafka client library."""

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
    """The adapter that `kafka.client` names."""
    from worker.kafka.client import KafkaPythonClient  # a second adapter must not need the first one's library

    return KafkaPythonClient(settings)
