"""Brokers to test against: the embedded one, and a real Apache Kafka with ways to hurt it."""

from tests.brokers.addresses import Listener
from tests.brokers.broker import QUICK_GROUP, Broker, environment
from tests.brokers.clients import (
    LogRange,
    Outgoing,
    create_topics,
    delete_topics,
    leaders,
    log_ranges,
    produce,
    read_topic,
)
from tests.brokers.distribution import Distribution, find_distribution
from tests.brokers.node import KafkaFailedError
from tests.brokers.real_kafka import RealKafka, bearer_token

__all__ = [
    "QUICK_GROUP",
    "Broker",
    "Distribution",
    "KafkaFailedError",
    "Listener",
    "LogRange",
    "Outgoing",
    "RealKafka",
    "bearer_token",
    "create_topics",
    "delete_topics",
    "environment",
    "find_distribution",
    "leaders",
    "log_ranges",
    "produce",
    "read_topic",
]
