from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas import UserEvent, decode, encode
from worker.synthetic import Audience, Catalogue, SyntheticEvent

START_MS, DAY_MS = 1_700_000_000_000, 86_400_000
CATALOGUE = Catalogue(0, {"text": 8})
ITEMS = list(CATALOGUE.items(400))


def audience(num_users: int = 50, **options: Any) -> Audience:
    return Audience(CATALOGUE, num_users, seed=1, start_ms=START_MS, **options)


def events(num_events: int = 3_000, end_ms: int = START_MS + 360 * DAY_MS, **options: Any) -> list[SyntheticEvent]:
    return list(audience().events(ITEMS, num_events, end_ms, **options))


def test_events_are_in_order_of_time_and_within_it() -> None:
    times = [event.event_time_ms for event in events()]
    assert times == sorted(times)
    assert START_MS <= times[0] <= times[-1] <= START_MS + 360 * DAY_MS
    assert len(times) == 3_000


def test_events_are_valid_messages() -> None:
    for event in events(50):
        assert decode(UserEvent, encode(event.message())) == event.message()


def test_the_seed_decides_all() -> None:
    assert [event.message() for event in events()] == [event.message() for event in events()]
    other = Audience(CATALOGUE, 50, seed=2, start_ms=START_MS).events(ITEMS, 20, START_MS + DAY_MS)
    assert [event.message() for event in other] != [event.message() for event in events(20)]


def test_a_second_call_goes_on_where_the_first_ended() -> None:
    users = audience()
    first = list(users.events(ITEMS[:10], 500, START_MS + DAY_MS))
    second = list(users.events(ITEMS, 500, START_MS + 2 * DAY_MS))
    assert first[-1].event_time_ms <= START_MS + DAY_MS <= second[0].event_time_ms
    assert len({event.event_id for event in first + second}) == 1_000
    assert {event.item.item_id for event in first} <= {item.item_id for item in ITEMS[:10]}


def test_no_item_is_taken_before_its_release_and_all_may_be_from_then_on() -> None:
    released_ms = np.random.default_rng(0).integers(START_MS, START_MS + 300 * DAY_MS, len(ITEMS))
    released = {item.item_id: int(ms) for item, ms in zip(ITEMS, released_ms, strict=True)}
    found = events(20_000, released_ms=released_ms)
    assert all(event.event_time_ms >= released[event.item.item_id] for event in found)
    assert len({event.item.item_id for event in found}) > 0.9 * len(ITEMS)


def test_nothing_happens_before_there_is_an_item() -> None:
    found = events(1_000, released_ms=[START_MS + 180 * DAY_MS] * len(ITEMS))
    assert 400 < len(found) < 600
    assert found[0].event_time_ms >= START_MS + 180 * DAY_MS


def test_users_take_what_they_like() -> None:
    found = events()
    latent = np.stack([item.latent_L for item in ITEMS])
    users, times = np.array([event.user for event in found]), np.array([event.event_time_ms for event in found])
    affinity_EI = audience().tastes(users, times) @ latent.T
    taken = [affinity_EI[row, ITEMS.index(event.item)] for row, event in enumerate(found)]
    assert taken == pytest.approx([event.affinity for event in found])
    assert np.mean(taken) > np.mean(affinity_EI) + 0.3


def test_the_type_of_an_event_follows_from_the_truth() -> None:
    by_type = {
        name: [event.affinity for event in events() if event.event_type == name] for name in ("dislike", "view", "like")
    }
    assert max(by_type["dislike"]) <= min(by_type["view"])
    assert max(by_type["view"]) <= min(by_type["like"])
    assert {event.event_type for event in events()} == set(by_type)


def test_tastes_are_of_unit_length_and_drift_steadily_from_one_to_the_next() -> None:
    users = audience(drift_ms=100 * DAY_MS)
    everyone = np.arange(users.num_users)

    def at(day: int) -> np.ndarray:
        return users.tastes(everyone, np.full(users.num_users, START_MS + day * DAY_MS))

    for day in (0, 30, 100, 250, 10_000):
        np.testing.assert_allclose(np.linalg.norm(at(day), axis=1), 1)
    similarity = [np.mean(np.sum(at(0) * at(day), axis=1)) for day in (0, 20, 40, 60, 80, 100)]
    assert similarity == sorted(similarity, reverse=True)
    assert similarity[-1] < 0.4
    np.testing.assert_allclose(at(99) @ at(100).T, at(100) @ at(100).T, atol=0.1)


def test_without_drift_tastes_stay() -> None:
    users = audience(drift_ms=10**15)
    everyone = np.arange(users.num_users)
    start, later = (users.tastes(everyone, np.full(users.num_users, START_MS + days * DAY_MS)) for days in (0, 360))
    np.testing.assert_allclose(start, later, atol=1e-3)


def test_some_items_and_some_users_are_seen_far_more_than_others() -> None:
    for counts in (
        np.unique([event.item.item_id for event in events(10_000)], return_counts=True)[1],
        np.unique([event.user for event in events(10_000)], return_counts=True)[1],
    ):
        assert counts.max() > 3 * np.median(counts)
