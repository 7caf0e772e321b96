"""Leaving out of a log what cannot be read: what that is, what it costs, and the decision written down."""

from __future__ import annotations

import re
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from schemas import DeadLetter, Reason, encode
from worker import __version__
from worker.commands.dead_letters import Pending
from worker.errors import ConfigError, TopicError, UnreadableError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Outbound, PartitionReader
from worker.kafka.whole_topic import READ_TIMEOUT_S, describe, end_of
from worker.records import TopicPartition
from worker.settings import Settings

STAGE = "read"
_PLACE = re.compile(r"(?P<topic>[a-zA-Z0-9._-]{1,249})/(?P<partition>\d{1,9})@(?P<offset>\d{1,18})")


@dataclass(frozen=True, slots=True)
class Gap:
    """An unreadable stretch of a log: offsets from `first` up to, and without, `until`."""

    partition: TopicPartition
    first: int
    until: int
    error: UnreadableError

    def text(self) -> str:
        topic, number = self.partition
        size = f"{self.error.num_bytes} bytes" if self.error.num_bytes else "of which the broker hands out no bytes"
        last = f" to {self.until - 1}" if self.until > self.first + 1 else ""
        return f"{topic}/{number}: offset {self.first}{last} cannot be read, {size}: {self.error.detail}"


def parsed_place(place: str) -> tuple[TopicPartition, int]:
    """A place as the log and the status page name it."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ConfigError(f"dlq skip: {place!r} is no place in a log: give TOPIC/PARTITION@OFFSET, as items/0@1234")
    return TopicPartition(found["topic"], int(found["partition"])), int(found["offset"])


def find_gap(client: ClientPort, partition: TopicPartition, offset: int) -> Gap:
    """Find the unreadable stretch that begins there. Raises `TopicError` where there is no such place, or where it can
    be read."""
    described = describe(client, partition.topic)
    if described is None or partition.partition >= described.num_partitions:
        raise TopicError(f"dlq skip: there is no partition {partition.topic}/{partition.partition}")
    with closing(client.log()) as log:
        end = end_of(log, partition)
        error = _unreadable(log, partition, offset) if offset < end else None
        if error is None:
            raise TopicError(
                f"dlq skip: {partition.topic}/{partition.partition} can be read from offset {offset}: there is nothing "
                f"to leave out"
            )
        return Gap(partition, offset, error.next_offset or _end_of_gap(log, error, end), error)


def _unreadable(log: PartitionReader, partition: TopicPartition, offset: int) -> UnreadableError | None:
    doing = f"reading {partition.topic}/{partition.partition}"
    return patiently(doing, lambda: log.unreadable(partition, offset, READ_TIMEOUT_S), READ_TIMEOUT_S)


def _end_of_gap(log: PartitionReader, error: UnreadableError, end: int) -> int:
    """Where the batch ends that neither says so itself nor has one behind it that does: the first offset for which the
    broker sends something else."""
    partition = TopicPartition(error.topic, error.partition)

    def is_the_same(offset: int) -> bool:
        found = _unreadable(log, partition, offset) if offset < end else None
        return found is not None and found.raw == error.raw

    inside, step = error.offset, 1
    while is_the_same(min(inside + step, end)):
        inside, step = inside + step, step * 2
    outside = min(inside + step, end)
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if is_the_same(middle):
            inside = middle
        else:
            outside = middle
    return outside


def cost(topic: str, settings: Settings) -> str:
    """Say what is lost with a batch of a topic."""
    topics = settings.topics
    return {
        topics.items: "The messages in it are lost: send those items again.",
        topics.events: "The events in it never count, unless they are sent again.",
        topics.item_state: "What it says of items is forgotten: what lay before it, or nothing, is known of them until "
        "they are sent again, and an older message of theirs may pass for a new one. Send the items of this partition "
        "again, or build it again from the log (worker/README.md).",
        topics.user_state: "What it says of users is forgotten: the histories of its users are what lay before it, and "
        "what has come behind it. Build the users again from the log (worker/README.md) where that matters.",
        topics.item_vectors: "The vectors in it are unknown to users, neighbours and `recommend` until their items are "
        "published again: send those items again.",
        topics.user_vectors: "The vectors in it are unknown to `recommend` until those users act again.",
        topics.dead_letters: "The dead letters in it are lost.",
    }.get(topic, "What is in it is lost to those who read the topic with this program.")


def leave_out(client: ClientPort, settings: Settings, gap: Gap) -> bool:
    """Have every reader pass over it, and keep its bytes as a dead letter; whether all of them are kept."""
    kept = _keep(client, settings, gap)
    leave_out_gap = partial(client.leave_out, gap.partition, gap.first, gap.until)
    patiently("noting what is left out", leave_out_gap, *patience(settings.kafka))
    return kept


def _keep(client: ClientPort, settings: Settings, gap: Gap) -> bool:
    topic = settings.topics.dead_letters
    described = describe(client, topic)
    if described is None:
        raise TopicError(f"topics.dead_letters: topic {topic!r} does not exist")
    pending = Pending()
    letters = [_letter(settings, gap, raw, pending) for raw in ((gap.error.raw, None) if gap.error.raw else (None,))]
    kept = next((letter for letter in letters if letter.num_bytes() <= described.max_message_bytes), letters[-1])
    producer = patiently("opening a producer", client.producer, *patience(settings.kafka))
    try:
        pending.expect_one()
        producer.send([kept])
        pending.wait(settings.kafka.delivery_timeout_ms / 1000 + 1)
    finally:
        producer.close(1.0)
    return bool(gap.error.raw) and kept is letters[0]


def _letter(settings: Settings, gap: Gap, raw: bytes | None, pending: Pending) -> Outbound:
    topic, number = gap.partition
    letter = DeadLetter(
        value=raw,
        topic=topic,
        partition=number,
        offset=gap.first,
        timestamp=-1,
        reason=Reason.UNREADABLE,
        stage=STAGE,
        detail=f"left out up to offset {gap.until - 1}: {gap.error.detail}",
        worker_version=__version__,
        failed_at_ms=time.time_ns() // 1_000_000,
        original_bytes=gap.error.num_bytes,
    )
    key = b"%s/%d/%d" % (topic.encode(), number, gap.first)
    return Outbound(settings.topics.dead_letters, None, key, encode(letter), (), pending)
