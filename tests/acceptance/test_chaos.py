"""The campaign in its short form, and the parts of it that can be wrong without anyone noticing.

The long form: `python -m tests.acceptance.chaos --help`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.chaos import MAX_PACE, MIN_PACE, Plan, pace, run_campaign, unrecovered
from tests.acceptance.lives import POISON_SHARE, Inputs, Step, interleaved, life

LOOSE = Plan(items=4_000, events=4_000, users=200, kills=1, stops=0, joins=1, broker_restarts=1)
# One broker that restarts leaves transactions open: the long form has three.
STRICT = replace(LOOSE, delivery="exactly_once", kills=1, stops=1, joins=0, restore_kills=1, broker_restarts=0)
# Both deliveries with one client, and with the other the one in which more can go wrong.
OTHER_STRICT = replace(STRICT, client="confluent-kafka", group_protocol="consumer", joins=1, restore_kills=0)


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "plan",
    [LOOSE, STRICT, OTHER_STRICT],
    ids=lambda plan: f"{plan.delivery} {plan.client} {plan.group_protocol}",
)
def test_nothing_is_lost_stale_or_where_it_must_not_be_seen_twice(
    own_kafka_allowed: None, tmp_path: Path, plan: Plan
) -> None:
    report = run_campaign(plan, tmp_path, print)
    print(report.table())
    counts = report.verdict.counts
    assert report.verdict.ok, report.verdict.explain()
    assert report.finals.ok, report.finals.explain()
    assert (report.lost, report.stale, report.repeated) == (0, 0, 0)
    assert counts["published"] + counts["superseded"] + counts["dead_lettered"] == counts["inputs"] > plan.items / 2
    assert min(report.finals.counts[name] for name in ("items", "users")) > 100
    # Without these the run would prove nothing.
    assert min(counts[name] for name in ("published", "superseded", "dead_lettered", "tombstones", "workers")) > 0
    num_processes = plan.workers + plan.kills + 2 * plan.restore_kills + plan.joins + len(report.exits)
    assert len(list(tmp_path.glob("worker-*.log"))) == num_processes


def test_a_plan_holds_what_was_asked_for_and_joins_come_before_their_leaves() -> None:
    faults = Plan(kills=4, stops=3, broker_restarts=2, joins=2, seed=5).faults()
    assert Counter(faults) == {"kill": 4, "stop": 3, "broker restart": 2, "join": 2, "leave": 2}
    assert [fault for fault in faults if fault in ("join", "leave")] == ["join", "leave"] * 2
    assert faults == Plan(kills=4, stops=3, broker_restarts=2, joins=2, seed=5).faults()
    assert faults != Plan(kills=4, stops=3, broker_restarts=2, joins=2, seed=6).faults()


def test_the_feed_lasts_as_long_as_the_faults() -> None:
    assert pace(1_200, faults_left=2, seconds_per_fault=6) == 100
    assert pace(10**9, faults_left=1, seconds_per_fault=6) == MAX_PACE
    assert pace(1, faults_left=9, seconds_per_fault=60) == MIN_PACE


def status(*held: tuple[int, str, int]) -> dict[str, Any]:
    return {
        "partitions": [
            {"partition": partition, "state": state, "committed": committed, "detail": ""}
            for partition, state, committed in held
        ]
    }


def test_recovered_is_one_owner_for_each_partition_who_has_committed_the_goal() -> None:
    both = {"a": status((0, "running", 7)), "b": status((1, "running", 9))}
    assert unrecovered(both, {0: 7, 1: 8}, 2) is None
    assert "committed 7 of 8 in partition 0" in str(unrecovered(both, {0: 8}, 2))
    assert "{2: []}" in str(unrecovered(both, {}, 3))
    assert "{0: ['a', 'c']}" in str(unrecovered({**both, "c": status((0, "running", 7))}, {}, 2))
    assert "b has partition 1 stopped" in str(unrecovered({**both, "b": status((1, "stopped", 9))}, {}, 2))


def test_lives_hold_every_kind_of_change() -> None:
    lives = [life(Random(seed)) for seed in range(1_000)]
    first = Step(1, ("text",))
    assert all(sum(step == first for step in steps) <= 2 for steps in lives)
    assert any(step.modalities == ("text", "image") for steps in lives for step in steps)
    newest = [[max(steps[: n + 1]).revision for n in range(len(steps))] for steps in lives]
    assert any(step.revision and step.revision < top for steps, tops in zip(lives, newest, strict=True)
               for step, top in zip(steps, tops, strict=True))  # fmt: skip
    deaths = [[step.revision for step in steps] for steps in lives if Step(0) in steps]
    assert any(revisions[-1] == 0 for revisions in deaths)
    assert any(revisions[-3:] == [0, 1, 2] for revisions in deaths)


def test_steps_of_an_item_keep_their_order_and_are_close_together() -> None:
    steps = list(islice(interleaved(Random(1), num_open=20), 4_000))
    positions: dict[str, list[int]] = {}
    for position, (item_id, _) in enumerate(steps):
        positions.setdefault(item_id, []).append(position)
    gaps = sorted(b - a for found in positions.values() for a, b in pairwise(found))
    assert 10 < gaps[len(gaps) // 2] < 40


def test_inputs_follow_from_the_seed_and_some_are_poison() -> None:
    made = [list(Inputs("items", seed, lambda: 1, poison_share=share).records(2_000)) for seed, share in
            ((1, POISON_SHARE), (1, POISON_SHARE), (2, POISON_SHARE), (1, 1.0))]  # fmt: skip
    assert made[0] == made[1]
    assert made[0] != made[2]
    poison = made[3]
    assert all(record.value is not None for record in poison)
    assert {record.key for record in poison} > {b"another-key"}
    assert sum(record.value == b"not msgpack at all" for record in poison) in range(200, 500)
