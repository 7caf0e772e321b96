"""What turns the page amber or red, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from worker.monitoring.concerns import Figures, StoppedPartition, concerns
from worker.monitoring.status import Tone

WELL = Figures(published=900, superseded={"stale_revision": 50, "duplicate": 40}, refused={"wrong_shape": 10})


def found(**changes: Any) -> dict[str, tuple[Tone, str, str]]:
    told = concerns(WELL._replace(**changes), 0.1)
    return {concern.kind: (concern.tone, concern.title, concern.detail) for concern in told}


def test_a_worker_that_is_well_is_no_concern() -> None:
    assert found() == {}
    assert concerns(Figures(0, {}, {}), 0.1) == []


def test_all_refused_is_one_however_few_records_there_were() -> None:
    tone, title, detail = found(published=0, superseded={}, refused={"no_modality": 0, "wrong_shape": 1_700})["refused"]
    assert (tone, title) == (Tone.WARN, "all of the recent input is refused")
    assert detail == "1,700 of the last 1,700 records became dead letters: wrong_shape 1,700"
    assert "refused" in found(published=0, superseded={}, refused={"wrong_shape": 1})


def test_a_share_above_the_threshold_is_one_and_a_share_below_it_is_none() -> None:
    assert found(published=89, superseded={}, refused={"wrong_shape": 8, "too_large": 3})["refused"][1:] == (
        "11% of the recent input is refused",
        "11 of the last 100 records became dead letters: wrong_shape 8, too_large 3",
    )
    assert found(published=90, superseded={}, refused={"wrong_shape": 10}) == {}


@pytest.mark.parametrize("reason", ["stale_revision", "without_vector", "unused_type", "duplicate"])
def test_input_that_changes_nothing_is_one_whatever_the_reason(reason: str) -> None:
    """All stale; all events without their items; all of types that the space does not use."""
    told = found(published=2, superseded={reason: 498}, refused={})
    assert told["nothing_new"][1] == "the recent input changes nothing"
    assert f"{reason} 498" in told["nothing_new"][2]
    assert found(published=0, superseded={reason: 20}, refused={}) == {}, "a few may well be repeated"


def test_content_that_cannot_be_used_is_one_for_its_modality() -> None:
    told = found(encoded={"text": 500, "image": 3}, not_encoded={"text": 5, "image": 40})
    assert list(told) == ["encoding image"]
    assert told["encoding image"][2] == "40 of the last 43 could not be fetched, read or encoded"


def test_silence_turns_from_amber_to_red() -> None:
    assert found(silent_s=9.9) == {}
    assert found(silent_s=12.0)["silence"][0] == Tone.WARN
    assert found(silent_s=84.0)["silence"] == (
        Tone.BAD,
        "no broker answers",
        "The last answer came 84 s ago. Lag and rates are those of then.",
    )


def test_stopped_partitions_are_one_with_the_first_ones_reason() -> None:
    stopped = [StoppedPartition(7, "no dead letters"), StoppedPartition(8, "x")]
    assert found(num_partitions=3, stopped=stopped)["stopped"][1:] == (
        "2 of 3 partitions stopped",
        "Partition 7: no dead letters",
    )


def test_a_full_waiting_list_an_unstable_group_and_long_restoring_are_concerns() -> None:
    assert list(found(num_overflown=3)) == ["waiting"]
    assert list(found(unstable_s=45.0)) == ["group"]
    assert list(found(restoring_s=840.0)) == ["restoring"]
    assert found(unstable_s=5.0, restoring_s=60.0) == {}, "a rebalance"


def test_the_gravest_comes_first() -> None:
    told = found(num_overflown=3, silent_s=84.0, unaccounted=-2)
    assert [tone for tone, _, _ in told.values()] == [Tone.BAD, Tone.BAD, Tone.WARN]
