"""The life cycle of a partition: the steps that are drawn, no others, and what goes with each."""

from typing import Any

import pytest

from worker.errors import UnreadableError
from worker.kafka.port import Commit
from worker.loop.assigned_partition import AssignedPartition
from worker.partitions.state import StopReason
from worker.records import TopicPartition
from worker.state import MemoryStore
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay

P0 = TopicPartition("items", 0)
STEPS = {
    "begin": lambda partition: partition.begin(Commit(7)),
    "start": lambda partition: partition.start(overlay(), ["a"], now=2.0),
    "stop": lambda partition: partition.stop(StopReason.PUBLISH_FAILED, "the broker went away", until=9.0, now=3.0),
    "hold": lambda partition: partition.hold(StopReason.ENCODER_DOWN, "image: no answer"),
    "go_on": lambda partition: partition.go_on(),
    "renew": lambda partition: partition.renew(),
}
WAYS = {
    (): "new",
    ("begin",): "restoring",
    ("begin", "start"): "running",
    ("begin", "start", "hold"): "stopped",
    ("begin", "start", "hold", "hold"): "stopped",
    ("begin", "start", "hold", "go_on"): "running",
    ("begin", "start", "hold", "stop"): "stopped",
    ("begin", "start", "stop"): "stopped",
    ("begin", "start", "stop", "renew"): "new",
    ("begin", "stop", "stop", "renew", "begin", "start"): "running",
    ("stop", "renew"): "new",
}
DRAWN = {
    "new": {"begin", "stop"},
    "restoring": {"start", "stop"},
    "running": {"hold", "stop"},
}


def overlay() -> StateOverlay[ItemState]:
    return StateOverlay(MemoryStore(), ItemState.decode)


def after(*steps: str) -> AssignedPartition:
    partition = AssignedPartition(P0)
    for step in steps:
        STEPS[step](partition)
    return partition


@pytest.mark.parametrize(("steps", "state"), WAYS.items(), ids=lambda value: str(value))
def test_it_goes_the_ways_that_are_drawn(steps: tuple[Any, ...], state: str) -> None:
    assert after(*steps).state == state


@pytest.mark.parametrize("way", [(), ("begin",), ("begin", "start")], ids=["new", "restoring", "running"])
@pytest.mark.parametrize("step", STEPS)
def test_it_goes_no_others(way: tuple[Any, ...], step: str) -> None:
    partition = after(*way)
    if step in DRAWN[partition.state]:
        STEPS[step](partition)
        return
    before = partition.state
    with pytest.raises(AssertionError):
        STEPS[step](partition)
    assert partition.state == before


def test_what_was_stopped_begins_anew_and_what_was_held_goes_on() -> None:
    with pytest.raises(AssertionError):
        after("begin", "start", "stop").go_on()
    with pytest.raises(AssertionError):
        after("begin", "start", "hold").renew()


def test_a_stop_ends_the_tenure_and_forgets_what_was_to_be_computed_anew() -> None:
    partition = after("begin", "start")
    tenure = partition.tenure
    assert partition.has_to_recompute
    assert STEPS["stop"](partition) is tenure
    assert partition.tenure is None
    assert not partition.has_to_recompute
    assert (partition.reason, partition.detail, partition.stopped_until) == (
        StopReason.PUBLISH_FAILED, "the broker went away", 9.0,
    )  # fmt: skip
    assert partition.not_running_since == 3.0


def test_a_hold_keeps_the_tenure() -> None:
    partition = after("begin", "start")
    tenure = partition.tenure
    STEPS["hold"](partition)
    assert partition.tenure is tenure
    assert partition.is_held_for(StopReason.ENCODER_DOWN)
    assert not partition.is_held_for(StopReason.UNREADABLE)
    partition.go_on()
    assert (partition.reason, partition.detail) == (None, "")


def test_what_could_not_be_read_is_told_until_it_has_been() -> None:
    partition = after("begin", "start")
    error = UnreadableError("items", 0, 12, "checksum", "bad bytes")
    partition.cannot_read(error, until=15.0)
    partition.hold(StopReason.UNREADABLE, partition.detail)
    partition.go_on()
    assert (partition.unreadable, partition.num_tries, partition.detail) == (error, 1, error.one_line())
    partition.can_read()
    assert (partition.unreadable, partition.num_tries, partition.detail) == (None, 0, "")


def test_a_doubt_about_the_log_goes_to_the_next_tenure_and_no_further() -> None:
    partition = after("begin", "start")
    partition.doubt_log("the log went back")
    STEPS["stop"](partition)
    partition.renew()
    assert partition.begin(Commit(0)).doubt == "the log went back"
    STEPS["stop"](partition)
    partition.renew()
    assert partition.begin(Commit(0)).doubt == ""


def test_ids_to_compute_anew_keep_their_order_and_come_once() -> None:
    partition = after("begin", "start")
    partition.recompute_later(["b", "a", "c"])
    assert partition.take_to_recompute(2) == ["a", "b"]
    assert partition.take_to_recompute(9) == ["c"]
    assert partition.take_to_recompute(9) == []
