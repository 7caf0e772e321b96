"""The clock of a fetch, and what is done aside because it has none."""

from __future__ import annotations

import threading

import pytest

from worker.encode.clock import Aside, Clock, LateError


def test_a_clock_says_what_is_left_until_nothing_is() -> None:
    times = iter([0.0, 1.5, 2.0])
    clock = Clock(2.0, now=lambda: next(times))
    assert clock.left_s() == 0.5
    with pytest.raises(LateError, match="longer than 2 s"):
        clock.left_s()


def test_what_is_done_aside_gives_its_result_or_its_error() -> None:
    aside = Aside(1)
    assert aside.call(lambda: 5, Clock(30)) == 5
    with pytest.raises(KeyError):
        aside.call(lambda: {}["none"], Clock(30))
    assert aside.call(lambda: 6, Clock(30)) == 6


def test_what_is_late_is_left_behind_and_those_left_behind_are_bounded() -> None:
    aside, gate = Aside(2), threading.Event()
    started: list[int] = []

    def hang() -> None:
        started.append(1)
        gate.wait(60)

    for _ in range(4):
        with pytest.raises(LateError):
            aside.call(hang, Clock(0.1))
    assert len(started) == 2
    gate.set()
    assert aside.call(lambda: 7, Clock(30)) == 7
