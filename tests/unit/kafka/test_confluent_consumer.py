"""What librdkafka has handed over once does not come again: whatever happens in a poll, it is not lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, ClientError, FencedError, NotMemberError, WorkerError
from worker.kafka.confluent_kafka import records
from worker.kafka.confluent_kafka.consumer import ConfluentConsumer
from worker.kafka.confluent_kafka.lost_contact import LostContact
from worker.kafka.confluent_kafka.membership import written
from worker.kafka.confluent_kafka.sent_commits import SentCommits
from worker.kafka.confluent_kafka.statistics import Answers
from worker.kafka.port import Commit, Membership
from worker.records import TopicPartition
from worker.settings import KafkaSettings

TOPIC = "items"
P0, P1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


class Message:
    """One of the library's."""

    def __init__(self, partition: int, offset: int, error: int | None = None) -> None:
        self._partition, self._offset = partition, offset
        self._error = None if error is None else KafkaError(error)

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (1, 0)

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> None:
        return None

    def __len__(self) -> int:
        return 1


Step = list[Message] | Callable[["Library"], list[Message]]


class Library:
    """A consumer that does what it is told to, call by call."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.sought: list[tuple[int, int]] = []
        self.revoke: Any = None
        self.assign_new: Any = None
        self.lose: Any = None
        self.place: bytes | None = written(Membership("group", 1, "member", None))
        self.commits: list[list[KafkaTopicPartition]] = []
        self.on_commit: Any = None
        self.answers_others = False
        self.is_asked: Callable[[], None] = lambda: None

    def subscribe(self, topics: Any, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.assign_new = lambda *numbers: on_assign(self, [KafkaTopicPartition(TOPIC, n) for n in numbers])
        self.revoke = lambda *numbers: on_revoke(self, [KafkaTopicPartition(TOPIC, n) for n in numbers])
        self.lose = lambda *numbers: on_lost(self, [KafkaTopicPartition(TOPIC, n) for n in numbers])

    def consumer_group_metadata(self) -> bytes | None:
        self.is_asked()
        return self.place

    def commit(self, offsets: list[KafkaTopicPartition], asynchronous: bool) -> None:
        assert asynchronous, "it would keep every other call waiting, for ever if it waits for a rebalance"
        self.commits.append(offsets)

    def answer(self, number: int, error: int | None = None) -> Step:
        """A call that hears what became of a commit, and brings nothing else."""

        def step(_: Library) -> list[Message]:
            self.on_commit(None if error is None else KafkaError(error), self.commits[number])
            return []

        return step

    def consume(self, count: int, timeout: float) -> list[Message]:
        step = self.steps.pop(0) if self.steps else []
        return step(self) if callable(step) else step

    def close(self) -> None: ...

    def list_topics(self, *_: Any, **__: Any) -> Any:
        return type("Metadata", (), {"topics": {}})

    def committed(self, partitions: Any, timeout: float) -> Any:
        return partitions

    def seek(self, partition: Any) -> None:
        self.sought.append((partition.partition, partition.offset))

    def get_watermark_offsets(self, partition: Any, timeout: float) -> Any:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def incremental_assign(self, partitions: Any) -> None: ...

    def pause(self, partitions: Any) -> None: ...

    def resume(self, partitions: Any) -> None: ...


class Listener:
    def assigned(self, partitions: Collection[TopicPartition]) -> None: ...

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        return {}

    def lost(self, partitions: Collection[TopicPartition]) -> None: ...


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def outcomes() -> list[WorkerError | None]:
    return []


@pytest.fixture
def consumer(library: Library, monkeypatch: pytest.MonkeyPatch) -> ConfluentConsumer:
    """Has both partitions, from where the log begins."""
    for module in ("records", "consumer"):
        monkeypatch.setattr(f"worker.kafka.confluent_kafka.{module}.Message", Message)
    settings = KafkaSettings(client="confluent-kafka", assignor="cooperative-sticky")
    nobody: Any = None
    second = type("Second", (), {"reread": lambda *_: (), "leave_group": lambda *_: None})()
    sent = SentCommits()
    library.on_commit = sent.hear
    contact = LostContact(lambda: library.answers_others)
    made = ConfluentConsumer(lambda: library, Answers(), sent, contact, nobody, second, settings, "group")
    made.subscribe([TOPIC], Listener())
    library.assign_new(0, 1)
    assert made.poll(0, 10) == {}
    assert vars(records)["Message"] is Message
    return made


def offsets(polled: Mapping[TopicPartition, Any]) -> dict[int, list[int]]:
    return {partition.partition: [record.offset for record in found] for partition, found in polled.items()}


def test_a_partition_that_is_kept_loses_no_record_when_another_one_goes(
    library: Library, consumer: ConfluentConsumer
) -> None:
    """The second call into the library tells of the rebalance, and the first has taken a record already."""

    def revoking(library: Library) -> list[Message]:
        library.revoke(1)
        return [Message(0, 6)]

    library.steps = [[Message(0, 5)], revoking]
    assert offsets(consumer.poll(0, 10)) == {0: [5, 6]}
    assert consumer.position(P0) == 7


def test_a_partition_that_goes_takes_its_records_along(library: Library, consumer: ConfluentConsumer) -> None:
    def revoking(library: Library) -> list[Message]:
        library.revoke(1)
        return [Message(0, 5)]

    library.steps = [[Message(1, 5)], revoking]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}
    assert consumer.position(P1) is None


def test_records_are_handed_over_before_an_error_that_came_behind_them(
    library: Library, consumer: ConfluentConsumer
) -> None:
    def failing(library: Library) -> list[Message]:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    library.steps = [[Message(0, 5)], failing]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}
    with pytest.raises(ClientError):
        consumer.poll(0, 10)


def test_what_cannot_be_asked_for_does_not_lose_what_has_come(library: Library, consumer: ConfluentConsumer) -> None:
    """Where a partition begins that was never read cannot be told while nobody answers."""
    library.steps = [[Message(0, 5)], [Message(1, 0, KafkaError._BAD_MSG)]]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}
    with pytest.raises(ClientError):
        consumer.poll(0, 10)


def test_the_end_moves_the_position_over_markers_and_never_back(library: Library, consumer: ConfluentConsumer) -> None:
    library.steps = [[Message(0, 5)], [Message(0, 9, KafkaError._PARTITION_EOF)]]
    consumer.poll(0, 10)
    assert consumer.position(P0) == 9
    library.steps = [[Message(0, 7, KafkaError._PARTITION_EOF)]]
    consumer.poll(0, 10)
    assert consumer.position(P0) == 9


def test_a_poll_that_brings_a_partition_brings_no_records_of_it(library: Library, consumer: ConfluentConsumer) -> None:
    """Nor its end: whoever polls does not know yet where to begin."""
    library.revoke(1)

    def assigning(library: Library) -> list[Message]:
        library.assign_new(1)
        return [Message(1, 0)]

    library.steps = [assigning, [Message(0, 5), Message(1, 1), Message(1, 2, KafkaError._PARTITION_EOF)]]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}
    assert library.sought == [(1, OFFSET_BEGINNING)]
    assert consumer.position(P1) is None


def test_a_paused_partition_hands_over_nothing_and_goes_on_where_it_was(
    library: Library, consumer: ConfluentConsumer
) -> None:
    library.steps = [[Message(0, 5)]]
    consumer.poll(0, 10)
    consumer.pause([P0])
    library.steps = [[Message(0, 6)], [Message(0, 7, KafkaError._PARTITION_EOF)]]
    assert consumer.poll(0, 10) == {}
    assert consumer.position(P0) == 6


class Nameless(Message):
    """What the library says of itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, 0)
        self._error = KafkaError(KafkaError._FATAL, reason)

    def topic(self) -> Any:
        return None


STILL_USED = "Fatal error: Broker: The instance ID is still used by another member in the consumer group"


def test_a_name_that_a_killed_member_still_has_is_waited_for(
    library: Library, consumer: ConfluentConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With KIP-848 the group keeps it until the session of the dead one ends."""
    opened: list[Library] = []
    monkeypatch.setattr("worker.kafka.confluent_kafka.consumer.NAME_RETRY_S", 0.0)
    monkeypatch.setattr(consumer, "_open", lambda: opened.append(Library()) or opened[-1])
    library.steps = [[Nameless(STILL_USED)]]
    assert consumer.poll(0, 10) == {}
    assert consumer.poll(0, 10) == {}
    (other,) = opened
    other.assign_new(0)
    consumer.poll(0, 10)
    other.steps = [[Message(0, 5)]]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}


def test_a_name_that_does_not_become_free_is_another_process(
    library: Library, consumer: ConfluentConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.kafka.confluent_kafka.consumer.NAME_FREE_S", -1.0)
    library.steps = [[Nameless(STILL_USED)]]
    with pytest.raises(FencedError, match=r"kafka\.group_instance_id"):
        consumer.poll(0, 10)


# ---------------------------------------------------------------------- contact


def test_a_client_is_lost_when_another_one_is_answered_and_it_is_not() -> None:
    answers = {"others": False}
    contact = LostContact(lambda: answers["others"])
    assert not contact.is_lost(heard_at=0.0, now=9.0)
    assert not contact.is_lost(heard_at=0.0, now=11.0), "the brokers are away"
    answers["others"] = True
    assert not contact.is_lost(heard_at=0.0, now=12.0), "not asked at every poll"
    assert not contact.is_lost(heard_at=0.0, now=16.0), "it may be about to connect again"
    assert contact.is_lost(heard_at=0.0, now=21.0)
    assert not contact.is_lost(heard_at=21.0, now=33.0), "the new one is heard of"


def test_a_client_that_connects_again_by_itself_is_kept() -> None:
    contact = LostContact(lambda: True)
    assert not contact.is_lost(heard_at=0.0, now=11.0)
    assert not contact.is_lost(heard_at=12.0, now=16.0)
    assert not contact.is_lost(heard_at=12.0, now=23.0), "what was found before counts no more"


def test_a_lost_client_is_replaced_and_reads_on(
    library: Library, consumer: ConfluentConsumer, outcomes: list[WorkerError | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Library()
    monkeypatch.setattr(consumer, "_open", lambda: other)
    monkeypatch.setattr("worker.kafka.confluent_kafka.lost_contact.SILENT_S", -1.0)
    monkeypatch.setattr("worker.kafka.confluent_kafka.lost_contact.PROBE_EVERY_S", 0.0)
    consumer.commit({P0: Commit(5)}, outcomes.append)
    library.answers_others = True
    consumer.poll(0, 10)
    consumer.poll(0, 10)
    library.answers_others = False
    assert [type(each) for each in outcomes] == [NotMemberError]
    other.assign_new(0)
    consumer.poll(0, 10)
    other.steps = [[Message(0, 5)]]
    assert offsets(consumer.poll(0, 10)) == {0: [5]}


# ---------------------------------------------------------------------- commits


def test_polls_go_on_while_a_commit_is_not_answered(
    library: Library, consumer: ConfluentConsumer, outcomes: list[WorkerError | None]
) -> None:
    """A commit may wait for a rebalance, and a rebalance for the next poll."""
    consumer.commit({P0: Commit(5)}, outcomes.append)
    library.steps = [[Message(0, 5)]]
    assert offsets(consumer.poll(0, 1)) == {0: [5]}
    assert outcomes == []
    library.steps = [library.answer(0)]
    assert consumer.poll(0, 1) == {}
    assert outcomes == [None]
    consumer.poll(0, 1)
    assert outcomes == [None], "told once"


def test_a_commit_that_is_refused(
    library: Library, consumer: ConfluentConsumer, outcomes: list[WorkerError | None]
) -> None:
    consumer.commit({P0: Commit(5)}, outcomes.append)
    library.steps = [library.answer(0, KafkaError.ILLEGAL_GENERATION)]
    consumer.poll(0, 1)
    assert [type(each) for each in outcomes] == [NotMemberError]


def test_a_commit_proves_nothing_once_the_place_is_lost(
    library: Library, consumer: ConfluentConsumer, outcomes: list[WorkerError | None]
) -> None:
    consumer.commit({P0: Commit(5)}, outcomes.append)

    def lost_and_answered(_: Library) -> list[Message]:
        library.lose(0, 1)
        library.place = None
        library.on_commit(None, library.commits[0])  # an empty group takes it from anyone
        return []

    library.steps = [lost_and_answered]
    consumer.poll(0, 1)
    assert [type(each) for each in outcomes] == [NotMemberError]
    consumer.commit({P0: Commit(5)}, outcomes.append)
    assert [type(each) for each in outcomes] == [NotMemberError] * 2
    assert len(library.commits) == 1, "not even sent"


def test_the_same_offsets_sent_twice_are_answered_one_after_the_other(
    library: Library, consumer: ConfluentConsumer
) -> None:
    """Or else the proof of an old commit would count for a new one."""
    told: list[str] = []
    consumer.commit({P0: Commit(5)}, lambda _: told.append("first"))
    consumer.commit({P0: Commit(5)}, lambda _: told.append("second"))
    library.steps = [library.answer(0)]
    consumer.poll(0, 1)
    assert told == ["first"]
    library.steps = [library.answer(1)]
    consumer.poll(0, 1)
    assert told == ["first", "second"]


def test_a_commit_that_is_never_answered_is_given_up_in_time(
    library: Library, outcomes: list[WorkerError | None]
) -> None:
    sent = SentCommits()
    sent.add({P0: Commit(5)}, 10.0, lambda: True, outcomes.append)
    sent.hand_on(9.9)
    assert outcomes == []
    sent.hand_on(10.0)
    assert [type(each) for each in outcomes] == [CallTimeoutError]
    assert not len(sent)
    sent.hear(None, [KafkaTopicPartition(TOPIC, 0, 5)])  # comes late
    sent.hand_on(11.0)
    assert len(outcomes) == 1


def test_waiting_for_a_commit_loses_no_record(
    library: Library, consumer: ConfluentConsumer, outcomes: list[WorkerError | None]
) -> None:
    consumer.commit({P0: Commit(5)}, outcomes.append)
    library.steps = [[Message(0, 5)], library.answer(0)]
    consumer.await_commits()
    assert outcomes == [None]
    assert (0, OFFSET_BEGINNING) in library.sought, "what came meanwhile is read again"


def test_other_threads_do_not_wait_for_a_call_of_the_library(library: Library, consumer: ConfluentConsumer) -> None:
    """The library lets one thread in at a time, for as long as its call takes."""

    def fail() -> None:
        raise AssertionError("this may wait for ever")

    consumer.poll(0, 1)
    library.is_asked = fail
    assert consumer.is_stable()
    assert consumer.membership() == Membership("group", 1, "member", None)
    consumer.leave(0.0)
