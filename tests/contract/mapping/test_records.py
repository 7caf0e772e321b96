"""The short form of the campaign in `records.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.contract.mapping.records import campaign


@pytest.mark.campaign
def test_every_broken_record_is_a_message_or_a_refusal_that_names_field_and_mapping(tmp_path: Path) -> None:
    num_records = int(os.environ.get("ALIGN_TEST_MAPPED_RECORDS", "6000"))
    found = campaign(num_records, tmp_path)
    assert sum(sum(counts.values()) for counts in found.values()) == num_records
    for name, counts in found.items():
        assert counts["message"], name
        assert sum(count for told, count in counts.items() if told.startswith("refused")), name
