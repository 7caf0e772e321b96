"""The users half on a log in memory: which vector a user has, whatever came in which order and whatever broke."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import DeadLetter, ItemVector, Reason, Tensor, UserEvent, UserVector, decode, encode
from tests.fakes import FakeClient, FakeCluster
from tests.unit.loop.harness import SETTINGS, LoopHarness
from worker.align.padding import rising_sizes
from worker.align.spec import DecayedSum
from worker.align.users import UserModel
from worker.errors import ClientError
from worker.item_vectors.dependents import Dependents
from worker.item_vectors.follower import ItemVectorFollower
from worker.item_vectors.table import ItemTable
from worker.item_vectors.waiting import Waiting
from worker.kafka.port import Commit
from worker.records import TopicPartition
from worker.roles.user_pool import UserPool
from worker.roles.users import UserFormat, UsersRole
from worker.state import Stores
from worker.topics import topics_of

USER = DecayedSum(half_life_ms=1_000, last=4, event_weights={"view": 1.0, "hide": -1.0})
P0 = TopicPartition("events", 0)
HOUR_MS = 3_600_000


class Harness(LoopHarness):
    """Of the users role, with a real model."""

    def __init__(
        self,
        cluster: FakeCluster,
        stores: Stores | None = None,
        *,
        max_waiting: int = 100,
        follows_changes: bool = False,
        settings: Any = SETTINGS,
        until_caught_up: Any = False,
        **client: Any,
    ) -> None:
        topics, made = topics_of("users", SETTINGS), FakeClient(cluster, **client)
        table = ItemTable(2, "float32", "cpu")
        pool = UserPool(UserModel(USER, 2).eval(), table, USER.event_weights, USER.last, rising_sizes(8), "f4", "cpu")
        catalogue = ItemVectorFollower(made, "item-vectors", "space", 2, table)
        self.waiting = Waiting(max_waiting)
        dependents = Dependents(catalogue, self.waiting, follows_changes=follows_changes)
        role = UsersRole(UserFormat(topics, "space", "f4", 2), pool, dependents, USER.event_weights, USER.last)
        super().__init__(made, role, stores, settings, until_caught_up=until_caught_up)


def event(user: str, item: str, at_ms: int, kind: str = "view", event_id: str | None = None) -> tuple[bytes, bytes]:
    made = UserEvent(
        event_id=event_id or f"{user}-{item}-{at_ms}", user_id=user, item_id=item, event_type=kind, event_time_ms=at_ms
    )
    return made.key, encode(made)


def feed(cluster: FakeCluster, *events: tuple[bytes, bytes], partition: int = 0) -> None:
    for key, value in events:
        cluster.append("events", partition, key, value)


def publish_item(
    cluster: FakeCluster, item: str, vector: Sequence[float], space_id: str = "space", **fields: Any
) -> None:
    message = ItemVector(
        item_id=item,
        revision=1,
        event_time_ms=0,
        space_id=space_id,
        vector=Tensor(dtype="f4", shape=(2,), data=np.array(vector, "<f4").tobytes()),
        modalities=("text",),
        produced_at_ms=0,
        **fields,
    )
    cluster.append("item-vectors", 0, item.encode(), encode(message))


def published(cluster: FakeCluster, user: str = "u") -> list[UserVector]:
    records = [record for record in cluster.records("user-vectors") if record.key == user.encode()]
    return [decode(UserVector, record.value) for record in records]


def direction(vector: UserVector) -> list[float]:
    return vector.vector.to_numpy().round(4).tolist()


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster(2)
    publish_item(made, "x", (1.0, 0.0))
    publish_item(made, "y", (0.0, 1.0))
    return made


def test_a_user_is_the_decayed_sum_of_its_items(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0), event("u", "y", 1_000))
    with Harness(cluster) as harness:
        harness.until_committed()
    last = published(cluster)[-1]
    assert direction(last) == pytest.approx([1 / 5**0.5, 2 / 5**0.5], abs=1e-4)
    assert (last.num_events, last.event_time_ms, last.space_id) == (2, 1_000, "space")
    totals = harness.metrics.accounting.totals
    assert (totals.consumed, totals.unaccounted()) == (2, 0)


def test_many_events_of_a_user_in_a_batch_give_one_vector(cluster: FakeCluster) -> None:
    feed(cluster, *[event("u", "x", at) for at in range(8)])
    with Harness(cluster) as harness:
        harness.until_committed()
    assert len(published(cluster)) < 8
    assert harness.metrics.accounting.totals.superseded["same_batch"] > 0
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_order_and_duplicates_do_not_matter(cluster: FakeCluster) -> None:
    acts = [("x", 0), ("y", 500), ("x", 900), ("y", 1_500), ("x", 9)]
    feed(cluster, *[event("u", *act) for act in acts])
    feed(cluster, *[event("v", *act) for act in [*acts[::-1], *acts[1:3], *acts]])
    with Harness(cluster) as harness:
        harness.until_committed()
    u, v = published(cluster, "u")[-1], published(cluster, "v")[-1]
    assert u.vector.data == v.vector.data
    assert (u.num_events, v.num_events) == (4, 4), "the newest four are kept"
    totals = harness.metrics.accounting.totals
    assert (totals.superseded["duplicate"], totals.superseded["too_old"]) == (6, 2)
    assert totals.unaccounted() == 0


def test_a_dislike_points_away(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0), event("u", "y", 0, "hide"))
    with Harness(cluster) as harness:
        harness.until_committed()
    assert direction(published(cluster)[-1]) == pytest.approx([0.7071, -0.7071], abs=1e-4)


def test_a_user_with_nothing_usable_publishes_nothing_and_is_counted(cluster: FakeCluster) -> None:
    feed(
        cluster, event("u", "x", 0), event("u", "x", 0, "hide"), event("v", "unknown", 0), event("w", "x", 0, "scroll")
    )
    unused = {"topic": "events", "type": "scroll"}
    with Harness(cluster) as harness:
        value = harness.metrics.registry.get_sample_value
        harness.until_committed()
        harness.until(lambda: value("align_events_unused_total", unused) == 1)
    assert [record for record in cluster.records("user-vectors") if record.key in (b"v", b"w")] == []
    assert harness.metrics.registry.get_sample_value("align_without_vector_total", {"topic": "events"}) >= 1
    totals = harness.metrics.accounting.totals
    assert totals.superseded["unused_type"] == 1
    assert totals.unaccounted() == 0
    assert harness.role.status()["unused events: scroll"] == 1


def test_published_counts_the_vectors_that_readers_find_and_no_others(cluster: FakeCluster) -> None:
    """Events of users without a vector are finished, too, but nothing of them has been published or was fast."""
    feed(cluster, *[event(f"unknown-{n}", "no-such-item", n) for n in range(20)], event("u", "x", 0))
    with Harness(cluster) as harness:
        harness.until_committed()
    totals = harness.metrics.accounting.totals
    assert totals.published == {"upsert": len(cluster.records("user-vectors")), "tombstone": 0}
    assert totals.published["upsert"] == 1
    assert totals.superseded["without_vector"] == 20
    assert totals.unaccounted() == 0
    assert sum(harness.metrics.latency.counts("events")) == 1


def test_what_is_computed_anew_is_not_counted_as_an_event(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "later", 0))
    with Harness(cluster) as harness:
        harness.until_committed()
        publish_item(cluster, "later", (0.0, 1.0))
        harness.until(lambda: bool(published(cluster)))
    totals = harness.metrics.accounting.totals
    assert (totals.published["upsert"], totals.superseded["without_vector"], totals.unaccounted()) == (0, 1, 0)


def test_a_user_is_computed_anew_when_its_item_appears(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "later", 0), event("u", "x", 0))
    with Harness(cluster) as harness:
        harness.until_committed()
        harness.until(lambda: harness.waiting.num_pairs == 1)
        assert direction(published(cluster)[-1]) == [1.0, 0.0]
        publish_item(cluster, "later", (0.0, 1.0))
        harness.until(lambda: published(cluster)[-1].num_events == 2)
    assert direction(published(cluster)[-1]) == pytest.approx([0.7071, 0.7071], abs=1e-4)
    assert harness.waiting.num_pairs == 0
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_who_waited_still_waits_after_a_restart(cluster: FakeCluster) -> None:
    """And who got its item while nobody worked on it is computed at once."""
    feed(cluster, event("u", "later", 0), event("v", "never", 0), event("v", "x", 0))
    with Harness(cluster) as first:
        first.until_committed()
    publish_item(cluster, "later", (0.0, 1.0))
    with Harness(cluster) as second:
        second.until(lambda: bool(published(cluster)))
        second.until(lambda: second.waiting.num_pairs == 1)
        publish_item(cluster, "never", (0.0, 1.0))
        second.until(lambda: published(cluster, "v")[-1].num_events == 2)


def test_a_waiting_list_that_is_full_is_counted(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "a", 0), event("u", "b", 1), event("u", "c", 2))
    with Harness(cluster, max_waiting=2) as harness:
        harness.until_committed()
        harness.until(lambda: harness.metrics.registry.get_sample_value(
            "align_waiting_overflow_total", {"topic": "events"}) >= 1)  # fmt: skip


@pytest.mark.parametrize("follows", [False, True])
def test_a_changed_item_moves_its_users_only_where_configured(cluster: FakeCluster, follows: bool) -> None:
    feed(cluster, event("u", "x", 0))
    with Harness(cluster, follows_changes=follows) as harness:
        harness.until_committed()
        before = len(published(cluster))
        publish_item(cluster, "x", (0.0, 1.0))
        if follows:
            harness.until(lambda: direction(published(cluster)[-1]) == [0.0, 1.0])
        else:
            harness.until(lambda: harness.role.dependents.catalogue.table.row("x") >= 0)
            feed(cluster, event("v", "x", 0))
            harness.until_committed()
            assert len(published(cluster)) == before


def test_vectors_of_another_space_are_ignored_and_counted(cluster: FakeCluster) -> None:
    publish_item(cluster, "foreign", (0.0, 1.0), space_id="another")
    cluster.append("item-vectors", 0, b"broken", b"?")
    feed(cluster, event("u", "foreign", 0), event("u", "x", 0))
    with Harness(cluster) as harness:
        harness.until_committed()
        harness.until(lambda: harness.metrics.registry.get_sample_value(
            "align_table_foreign_total", {"topic": "events"}) == 2)  # fmt: skip
    assert direction(published(cluster)[-1]) == [1.0, 0.0]


def test_bad_events_become_dead_letters(cluster: FakeCluster) -> None:
    good = event("u", "x", 0)
    feed(cluster, (b"u", b"\xc1"), good, (b"other", good[1]), (b"u", None))
    with Harness(cluster) as harness:
        harness.until_committed()
    letters = [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]
    assert [letter.reason for letter in letters] == [Reason.NOT_MSGPACK, Reason.KEY_MISMATCH, Reason.INVALID_FIELD]
    assert len(published(cluster)) == 1


@pytest.mark.parametrize("on_disk", [False, True])
def test_histories_survive_a_restart(cluster: FakeCluster, tmp_path: Path, on_disk: bool) -> None:
    feed(cluster, event("u", "x", 0))
    for _ in range(2):
        with Harness(cluster, Stores(tmp_path, "user-state", "g") if on_disk else None) as harness:
            harness.until_committed()
            feed(cluster, event("u", "y", 0))
            harness.until_committed()
    assert published(cluster)[-1].num_events == 2
    assert harness.pipeline.restore.num_records == (0 if on_disk else 2)


def test_a_crash_after_the_changelog_and_before_the_vector_loses_no_vector(cluster: FakeCluster) -> None:
    """What was written to the changelog is a duplicate when it comes again, but its vector may never have been sent."""
    feed(cluster, event("u", "x", 0), event("u", "y", 0))
    with Harness(cluster) as first:
        first.until_committed()
    cluster.commits.clear()
    cluster.log[TopicPartition("user-vectors", 0)].clear()
    with Harness(cluster) as second:
        second.until_committed()
    assert published(cluster)[-1].num_events == 2


def test_a_refused_output_is_computed_again_and_nothing_is_lost_or_counted_twice(cluster: FakeCluster) -> None:
    refusals = [3]

    def refuse(topic: Any, key: Any) -> Any:
        if topic == "user-vectors" and refusals[0]:
            refusals[0] -= 1
            return ClientError("the broker went away")
        return None

    feed(cluster, *[event(f"u{n % 5}", "xy"[n % 2], n) for n in range(40)])
    with Harness(cluster, refuse=refuse) as harness:
        harness.until_committed()
    assert {published(cluster, f"u{n}")[-1].num_events for n in range(5)} == {4}
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_a_partition_that_comes_back_goes_on_with_its_users(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0))
    with Harness(cluster) as harness:
        harness.until_committed()
        harness.consumer.rebalance("revoked", [P0])
        harness.until(lambda: P0 not in harness.pipeline.assignment)
        harness.consumer.rebalance("assigned", [P0])
        feed(cluster, event("u", "y", 0))
        harness.until_committed()
    assert published(cluster)[-1].num_events == 2


def test_the_changelog_ends_with_what_the_last_vector_was_made_of(cluster: FakeCluster) -> None:
    feed(cluster, *[event("u", "xy"[n % 2], n) for n in range(9)])
    with Harness(cluster) as harness:
        harness.until_committed()
        overlay = harness.pipeline.assignment[P0].tenure.overlay
        assert [each.event_time_ms for each in overlay.get("u").events] == [5, 6, 7, 8]
        harness.until(lambda: len(overlay) == 0)
    state: Any = harness.role.decode_state(cluster.records("user-state")[-1].value)
    assert [each.event_time_ms for each in state.events] == [5, 6, 7, 8]


def test_nothing_is_worked_on_before_the_item_vectors_have_been_read(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0))
    harness = Harness(cluster)
    step = harness.role.dependents.catalogue.step
    may_read: list[bool] = []
    harness.role.stages[0]._step = lambda: step() if may_read else None
    with harness:
        harness.until(
            lambda: P0 in harness.pipeline.assignment and harness.pipeline.assignment[P0].state == "restoring"
        )
        assert not harness.role.is_ready()
        assert cluster.commits.get(P0, Commit(0)).offset == 0
        may_read.append(True)
        harness.until_committed()
    assert direction(published(cluster)[-1]) == [1.0, 0.0]


def test_an_item_that_goes_moves_its_users_where_configured(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0), event("u", "y", 0))
    with Harness(cluster, follows_changes=True) as harness:
        harness.until_committed()
        cluster.append("item-vectors", 0, b"x", None)
        harness.until(lambda: direction(published(cluster)[-1]) == [0.0, 1.0])
        assert published(cluster)[-1].num_events == 1


def test_an_item_that_changed_while_nobody_worked_moves_its_users_where_configured(cluster: FakeCluster) -> None:
    feed(cluster, event("u", "x", 0))
    with Harness(cluster, follows_changes=True) as first:
        first.until_committed()
    publish_item(cluster, "x", (0.0, 1.0))
    with Harness(cluster, follows_changes=True) as second:
        second.until(lambda: direction(published(cluster)[-1]) == [0.0, 1.0])
