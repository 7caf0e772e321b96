"""The documented run over a real catalogue, where there is one."""

from __future__ import annotations

import pytest

from tests.acceptance.real_catalogue import DATA, Features, run_catalogue


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_every_film_ends_with_its_newest_vector(own_kafka_allowed: None) -> None:
    features = Features.load(DATA)
    if isinstance(features, str):
        pytest.skip(f"needs a real catalogue: {features}")
    report = run_catalogue(features)
    print(report)
    assert report.verdict.ok, report.verdict.explain()
    counts = report.verdict.counts
    assert counts["inputs"] == features.num_messages == sum(phase.num_inputs for phase in report.phases)
    assert (counts["dead_lettered"], counts["duplicates"]) == (0, 0)
    # What a reader is left with: all items, with the image where there is one.
    assert report.newest == {
        f"film-{item_id}": 2 if has_image else 1
        for item_id, has_image in zip(features.item_ids_N, features.has_image_N, strict=True)
    }
