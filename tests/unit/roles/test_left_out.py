"""Events of types that the space does not use are told of, by type, and not too often."""

import logging

import pytest

from worker.roles.left_out import MOST_TYPES, OTHER, TOLD_EVERY_S, UnusedTypes


@pytest.fixture
def unused(caplog: pytest.LogCaptureFixture) -> UnusedTypes:
    caplog.set_level(logging.WARNING)
    return UnusedTypes(["like", "view"])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    taken = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return taken


def test_a_new_type_is_told_of_at_once_with_the_types_that_count(
    unused: UnusedTypes, caplog: pytest.LogCaptureFixture
) -> None:
    unused.add({"buy": 3, "cart": 1}, 0.0)
    first, second = lines(caplog)
    assert first.startswith("3 events of type 'buy' are not used: the space gives a weight to like, view alone")
    assert second.startswith("1 events of type 'cart'")
    assert unused.totals == {"buy": 3, "cart": 1}


def test_it_is_told_of_again_after_ten_minutes_with_what_came_meanwhile(
    unused: UnusedTypes, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (0.0, 1.0, TOLD_EVERY_S - 1):
        unused.add({"buy": 2}, now)
    assert len(lines(caplog)) == 1
    unused.add({"buy": 1}, TOLD_EVERY_S)
    (line,) = lines(caplog)
    assert line.startswith("5 events of type 'buy'")
    assert unused.totals == {"buy": 7}


def test_the_number_of_types_is_bounded_whatever_producers_write(
    unused: UnusedTypes, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1_000):
        unused.add({f"type-{number}": 1}, number / 100)
    assert len(unused.totals) == MOST_TYPES + 1
    assert unused.totals[OTHER] == 1_000 - MOST_TYPES
    assert len(lines(caplog)) == MOST_TYPES + 1


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 128, "\u202eabc"])
def test_a_type_that_no_log_or_label_should_hold_is_made_harmless(
    unused: UnusedTypes, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    unused.add({name: 1}, 0.0)
    (label,) = unused.totals
    assert label.isprintable()
    assert len(label) <= 65
    assert lines(caplog)[0].isprintable()
