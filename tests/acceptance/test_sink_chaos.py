"""The short form of the campaign of the sink, and that its judge finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.acceptance.sink_chaos import Kept, Plan, judge, run
from tests.brokers import find_distribution

KEPT = Kept(5, 3, (1.0, 0.0), {"price": 2})


@pytest.mark.parametrize(
    ("found", "breach"),
    [
        ({}, "lost"),
        ({"a": KEPT, "b": KEPT}, "ghosts"),
        ({"a": KEPT._replace(source_offset=4)}, "stale"),
        ({"a": KEPT._replace(vector=(0.0, 1.0))}, "stale"),
        ({"a": KEPT._replace(attributes={"price": 3})}, "stale"),
    ],
)
def test_the_judge_finds_each_thing_that_can_be_wrong(found: dict[str, Kept], breach: str) -> None:
    verdict = judge({"a": KEPT}, found)
    assert not verdict.ok
    assert verdict.counts[breach] == 1
    assert judge({"a": KEPT}, {"a": KEPT}).ok


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["pgvector"])
def test_after_kills_of_sink_worker_and_store_the_store_is_what_the_topic_says(kind: str) -> None:
    if isinstance(found := find_distribution(), str):
        pytest.skip(found)
    verdict = run(replace(Plan(), kind=kind), say=lambda line: None)
    assert verdict.ok, str(verdict)
    assert sum(count for name, count in verdict.counts.items() if name.endswith("kills")) >= 20
    assert verdict.counts["rows"] > 0
    assert verdict.counts["dead letters"] == 0
