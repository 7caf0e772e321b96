from __future__ import annotations

import pytest

from worker.data.importers.synthetic import LATE_FROM, START_MS, Plan
from worker.errors import ConfigError
from worker.synthetic.audience import DAY_MS

PLAN = Plan(num_items=200, num_users=40, num_events=3_000, days=100, cold_share=0.2)


def test_there_is_as_much_as_was_asked_for() -> None:
    found = PLAN.imported()
    assert len(list(found.items)) == 200
    assert len(list(found.events)) == 3_000
    assert {name: len(item_ids) for name, item_ids in found.lists.items()} == {"cold_val": 20, "cold_test": 20}


def test_cold_items_come_late_and_nobody_knows_them_before() -> None:
    found = PLAN.imported()
    late_ms = START_MS + LATE_FROM * 100 * DAY_MS
    cold = {item_id for item_ids in found.lists.values() for item_id in item_ids}
    released = {each.item.item_id: each.item.event_time_ms for each in found.items}
    assert {item_id for item_id, time_ms in released.items() if time_ms > START_MS} == cold
    assert all(released[item_id] >= late_ms for item_id in cold)
    events = list(found.events)
    assert all(event.event_time_ms >= released[event.item_id] for event in events)
    assert cold & {event.item_id for event in events}


def test_the_truth_about_what_was_written_can_be_made_again() -> None:
    items = [each.item for each in PLAN.imported().items]
    again = list(PLAN.catalogue.items(200))
    assert [(item.item_id, dict(item.features)) for item in items] == [
        (item.item_id, dict(item.features)) for item in again
    ]
    assert PLAN.audience.num_users == 40


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match="no modality 'smell'; there are text, image, audio"):
        Plan(max_vectors={"smell": 2})
