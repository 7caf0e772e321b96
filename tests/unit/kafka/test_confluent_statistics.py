"""What librdkafka's statistics tell of brokers, partitions and topics."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import KafkaError

from worker.kafka.confluent_kafka.statistics import Answers
from worker.records import TopicPartition

P0, P1 = TopicPartition("items", 0), TopicPartition("items", 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def broker(node: int, num_fetches: int, *, idle_s: float, num_timeouts: int = 0, received: int = 9) -> dict[str, Any]:
    idle_us = int(idle_s * 1e6)
    return {"nodeid": node, "rxidle": idle_us, "rx": received, "req": {"Fetch": num_fetches},
            "req_timeouts": num_timeouts}  # fmt: skip


def partition(leader: int, state: str = "active", *, unknown: bool = False) -> dict[str, Any]:
    return {"broker": leader, "fetch_state": state, "unknown": unknown}


def told(answers: Answers, brokers: list[dict[str, Any]], **partitions: dict[str, Any]) -> None:
    topics = {"items": {"partitions": {"-1": partition(-1), **{key[1:]: each for key, each in partitions.items()}}}}
    answers.look(json.dumps({"brokers": {str(n): each for n, each in enumerate(brokers)}, "topics": topics}))


def test_whichever_broker_answered_last_was_heard() -> None:
    answers = Answers(clock := Clock())
    assert answers.heard_at == 100.0
    clock.now = 110.0
    told(answers, [broker(1, 1, idle_s=7.0), broker(2, 1, idle_s=2.5)])
    assert answers.heard_at == 107.5
    told(answers, [broker(1, 1, idle_s=30.0)])
    assert answers.heard_at == 107.5


def test_a_broker_that_never_answered_was_not_heard() -> None:
    answers = Answers(clock := Clock())
    clock.now = 110.0
    told(answers, [broker(1, 0, idle_s=-1e-6, received=0), broker(-1, 0, idle_s=0.0, received=0)])
    assert answers.heard_at == 100.0


def test_partitions_are_heard_of_while_their_leader_answers_fetches() -> None:
    """One is under way at a time, so a second one means that the first was answered: after the look before."""
    answers = Answers(clock := Clock())
    for now, fetches in ((101.0, 5), (102.0, 7), (103.0, 7)):
        clock.now = now
        told(answers, [broker(1, fetches, idle_s=0.1), broker(2, 1, idle_s=0.1)], p0=partition(1), p1=partition(2))
    assert answers.heard_of(P0) == 101.0
    assert answers.heard_of(P1) is None


def test_a_partition_that_is_not_fetched_is_not_heard_of() -> None:
    answers = Answers(clock := Clock())
    for now, fetches in ((101.0, 5), (102.0, 7)):
        clock.now = now
        told(answers, [broker(1, fetches, idle_s=0.1)], p0=partition(1, "stopped"), p1=partition(1))
    assert answers.heard_of(P0) is None
    assert answers.heard_of(P1) == 101.0


def test_what_comes_of_a_partition_is_heard_at_once() -> None:
    answers = Answers(clock := Clock())
    clock.now = 105.0
    answers.came_of(P0)
    assert (answers.heard_of(P0), answers.heard_at) == (105.0, 105.0)


def test_failures_are_counted_and_unanswered_requests_dated() -> None:
    answers = Answers(clock := Clock())
    told(answers, [broker(1, 1, idle_s=0.0)])
    assert answers.num_failed == 0
    assert answers.unanswered_at < 0
    clock.now = 120.0
    told(answers, [broker(1, 1, idle_s=0.0, num_timeouts=2), broker(2, 1, idle_s=0.0, num_timeouts=1)])
    answers.told(KafkaError(KafkaError._TRANSPORT))
    assert answers.num_failed == 4
    clock.now = 130.0
    told(answers, [broker(1, 1, idle_s=0.0, num_timeouts=2), broker(2, 1, idle_s=0.0, num_timeouts=1)])
    assert answers.unanswered_at == 120.0


def test_partitions_of_a_topic_are_counted_as_they_become_known() -> None:
    answers = Answers(Clock())
    assert answers.num_partitions == {}
    told(answers, [], p0=partition(1), p1=partition(1, unknown=True))
    assert answers.num_partitions == {"items": 1}
    told(answers, [], p0=partition(1), p1=partition(1))
    assert answers.num_partitions == {"items": 2}
