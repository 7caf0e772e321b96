"""Messages of the library as our records, a poll's worth at a time: no Python runs per record but one `or`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby, repeat
from operator import itemgetter
from typing import Any

from confluent_kafka import Message

from worker.kafka.batches import FetchedRecord
from worker.records import Headers, OversizedRecord, Record, TopicPartition

_place, _time = itemgetter(0, 1), itemgetter(1)
_new = tuple.__new__

Reread = Callable[[TopicPartition, int, int], Sequence[Record]]
"""The records of a partition from an offset up to, and with, another one, by other means; empty where there are none.
"""


def unpacked(messages: Sequence[Message], max_record_bytes: int, reread: Reread) -> dict[TopicPartition, list[Record]]:
    """The records by partition. None of the messages may be an error.

    A record of more than `max_record_bytes` becomes an `OversizedRecord`.
    """
    if not messages:
        return {}
    keys = list(map(Message.key, messages))
    try:
        records: list[Any] = list(
            map(
                _new,
                repeat(FetchedRecord),
                zip(
                    map(Message.topic, messages),
                    map(Message.partition, messages),
                    map(Message.offset, messages),
                    map(_time, map(Message.timestamp, messages)),
                    keys,
                    map(Message.value, messages),
                    [headers or () for headers in map(Message.headers, messages)],
                    strict=True,
                ),
            )
        )
    except SystemError:  # a header's name is not UTF-8, which the library's binding cannot tell
        records = _one_by_one(messages, reread)
    if max(map(len, messages)) + max(map(len, filter(None, keys)), default=0) > max_record_bytes // 2:
        records = [_bounded(record, max_record_bytes) for record in records]
    found: dict[TopicPartition, list[Record]] = {}
    for place, group in groupby(records, key=_place):
        partition = TopicPartition(*place)
        if partition in found:
            found[partition] += group
        else:
            found[partition] = list(group)
    return found


def _one_by_one(messages: Sequence[Message], reread: Reread) -> list[Record]:
    """The same where some headers cannot be had of the library: from the first of them on, a partition is read once
    more."""
    bad: dict[TopicPartition, tuple[int, int]] = {}
    headers: list[Headers] = []
    for message in messages:
        try:
            headers.append(message.headers() or ())
        except SystemError:
            partition = TopicPartition(message.topic(), message.partition())
            first, _ = bad.get(partition, (message.offset(), 0))
            bad[partition] = (first, message.offset())
            headers.append(())
    known = {
        (partition, record.offset): record.headers
        for partition, (first, last) in bad.items()
        for record in reread(partition, first, last)
    }
    return [
        FetchedRecord(
            message.topic(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            message.value(),
            known.get((TopicPartition(message.topic(), message.partition()), message.offset()), found),
        )
        for message, found in zip(messages, headers, strict=True)
    ]


def _bounded(record: Record, max_record_bytes: int) -> Record:
    value, key = record.value, record.key
    size = len(value or b"") + len(key or b"") + sum(len(name) + len(data or b"") for name, data in record.headers)
    if size <= max_record_bytes:
        return record
    return OversizedRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        key if key is None or len(key) <= _KEPT_BYTES else None,
        None,
        record.headers if size - len(value or b"") - len(key or b"") <= _KEPT_BYTES else (),
        size,
        -1 if value is None else len(value),
        None if value is None else hashlib.sha256(value).digest(),
    )


_KEPT_BYTES = 2**16
"""Bytes kept of the key, and of the headers, of a record whose value is not kept."""
