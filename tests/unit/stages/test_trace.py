"""What of an input's trace context its output carries on."""

from typing import Any

import pytest

from tests.fakes import FakeRecord
from worker.stages.trace import MAX_BYTES, carried_headers

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GOOD = ("traceparent", PARENT)


def carried(*headers: Any) -> Any:
    return tuple(carried_headers(FakeRecord(headers=headers)))


def test_a_good_context_is_carried_as_it_is() -> None:
    headers = (GOOD, ("tracestate", b"vendor=1,other=2"), ("tracestate", b"third=3"))
    assert carried(*headers, ("secret", b"x")) == headers
    assert carried() == ()


def test_a_later_version_may_say_more() -> None:
    later = b"01" + PARENT[2:] + b"-more"
    assert carried(("traceparent", later)) == (("traceparent", later),)


@pytest.mark.parametrize(
    "parent",
    [
        None, b"", b"00-1", b"x" * 1_000_000, PARENT + b"-more", PARENT + b"\n", PARENT[:-1], PARENT.upper(),
        b"ff" + PARENT[2:], b"00-" + b"0" * 32 + PARENT[35:], PARENT[:36] + b"0" * 16 + b"-01",
        b"01" + PARENT[2:] + b"-" + b"x" * MAX_BYTES, b"\xff\xfe", PARENT.replace(b"4", "é".encode()),
    ],
)  # fmt: skip
def test_a_malformed_parent_is_dropped_and_its_state_with_it(parent: bytes | None) -> None:
    assert carried(("traceparent", parent), ("tracestate", b"vendor=1")) == ()


@pytest.mark.parametrize("states", [[b"v=" + b"x" * MAX_BYTES], [b"v=" + b"x" * 500] * 3, [b"\x00"], [b"a", b"\xff"]])
def test_a_state_that_is_malformed_or_too_long_is_dropped_alone(states: list[Any]) -> None:
    assert carried(GOOD, *(("tracestate", state) for state in states)) == (GOOD,)


def test_of_several_parents_none_is_carried() -> None:
    assert carried(GOOD, GOOD) == ()


def test_a_state_without_a_parent_says_nothing() -> None:
    assert carried(("tracestate", b"vendor=1")) == ()
    assert carried(GOOD, ("tracestate", None)) == (GOOD,)
