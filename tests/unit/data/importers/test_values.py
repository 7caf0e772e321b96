from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from worker.data.importers.values import (
    TIME_UNITS,
    CellError,
    to_count,
    to_feature,
    to_id,
    to_number,
    to_time_ms,
)
from worker.mapping.values import event_id

NAN, INF = float("nan"), float("inf")
CHRISTMAS_MS = 1_703_462_400_000  # 2023-12-25T00:00:00Z


@pytest.mark.parametrize(
    ("cell", "expected"), [("a 1", "a 1"), (7, "7"), (7.0, "7"), ("7.0", "7.0"), (2**70, str(2**70))]
)
def test_ids(cell: float | str, expected: str) -> None:
    assert to_id("sku", cell) == expected


@pytest.mark.parametrize("cell", [None, "", NAN, 7.5, INF, True, ["a"]])
def test_what_is_no_id(cell: Any) -> None:
    with pytest.raises(CellError, match="column sku: "):
        to_id("sku", cell)


@pytest.mark.parametrize(
    ("cell", "expected"), [(4, 4.0), ("4.5", 4.5), (None, None), ("", None), (NAN, None), ("nan", None)]
)
def test_numbers(cell: float | str | None, expected: float | None) -> None:
    assert to_number("stars", cell) == expected


@pytest.mark.parametrize("cell", ["many", INF, "inf", True, [1], 10**400])
def test_what_is_no_number(cell: Any) -> None:
    with pytest.raises(CellError, match="column stars: "):
        to_number("stars", cell)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [(3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (2**62 + 1, 2**62 + 1), (str(2**62 + 1), 2**62 + 1), (None, None)],
)
def test_counts(cell: float | str | None, expected: int | None) -> None:
    assert to_count("revision", cell) == expected


def test_a_fraction_is_no_count() -> None:
    with pytest.raises(CellError, match=r"column revision: .*whole number, got 1\.5"):
        to_count("revision", 1.5)


@pytest.mark.parametrize(
    ("cell", "unit"),
    [
        (CHRISTMAS_MS, "ms"),
        (CHRISTMAS_MS // 1000, "s"),
        (str(CHRISTMAS_MS // 1000), "s"),
        (CHRISTMAS_MS * 1000, "us"),
        (CHRISTMAS_MS * 1_000_000, "ns"),
        ("2023-12-25", "s"),
        ("2023-12-25T00:00:00Z", "s"),
        ("2023-12-25 01:00:00+01:00", "s"),
        (date(2023, 12, 25), "s"),
        (datetime(2023, 12, 25), "s"),
        (datetime(2023, 12, 25, 2, tzinfo=timezone(timedelta(hours=2))), "s"),
        (datetime(2023, 12, 25, tzinfo=UTC), "s"),
    ],
)
def test_times(cell: Any, unit: str) -> None:
    assert to_time_ms("when", cell, TIME_UNITS[unit]) == CHRISTMAS_MS


def test_what_is_no_time() -> None:
    with pytest.raises(CellError, match="column when: should be a time, got 'yesterday'"):
        to_time_ms("when", "yesterday", 1)
    assert to_time_ms("when", "", 1) is None


def test_one_vector_and_several() -> None:
    assert to_feature("v", [1, 2], "e", "f4").to_numpy().tolist() == [1, 2]
    several = to_feature("v", [[1, 2], [3, 4]], "e", "f2")
    assert (several.shape, several.encoder, several.dtype) == ((2, 2), "e", "f2")
    # As Parquet readers hand them over: an array of arrays.
    assert to_feature("v", [np.array([1.0, 2.0]), np.array([3.0, 4.0])], "e", "f2") == several


def test_vectors_that_are_not_there() -> None:
    for cell in (None, [], [NAN, NAN], [[NAN, NAN], [NAN, NAN]]):
        assert to_feature("v", cell, "e", "f2") is None
    assert to_feature("v", [[NAN, NAN], [1, 2]], "e", "f4").to_numpy().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ([1, NAN], r"element \[1\] is NaN or infinite"),
        ([1, 1e300], r"element \[1\] is NaN or infinite"),
        ([[NAN, NAN], [1, INF]], r"element \[1, 1\] is NaN or infinite"),
        ([1, 1e6], "too large for f2"),
        ([[1, 2], [3]], "several of one length"),
        (["x"], "should be a vector of numbers"),
        ("0.1 0.2", "should be a vector of numbers, got '0.1 0.2'"),
        (0.5, "should be a vector of numbers, got 0.5"),
        ([[[1.0]]], "3 levels"),
        (np.zeros(20_000), "16384"),
    ],
)
def test_what_is_no_vector(cell: Any, problem: str) -> None:
    with pytest.raises(CellError, match=f"column v: .*{problem}"):
        to_feature("v", cell, "e", "f2")


def test_an_event_id_says_what_the_event_says() -> None:
    assert event_id("u", "i", "like", 5, 4.0) == event_id("u", "i", "like", 5, 4.0)
    assert len({event_id("u", "i", 5), event_id("u", "i", 6), event_id("ui", "", 5), event_id("u", "i", "5")}) == 4


@pytest.mark.parametrize(
    ("cell", "unit", "problem"),
    [
        (1_767_225_600, "ms", "looks like seconds: should be milliseconds since 1970; see --time-unit"),
        (1_767_225_600_000, "us", "looks like seconds"),
        (1_767_225_600_000_000, "ms", "looks like microseconds"),
        (1_767_225_600_000_000_000, "ms", "looks like nanoseconds"),
        (1_767_225_600_000, "s", "looks like microseconds"),
        (-1, "ms", "should be milliseconds since 1970, from 0"),
        ("9999-12-31", "ms", "days in the future"),
        (253_402_300_799_999, "ms", "days in the future"),
    ],
)
def test_a_time_in_another_unit_or_in_the_future_is_refused_by_name(cell: int | str, unit: str, problem: str) -> None:
    with pytest.raises(CellError, match=problem):
        to_time_ms("t", cell, TIME_UNITS[unit])
