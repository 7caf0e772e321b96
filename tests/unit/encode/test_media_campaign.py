"""The short form of the campaign over damaged files, and that it would tell."""

from __future__ import annotations

import pytest

from schemas import Reason
from tests.media_campaign import Outcome, _judge, run
from worker.encode.media.errors import ContentError


@pytest.mark.campaign
def test_damaged_files_are_decoded_or_refused() -> None:
    outcome = run(300, seed=1)
    assert outcome.is_good, outcome.text()
    assert outcome.decoded > 30
    assert outcome.refused[Reason.UNDECODABLE.value] > 30


@pytest.mark.parametrize("detail", ["the decoder crashed on the file", "decoding takes longer than 20 s"])
def test_a_crash_or_a_hang_fails_the_campaign(detail: str) -> None:
    outcome = Outcome(num_files=1)
    _judge("file 0", ContentError(Reason.DECODER_FAILED, detail), outcome)
    assert not outcome.is_good


def test_a_lost_file_fails_the_campaign() -> None:
    assert not Outcome(num_files=1).is_good
