"""Making the topics that are missing."""

from __future__ import annotations

from collections.abc import Mapping

from worker.errors import ConfigError, TopicError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, TopicDescription
from worker.settings import Settings
from worker.topics.check import uneven
from worker.topics.wanted import topics_of_roles, wanted_topics

USUAL_REPLICATION = 3
"""Copies of each partition: one may be lost while another one is away."""


def replication_for(num_brokers: int, asked: int | None) -> int:
    """How many copies each partition is to have: what is asked for, or three where there are as many brokers.

    Raises `TopicError` if there are fewer brokers than copies asked for.
    """
    if asked is None:
        return max(1, min(USUAL_REPLICATION, num_brokers))
    if asked > num_brokers:
        are = "is 1" if num_brokers == 1 else f"are {num_brokers}"
        raise TopicError(
            f"{asked} replicas need {asked} brokers, there {are}: give --replication {num_brokers}, or leave it out"
        )
    return asked


def create_topics(client: ClientPort, settings: Settings, num_partitions: int, replication: int) -> dict[str, int]:
    """Make the topics that do not exist; returns how many partitions each of them has got.

    Existing ones are left as they are, and decide how many partitions the others of their role get. Nothing is made
    beside topics that cannot be used together: that raises `TopicError`.
    """
    if num_partitions < 1 or replication < 1:
        raise ConfigError("--partitions and --replication must be at least 1")
    wanted = wanted_topics(settings)
    # With all copies but one written, an acknowledged record survives a broker, and one may restart without a pause.
    in_sync = {"min.insync.replicas": str(max(1, replication - 1))}
    created: dict[str, int] = {}

    def create() -> None:
        described = client.describe_topics(list(wanted))  # a try without an answer may have made some
        if found := [each for topics in topics_of_roles(settings) for each in uneven(settings, topics, described)]:
            raise TopicError("; ".join(found))
        missing = {name: {**config, **in_sync} for name, config in wanted.items() if name not in described}
        counts = _partitions(settings, missing, described, num_partitions)
        created.update(counts)
        for count in sorted(set(counts.values())):
            client.create_topics({name: missing[name] for name in missing if counts[name] == count}, count, replication)

    patiently("making topics", create, *patience(settings.kafka))
    return {name: created[name] for name in wanted if name in created}


def _partitions(
    settings: Settings,
    missing: Mapping[str, Mapping[str, str]],
    described: Mapping[str, TopicDescription],
    num_partitions: int,
) -> dict[str, int]:
    """How many partitions each of the missing topics is to have."""
    counts = dict.fromkeys(missing, num_partitions)
    for topics in topics_of_roles(settings):
        together = topics.aligned
        existing = [described[name].num_partitions for name in together if name in described]
        if existing:
            counts |= dict.fromkeys((name for name in together if name in missing), existing[0])
    return counts
