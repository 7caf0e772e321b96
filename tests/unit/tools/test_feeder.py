"""A feed goes on where librdkafka gives its producer up, and one that breaks off does not pass for its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from tests.acceptance.feeder import MAX_FATAL_ERRORS, Feeder, FeedFailedError
from tests.acceptance.lives import DIMS, PART_SHARE, Events, Inputs
from tests.brokers import Outgoing
from tests.fakes import FakeRecord
from tests.unit.kafka.mock_cluster import MockCluster
from tests.verifier.replay import Replay
from worker.align import command

NUM_PARTITIONS, NUM_KEYS = 3, 7
WAIT_S = 20


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        cluster.create_topic("items", NUM_PARTITIONS)
        yield cluster


def record(number: int) -> Outgoing:
    return Outgoing("items", b"key-%d" % (number % NUM_KEYS), b"%d" % number)


def broken() -> Iterator[Outgoing]:
    raise SystemError("out of the client")
    yield


def feed(cluster: MockCluster, records: Iterator[Outgoing]) -> Feeder:
    with Feeder(cluster.bootstrap_servers, records, pace=1e6) as feeder:
        feeder._thread.join(WAIT_S)
        assert not feeder._thread.is_alive()
    return feeder


def first_half_in_the_log(cluster: MockCluster, num_inputs: int, *codes: int) -> Feeder:
    """Feeds that many inputs; the first requests with the second half of them are answered with these errors."""
    is_half, may_go_on = threading.Event(), threading.Event()

    def records() -> Iterator[Outgoing]:
        for number in range(num_inputs):
            if number == num_inputs // 2:
                is_half.set()
                assert may_go_on.wait(WAIT_S)
            yield record(number)

    with Feeder(cluster.bootstrap_servers, records(), pace=1e6) as feeder:
        assert is_half.wait(WAIT_S)
        # The feed's thread waits for us, so its client may be asked from here.
        feeder._producer.flush(WAIT_S)
        cluster.refuse_produce(*codes)
        may_go_on.set()
        feeder._thread.join(WAIT_S)
        assert not feeder._thread.is_alive()
    return feeder


def test_a_feed_that_breaks_off_is_a_failure() -> None:
    with Feeder("127.0.0.1:9", broken(), pace=1_000) as feeder:
        feeder._thread.join(10)
        with pytest.raises(FeedFailedError, match="broke off after 0 inputs: SystemError"):
            _ = feeder.is_done


def test_after_a_fatal_error_all_inputs_get_into_the_log_and_those_of_a_key_in_order(cluster: MockCluster) -> None:
    feeder = first_half_in_the_log(cluster, 400, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    assert feeder.is_done
    assert [error for error in feeder.fatal_errors if "OUT_OF_ORDER_SEQUENCE_NUMBER" in error] == feeder.fatal_errors
    assert len(feeder.fatal_errors) == 1
    log = list(cluster.read("items", NUM_PARTITIONS))
    by_key: dict[bytes, list[int]] = {}
    for message in log:
        numbers = by_key.setdefault(message.key(), [])
        if (number := int(message.value())) not in numbers:
            numbers.append(number)
    assert sorted(number for numbers in by_key.values() for number in numbers) == list(range(400))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert feeder.num_fed == 400
    assert feeder.timestamps.keys() <= {(message.partition(), message.offset()) for message in log}
    assert 400 <= sum(feeder.ends.values()) <= len(log)


def test_a_feed_whose_producers_all_fail_says_so(cluster: MockCluster) -> None:
    cluster.refuse_produce(*[KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER] * 10 * MAX_FATAL_ERRORS)
    feeder = feed(cluster, map(record, range(10)))
    with pytest.raises(FeedFailedError, match=rf"failed {MAX_FATAL_ERRORS + 1} times.*OUT_OF_ORDER_SEQUENCE_NUMBER"):
        _ = feeder.is_done


def test_an_input_that_is_refused_fails_the_feed(cluster: MockCluster) -> None:
    cluster.refuse_produce(*[KafkaError.TOPIC_AUTHORIZATION_FAILED] * NUM_PARTITIONS)
    feeder = feed(cluster, map(record, range(10)))
    with pytest.raises(FeedFailedError, match=r"not acknowledged.*authorization"):
        _ = feeder.is_done


def test_a_batch_that_the_broker_had_already_has_no_place_and_takes_no_other_input_s(cluster: MockCluster) -> None:
    feeder = first_half_in_the_log(cluster, 200, *[KafkaError.DUPLICATE_SEQUENCE_NUMBER] * NUM_PARTITIONS)
    assert feeder.is_done
    assert not feeder.fatal_errors
    assert sum(feeder.ends.values()) == 200
    # The mock keeps nothing of the batches that it says it has. The time that it gives to all others is no real one.
    log = list(cluster.read("items", NUM_PARTITIONS))
    assert 100 <= len(log) < 200
    assert feeder.timestamps.keys() <= {(message.partition(), message.offset()) for message in log}
    assert len(set(feeder.timestamps.values())) == 1


@pytest.mark.parametrize(("acknowledged", "sent"), [(0, 900), (300, 301), (300, 420), (700, 900)])
def test_what_is_sent_again_leads_to_nothing_else(tmp_path: Path, acknowledged: int, sent: int) -> None:
    """Deletes and new lives among it: so a campaign with such a feed is judged as any other."""
    space = command.create(tmp_path / "space", DIMS, dim=4)
    items = list(Inputs("items", 1, lambda: 1, part_share=PART_SHARE).records(900))
    events = list(Events("events", 1, 20, 100).records(900))

    def replay(*stretches: slice) -> Replay:
        def log(records: Sequence[Outgoing]) -> list[FakeRecord]:
            chosen = [each for stretch in stretches for each in records[stretch]]
            return [FakeRecord(each.topic, 0, n, 0, each.key, each.value) for n, each in enumerate(chosen)]

        return Replay(space, log(items), log(events))

    once, again = replay(slice(None)), replay(slice(sent), slice(acknowledged, None))
    assert len(once.features) > 100
    assert again.features == once.features
    assert again.histories == once.histories
