"""The documented run over a real catalogue's raw texts and posters, where there is one, with fewer films."""

from __future__ import annotations

import pytest

from tests.acceptance.raw_catalogue import TOLERANCE, Films, run_set
from tests.acceptance.real_catalogue import DATA

NUM_FILMS = 120


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(300)
def test_raw_texts_and_posters_become_the_vectors_that_encode_gives(own_kafka_allowed: None) -> None:
    """Texts by a real sentence encoder, posters by the built-in one."""
    films = Films(DATA)
    if (problem := films.problem()) is not None:
        pytest.skip(f"needs a real catalogue: {problem}")
    run = run_set("minilm", films, NUM_FILMS)
    print(run)
    assert run.verdict.ok, run.verdict.explain()
    assert run.worst < TOLERANCE
    assert run.num_published == sum(phase.num_inputs for phase in run.phases) == NUM_FILMS
    counts = {each["modality"]: each["encoded"] + each["reused"] for each in run.encoders}
    with_poster = sum("image" in each.content for each in films.items(NUM_FILMS))
    assert counts == {"text": NUM_FILMS, "image": with_poster}
