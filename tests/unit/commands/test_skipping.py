"""What cannot be read is left out only when it is told, with its bytes kept where they can be."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import DeadLetter, Reason, decode
from tests.fakes import FakeClient, FakeCluster
from worker.commands.skipping import Gap, cost, find_gap, leave_out, parsed_place
from worker.errors import ConfigError, TopicError, UnreadableError
from worker.kafka.skips import Skip, end_of_skip, joined, noted, parsed
from worker.records import TopicPartition
from worker.settings import Settings
from worker.topics import wanted_topics

P1 = TopicPartition("items", 1)


class Log:
    """Nine offsets, of which those from `first` to `last` lie in a batch that cannot be read."""

    def __init__(self, first: int, last: int, next_offset: int | None = None, raw: bytes = b"torn") -> None:
        self.first, self.last, self.next_offset, self.raw = first, last, next_offset, raw

    def end(self, partition: Any, timeout_s: Any) -> Any:
        return 9

    def unreadable(self, partition: Any, offset: Any, timeout_s: Any) -> Any:
        if not self.first <= offset <= self.last:
            return None
        return UnreadableError(
            *partition, offset, "checksum", "its checksum is wrong", next_offset=self.next_offset,
            num_bytes=len(self.raw), raw=self.raw,
        )  # fmt: skip

    def close(self) -> None:
        return


def client(log: Log) -> FakeClient:
    made = FakeClient(FakeCluster(2))
    vars(made)["log"] = lambda: log
    return made


def test_a_place_is_as_the_log_names_it() -> None:
    assert parsed_place("a.b-c_d/12@3400") == (("a.b-c_d", 12), 3_400)
    for wrong in (
        "items",
        "items/1",
        "items@3",
        "items/x@3",
        "items/1@-3",
        "items/1@",
        "/1@2",
        "items/1@2 ",
        "1/2",
        "a b/1@2",
        "\udce9/1@2",
        "t" * 250 + "/1@2",
    ):
        with pytest.raises(ConfigError, match="TOPIC/PARTITION@OFFSET"):
            parsed_place(wrong)


def test_what_can_be_read_is_not_left_out() -> None:
    for place in (TopicPartition("items", 2), TopicPartition("nothing", 0)):
        with pytest.raises(TopicError, match="there is no partition"):
            find_gap(client(Log(3, 5)), place, 3)
    for offset in (2, 6, 9, 100):
        with pytest.raises(TopicError, match="nothing to leave out"):
            find_gap(client(Log(3, 5)), P1, offset)


@pytest.mark.parametrize("last", range(3, 9))
@pytest.mark.parametrize("raw", [b"torn", b""], ids=["handed out", "not handed out"])
def test_a_gap_ends_where_the_broker_sends_something_else(last: int, raw: bytes) -> None:
    assert find_gap(client(Log(3, last, raw=raw)), P1, 3).until == last + 1


def test_a_gap_ends_where_the_next_batch_begins() -> None:
    gap = find_gap(client(Log(3, 5, next_offset=7)), P1, 3)
    assert (gap.first, gap.until) == (3, 7)
    assert gap.text() == "items/1: offset 3 to 6 cannot be read, 4 bytes: its checksum is wrong"


def test_what_is_left_out_is_kept_as_a_dead_letter_and_told_to_all() -> None:
    made = client(Log(3, 5))
    assert leave_out(made, Settings(), find_gap(made, P1, 3))
    (record,) = made.cluster.records("dead-letters")
    letter = decode(DeadLetter, record.value)
    assert (letter.topic, letter.partition, letter.offset) == ("items", 1, 3)
    assert (letter.value, letter.reason, letter.original_bytes) == (b"torn", Reason.UNREADABLE, 4)
    assert record.key == b"items/1/3"
    assert made.cluster.left_out == {(P1, 3), (P1, 4), (P1, 5)}


def test_bytes_that_do_not_fit_the_dead_letters_are_not_kept() -> None:
    made = client(Log(3, 5, raw=bytes(2_000_000)))
    assert not leave_out(made, Settings(), find_gap(made, P1, 3))
    (record,) = made.cluster.records("dead-letters")
    letter = decode(DeadLetter, record.value)
    assert (letter.value, letter.original_bytes) == (None, 2_000_000)


def test_nothing_is_left_out_where_its_dead_letter_cannot_be_written() -> None:
    made = client(Log(3, 5))
    gap = find_gap(made, P1, 3)
    made.refuse = lambda topic, key: UnreadableError("x", 0, 0, "data", "refused")
    with pytest.raises(UnreadableError):
        leave_out(made, Settings(), gap)
    assert not made.cluster.left_out


def test_what_it_costs_is_said_of_every_topic() -> None:
    settings = Settings(roles=frozenset({"items", "users"}))
    assert len({cost(topic, settings) for topic in wanted_topics(settings)}) == len(wanted_topics(settings))


def test_notes_hold_what_was_left_out() -> None:
    skips = joined([Skip(7, 9), Skip(1, 3), Skip(3, 4), Skip(8, 12)])
    assert skips == [Skip(1, 4), Skip(7, 12)]
    assert parsed(noted(skips)) == skips
    many = [Skip(number * 10**12, number * 10**12 + 1) for number in range(1, 1_000)]
    assert parsed(noted(many)) == many[-len(parsed(noted(many))) :]
    assert len(noted(many)) < 4_096
    for foreign in ("", "v1:5", "skipped=", "skipped=x", "skipped=1-2-3", "skipped=5"):
        assert parsed(foreign) == []


def test_a_gap_of_one_offset() -> None:
    error = UnreadableError("items", 1, 3, "refused", "the broker cannot read it")
    assert Gap(P1, 3, 4, error).text() == (
        "items/1: offset 3 cannot be read, of which the broker hands out no bytes: the broker cannot read it"
    )


def test_a_batch_is_known_again_where_compaction_has_taken_what_lay_before_it() -> None:
    def met(offset: int, next_offset: int | None) -> UnreadableError:
        return UnreadableError("items", 1, offset, "checksum", "its checksum is wrong", next_offset=next_offset)

    skips = [Skip(1, 3), Skip(12, 20)]
    assert end_of_skip(skips, met(12, 20)) == end_of_skip(skips, met(15, None)) == 20
    assert end_of_skip(skips, met(10, 20)) == 20
    assert end_of_skip(skips, met(10, 12)) is None
    assert end_of_skip(skips, met(20, None)) is None
