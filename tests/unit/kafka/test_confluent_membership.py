"""The place in a group, as librdkafka writes it, read and written without the library."""

import pytest
from confluent_kafka import Consumer

from worker.kafka.confluent_kafka.membership import parsed, written
from worker.kafka.port import Membership

MEMBERS = [
    Membership("group", 3, "member-1", None),
    Membership("group", 0, "member-1", "instance-1"),
    Membership("größe", 2**31 - 1, "m", "ä"),
]


@pytest.mark.parametrize("member", MEMBERS)
def test_what_is_written_is_read_back(member: Membership) -> None:
    assert parsed(written(member)) == member


@pytest.mark.parametrize("instance", [None, "instance-1"])
def test_the_library_writes_as_we_do(instance: str | None) -> None:
    config = {"bootstrap.servers": "127.0.0.1:1", "group.id": "group", "log_level": 0}
    if instance is not None:
        config["group.instance.id"] = instance
    consumer = Consumer(config)
    try:
        assert consumer.consumer_group_metadata() == written(Membership("group", -1, "", instance))
    finally:
        consumer.close()


@pytest.mark.parametrize("metadata", [None, b"", b"CGMDv9:xyz", written(Membership("g", -1, "m", None)),
                                      written(Membership("g", 4, "", None))])  # fmt: skip
def test_who_has_no_place_is_no_member(metadata: bytes | None) -> None:
    """With generation -1 the broker would take transactional commits from anyone."""
    assert parsed(metadata) is None
