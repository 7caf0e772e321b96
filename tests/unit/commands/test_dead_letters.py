import json

import pytest

from schemas import DeadLetter, Reason, encode
from tests.fakes import FakeClient, FakeCluster
from worker.commands.dead_letters import (
    REPLAY_HEADER,
    Selection,
    Stored,
    full,
    hex_dump,
    one_line,
    read_letters,
    readable,
    replay,
)
from worker.errors import ClientError, TopicError
from worker.settings import Settings


def letter(offset: int, reason: Reason = Reason.NON_FINITE, value: bytes | None = b"\x00abc\xff") -> DeadLetter:
    return DeadLetter(
        key=b"k%d" % offset, value=value, headers=(("h", b"1"), ("null", None)), topic="items", partition=1,
        offset=offset, timestamp=5, reason=reason, stage="decode", detail="why", worker_version="1",
        space_id="s", failed_at_ms=1_000 * offset,
    )  # fmt: skip


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(2)
    for offset, reason in enumerate([Reason.NON_FINITE, Reason.WRONG_SHAPE, Reason.NON_FINITE]):
        cluster.append("dead-letters", offset % 2, b"k", encode(letter(offset, reason)))
    return cluster


def test_selections(cluster):
    letters = list(read_letters(FakeClient(cluster), "dead-letters"))
    assert [stored.position for stored in letters] == ["0/0", "0/1", "1/0"]
    assert [s.letter.offset for s in Selection(reason="wrong_shape").of(letters)] == [1]
    assert [s.letter.offset for s in Selection(since_ms=1_500).of(letters)] == [2]
    assert [s.letter.offset for s in Selection(positions=frozenset({"0/1"})).of(letters)] == [2]
    assert [s.letter.offset for s in Selection(limit=2).of(letters)] == [0, 2]
    assert list(Selection(topic="events").of(letters)) == []


def test_what_comes_while_letters_are_read_is_left_for_the_next_time(cluster):
    read = []
    for stored in read_letters(FakeClient(cluster), "dead-letters"):
        read.append(stored.position)
        for partition in (0, 1):
            cluster.append("dead-letters", partition, b"k", encode(letter(9)))
    assert read == ["0/0", "0/1", "1/0"]


def test_a_replay_sends_the_original_record_to_where_it_came_from(cluster):
    client = FakeClient(cluster)
    told = []
    assert replay(client, Settings(), read_letters(client, "dead-letters"), told.append) == 3
    sent = cluster.records("items")
    assert {(record.partition, record.key, record.value) for record in sent} == {
        (1, b"k%d" % n, b"\x00abc\xff") for n in range(3)
    }
    assert sent[0].headers == (("h", b"1"), ("null", None), (REPLAY_HEADER, b"0/0"))
    assert [stored.position for stored in told] == ["0/0", "0/1", "1/0"]
    assert all(producer.closed for producer in client.producers)


def test_a_replay_that_fails_says_so_and_claims_nothing(cluster):
    client = FakeClient(cluster, refuse=lambda topic, key: ClientError("no"))
    told = []
    with pytest.raises(ClientError):
        replay(client, Settings(), read_letters(client, "dead-letters"), told.append)
    assert told == []


def test_replaying_a_delete_sends_a_null_value(cluster):
    cluster.append("dead-letters", 0, b"k", encode(letter(9, value=None)))
    client = FakeClient(cluster)
    replay(client, Settings(), Selection(positions=frozenset({"0/2"})).of(read_letters(client, "dead-letters")), print)
    assert cluster.records("items")[-1].value is None


def test_what_is_shown_has_all_bytes(cluster):
    stored = next(read_letters(FakeClient(cluster), "dead-letters"))
    assert json.loads(json.dumps(full(stored)))["value_base64"] == "AGFiY/8="
    assert "00 61 62 63 ff" in readable(stored)
    assert "non_finite" in one_line(stored)
    assert hex_dump(b"\x00A\n") == ["  00000000  00 41 0a" + " " * 40 + " .A."]


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**63 - 1])
def test_a_timestamp_that_is_no_time_can_be_shown(timestamp):
    assert full(Stored(0, 0, letter(1).model_copy(update={"timestamp": timestamp})))["timestamp"]


def test_a_topic_of_something_else_is_refused(cluster):
    cluster.append("dead-letters", 0, b"k", b"\xc1")
    with pytest.raises(TopicError, match="dead-letters/0 offset 2 is not a dead letter"):
        list(read_letters(FakeClient(cluster), "dead-letters"))
    with pytest.raises(TopicError, match="does not exist"):
        list(read_letters(FakeClient(cluster), "nothing"))
