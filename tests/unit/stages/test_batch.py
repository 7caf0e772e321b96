from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeRecord
from worker.kafka.port import Commit
from worker.partitions.tenure import Tenure
from worker.records import Item, Superseded, TopicPartition
from worker.settings import BatchSettings
from worker.stages.batch import BACKLOG_MAX_WAIT_MS, MicroBatcher

SETTINGS = BatchSettings(max_records=4, max_bytes=1_024, max_age_ms=20, queue_records=16)


def tenure(partition: int = 0) -> Tenure:
    return Tenure(TopicPartition("items", partition), Commit(0))


def items(*names: str, start: int = 0, timestamp: int = 1_000, num_bytes: int = 10) -> list[Item]:
    return [
        Item(FakeRecord(offset=start + n, timestamp=timestamp, value=b"x" * num_bytes), name, 1, 0, {})
        for n, name in enumerate(names)
    ]


def test_a_batch_closes_when_full() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", "b", "c"), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=False) is None
    batcher.add(tenure(1), items("d", "e"), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=False) == "full"
    batch = batcher.take("full")
    assert [name for each in batch.slices for name in each.newest] == ["a", "b", "c", "d"]
    assert batcher.num_records == 1


def test_a_batch_closes_on_bytes() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", "b", num_bytes=600), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=False) == "bytes"
    assert batcher.take("bytes").num_outputs == 2
    assert (batcher.num_records, batcher.num_bytes) == (0, 0)


def test_age_counts_from_the_kafka_timestamp_in_live_mode() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", timestamp=1_000), now_ms=1_015)
    assert batcher.due_reason(1_019, backlog=False) is None
    assert batcher.wait_ms(1_019, backlog=False) == 1
    assert batcher.due_reason(1_020, backlog=False) == "age"


def test_the_oldest_record_of_any_partition_sets_the_deadline() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(0), items("a", timestamp=1_015), now_ms=1_015)
    batcher.add(tenure(1), items("b", timestamp=1_000), now_ms=1_015)
    assert batcher.due_reason(1_020, backlog=False) == "age"


def test_a_timestamp_in_the_future_does_not_delay_a_batch() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", timestamp=10**12), now_ms=1_000)
    assert batcher.due_reason(1_020, backlog=False) == "age"


def test_backlog_mode_waits_for_a_full_batch_but_not_for_ever() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", timestamp=0), now_ms=1_000)
    assert batcher.due_reason(1_100, backlog=True) is None
    assert batcher.due_reason(1_000 + BACKLOG_MAX_WAIT_MS, backlog=True) == "age"


def test_with_nothing_more_on_its_way_a_batch_is_what_there_is() -> None:
    batcher = MicroBatcher(SETTINGS)
    assert batcher.due_reason(1_000, backlog=False, more_is_coming=False) is None
    batcher.add(tenure(), items("a"), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=False, more_is_coming=False) == "idle"
    assert batcher.due_reason(1_000, backlog=True, more_is_coming=False) == "idle"
    batcher.add(tenure(), items("b", "c", "d"), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=False, more_is_coming=False) == "full"


def test_draining_closes_what_there_is() -> None:
    batcher = MicroBatcher(SETTINGS)
    assert batcher.due_reason(1_000, backlog=False, draining=True) is None
    batcher.add(tenure(), items("a"), now_ms=1_000)
    assert batcher.due_reason(1_000, backlog=True, draining=True) == "drain"


def test_repeated_items_do_not_use_up_a_batch() -> None:
    batcher = MicroBatcher(SETTINGS)
    batcher.add(tenure(), items("a", "a", "a", "b", "c", "d", "e"), now_ms=1_000)
    batch = batcher.take("full")
    assert batch.num_outputs == 4
    assert batch.slices[0].num_records == 6
    assert batch.slices[0].next_offset == 6


def test_discarding_a_tenure_keeps_the_others() -> None:
    batcher, first, second = MicroBatcher(SETTINGS), tenure(0), tenure(1)
    batcher.add(first, items("a", "b"), now_ms=0)
    batcher.add(second, items("c"), now_ms=0)
    batcher.discard(first)
    assert batcher.num_records == 1
    assert [each.tenure for each in batcher.take("drain").slices] == [second]


def test_discarding_counts_what_a_batch_has_left_of_the_others() -> None:
    batcher, first, second = MicroBatcher(SETTINGS), tenure(0), tenure(1)
    batcher.add(first, items("a", "b", "c", "d", "e", "f"), now_ms=0)
    batcher.add(second, items("g"), now_ms=0)
    assert batcher.take("full").num_outputs == 4
    batcher.discard(second)
    assert (batcher.num_records, batcher.num_bytes) == (2, 20)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)), max_size=12),
    st.integers(1, 6),
)
def test_every_record_is_in_exactly_one_share_and_in_order(chunks: Any, max_records: Any) -> None:
    settings = BatchSettings(max_records=max_records, queue_records=100)
    batcher, tenures, ends = MicroBatcher(settings), [tenure(n) for n in range(3)], [0, 0, 0]
    for partition, names in chunks:
        entries = items(*names, start=ends[partition])
        entries[0] = Superseded(entries[0].record)
        batcher.add(tenures[partition], entries, now_ms=0)
        ends[partition] += len(names)
    taken = [0, 0, 0]
    while batcher.due_reason(10**9, backlog=False):
        batch = batcher.take("age")
        assert batch.num_outputs == sum(len(each.newest) for each in batch.slices) <= max_records
        for each in batch.slices:
            partition = each.tenure.partition.partition
            assert each.num_records == sum(each.superseded.values()) + each.num_same_batch + len(each.newest)
            taken[partition] += each.num_records
            assert each.next_offset == taken[partition]
    assert taken == ends
    assert (batcher.num_records, batcher.num_bytes) == (0, 0)


def test_the_wait_is_asked_for_only_with_records() -> None:
    with pytest.raises(ValueError, match="min"):
        MicroBatcher(SETTINGS).wait_ms(0, backlog=False)
