"""Events in, user vectors out, on real brokers: equal to what the logs lead to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, decode
from tests.brokers import Outgoing
from tests.integration.stream import Stream, feature, item, names
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread

NUM_ITEMS = 60
TOLERANCE = 2e-3  # vectors of items pass through float16 twice, on the wire and in the table


@pytest.fixture
def users(stream: Stream) -> UserStream:
    made = UserStream(stream)
    made.create_topics()
    return made


def clicks(users: UserStream, num_users: int, num_events: int, seed: int = 0) -> list[Outgoing]:
    """Out of order, some of them twice."""
    dice, catalogue = random.Random(seed), list(names(NUM_ITEMS))
    made = [
        users.event(f"user-{dice.randrange(num_users)}", dice.choice(catalogue), dice.randrange(10**9),
                    dice.choice(["view", "like", "purchase", "dislike", "scroll"]))
        for _ in range(num_events)
    ]  # fmt: skip
    return [*made, *dice.sample(made, num_events // 10)]


def require_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    worst = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
    assert worst < TOLERANCE


def test_both_roles_in_one_process_give_what_the_logs_lead_to(users: UserStream) -> None:
    users.stream.feed_items(names(NUM_ITEMS))
    users.feed(clicks(users, 20, 400))
    with WorkerThread(users.settings()) as worker:
        users.stream.wait_committed(worker)
        users.wait_committed(worker)
        worker.until(lambda: worker.metric("align_waiting_pairs") == 0, name="done with waiting")
        worker.until(lambda: worker.users.accounting.in_flight == 0 and worker.users.queue_records == 0)
    require_equal(users.final(), users.replay().users())
    totals = worker.users.accounting
    assert totals.consumed == 440 == totals.published + totals.superseded + totals.dead_lettered
    assert {vector.space_id for vector in users.published().values()} == {users.stream.space.space_id}


def test_a_user_that_came_first_is_computed_when_its_item_comes(users: UserStream) -> None:
    users.feed([users.event("early", "item-00007", 5)])
    with WorkerThread(users.settings()) as worker:
        users.wait_committed(worker)
        assert users.published() == {}
        users.stream.feed_items(["item-00007"])
        worker.until(lambda: bool(users.published()), name="published")
    require_equal(users.final(), users.replay().users())


def test_two_workers_share_the_users_and_one_leaves(users: UserStream, tmp_path: Path) -> None:
    """On disks of their own. The one that stays takes the histories over from the changelog."""
    users.stream.feed_items(names(NUM_ITEMS))
    with WorkerThread(users.settings("items")) as items:
        users.stream.wait_committed(items)
    first_half, second_half = clicks(users, 20, 300, 1), clicks(users, 20, 300, 2)
    users.feed(first_half)

    def worker(name: str) -> WorkerThread:
        return WorkerThread(users.settings("users", {**users.stream.for_several, "state.dir": tmp_path / name}))

    with worker("a") as first:
        with worker("b") as second:
            first.until(lambda: len(first.users.partitions) == len(second.users.partitions) == 1, name="one each")
            users.wait_committed(first, second)
        users.feed(second_half)
        first.until(lambda: len(first.users.partitions) == 2, name="alone")
        users.wait_committed(first)
    with worker("b") as again:
        users.feed([users.event("user-0", "item-00001", 2 * 10**9)])
        users.wait_committed(again)
    require_equal(users.final(), users.replay().users())


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_restart_reads_only_what_its_disk_does_not_have(users: UserStream, tmp_path: Path, on_disk: bool) -> None:
    settings = users.settings(changes={"state.dir": tmp_path} if on_disk else {})
    users.stream.feed_items(names(NUM_ITEMS))
    users.feed(clicks(users, 20, 300))
    for number in range(2):
        with WorkerThread(settings) as worker:
            users.stream.wait_committed(worker)
            worker.until(lambda: len(worker.users.partitions) == users.num_partitions)
            users.feed([users.event("user-0", "item-00001", 2 * 10**9 + number)])
            users.wait_committed(worker)
            worker.until(lambda: worker.users.state["remembered"] == 20)
        num_read = worker.metric("align_restored_records_total", topic=users.events)
        assert (num_read > 0) is (number == 1 and not on_disk)
    require_equal(users.final(), users.replay().users())


def test_items_in_parts_are_joined_over_a_restart(stream: Stream, tmp_path: Path) -> None:
    """Text now, image after a restart, a stale text in between."""

    def part(name: str, revision: int, modality: str, seed: int) -> Outgoing:
        return stream.record(name, item(name, revision, features={modality: feature(modality, seed)}, partial=True))

    catalogue = list(names(30))
    stream.feed(part(name, 2, "text", n) for n, name in enumerate(catalogue))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    stream.feed(part(name, 1, "text", 1_000 + n) for n, name in enumerate(catalogue))
    stream.feed(part(name, 3, "image", n) for n, name in enumerate(catalogue[:20]))
    stream.feed([stream.delete(name) for name in catalogue[:5]])
    stream.feed([part(catalogue[0], 1, "image", 7)])
    with WorkerThread(stream.settings({"state.dir": tmp_path})) as worker:
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.consumed == 30 + 20 + 5 + 1, name="told of all")
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        assert worker.items.accounting.superseded >= 30
    replay = UserStream(stream).replay()
    final = dict(stream.published())
    assert {name for name, revision in final.items() if revision is not None} == replay.features.keys()
    require_equal(final_vectors(stream), replay.items)


def final_vectors(stream: Stream) -> dict[str, Any]:
    last = {record.key.decode(): record.value for record in stream.output_records()}
    return {
        name: decode(ItemVector, value).vector.to_numpy().astype(np.float32)
        for name, value in last.items()
        if value is not None
    }
