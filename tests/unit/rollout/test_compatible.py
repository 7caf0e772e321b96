"""Which space can follow another in running workers, and what is said of one that cannot."""

import re
from typing import Any

import pytest

from worker.align.spec import DecayedSum, GraphSpec, ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.rollout.compatible import obstacles

FUSION = SelfAttentionSpec(layers=1, heads=1, hidden=4)
USER = DecayedSum(last=50, event_weights={"view": 1.0, "like": 2.0}, half_life_ms=1_000.0)


def spec(**changes: Any) -> SpaceSpec:
    given: dict[str, Any] = {
        "dim": 4,
        "width": 4,
        "modalities": {"text": ModalitySpec(dim=8, encoder="t1"), "image": ModalitySpec(dim=6)},
        "fusion": FUSION,
        "user": USER,
    }
    return SpaceSpec(**{**given, **changes})


LIVE = spec()


@pytest.mark.parametrize(
    "following",
    [
        spec(dim=16, width=16),
        spec(modalities={"text": ModalitySpec(dim=8)}),
        spec(modalities={"image": ModalitySpec(dim=6, encoder="any")}),
        spec(user=DecayedSum(last=20, event_weights={"like": 9.0}, half_life_ms=5.0)),
    ],
    ids=["other dim", "fewer modalities", "an encoder where any was taken", "shorter histories"],
)
def test_a_space_that_is_made_of_what_is_remembered_can_follow(following: SpaceSpec) -> None:
    assert obstacles(LIVE, following, ("items", "users"), remembers_features=True) == []


@pytest.mark.parametrize(
    ("following", "words"),
    [
        (spec(modalities={"audio": ModalitySpec(dim=8)}), "takes audio"),
        (spec(modalities={"text": ModalitySpec(dim=9, encoder="t1")}), "text: .* of 9 elements instead of 8"),
        (spec(modalities={"text": ModalitySpec(dim=8, encoder="t2")}), "encoder 't2' instead of 't1'"),
        (spec(graph=GraphSpec(width=4)), "neighbours"),
        (spec(user=None), "says nothing of users"),
        (spec(user=DecayedSum(last=51, event_weights={"view": 1.0}, half_life_ms=1.0)), "last 51 events"),
        (spec(user=DecayedSum(last=9, event_weights={"buy": 1.0}, half_life_ms=1.0)), "type buy"),
    ],
)
def test_a_space_that_needs_more_is_refused_by_what_it_needs(following: SpaceSpec, words: str) -> None:
    (found,) = obstacles(LIVE, following, ("items", "users"), remembers_features=True)
    assert re.search(words, found), found


def test_workers_that_remember_no_features_have_nothing_to_make_vectors_of() -> None:
    assert "state.features" in obstacles(LIVE, spec(dim=16, width=16), ("items",), remembers_features=False)[0]


def test_users_matter_only_where_they_are_moved() -> None:
    assert obstacles(LIVE, spec(user=None), ("items",), remembers_features=True) == []
