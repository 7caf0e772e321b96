"""Two spaces in one loop, on a log in memory: the next space ends with what the live one has, whatever happens on the
way, and what goes wrong with it stays its own affair."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, decode
from tests.fakes import TOPICS, FakeClient, FakeCluster, FakeEmbedder, FakeLog, feature, item_value
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from worker.align import Contract
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.errors import AccessError, ClientError, WorkerError
from worker.item_vectors.source_offset import of_deletion
from worker.partitions.backfill import NextNote
from worker.partitions.tenure import parse_note
from worker.records import TopicPartition
from worker.roles.items import ItemFormat, ItemsRole
from worker.roles.next_space import NextItems, NextSpace
from worker.settings import RolloutSettings
from worker.stages.fuse import Result, Vector
from worker.topics import topics_of

LIVE, NEXT = "a" * 16, "b" * 16
NEXT_TOPIC = "item-vectors-next"
POISON = 13.0


def spec(encoder: str | None = None) -> SpaceSpec:
    return SpaceSpec(
        dim=2,
        width=4,
        modalities={"text": ModalitySpec(dim=4, encoder=encoder)},
        fusion=SelfAttentionSpec(layers=1, heads=1, hidden=4),
    )


def next_space(raises: bool = False, encoder: str | None = None, **options: Any) -> NextSpace:
    """Its vectors are the negatives of the live ones."""

    def embed(features: Sequence[Mapping[str, Any]]) -> list[Result]:
        if raises:
            raise ValueError("this model breaks")
        return [
            Vector(np.array([-float(each["text"].to_numpy()[0]), 0.0], "<f2").tobytes(), ("text",)) for each in features
        ]

    output = ItemFormat(replace(topics_of("items", SETTINGS), outputs=NEXT_TOPIC), NEXT, "f2", 2, is_next=True)
    return NextSpace(output, NextItems(embed, lambda: embed([{"text": feature()}]), Contract(spec(encoder))), **options)


def make_cluster(num_partitions: int = 2) -> FakeCluster:
    return FakeCluster(num_partitions, (*TOPICS, NEXT_TOPIC))


class Harness(LoopHarness):
    def __init__(
        self,
        cluster: FakeCluster,
        space: NextSpace | None = None,
        settings: Any = SETTINGS,
        primary: tuple[str, str] = (LIVE, "item-vectors"),
        sign: float = 1.0,
        **client: Any,
    ) -> None:
        topics = replace(topics_of("items", settings), outputs=primary[1])
        embedder = FakeEmbedder(POISON)
        role = ItemsRole(ItemFormat(topics, primary[0], "f2", 2), Contract(spec()), embedder, keep_features=True)
        super().__init__(FakeClient(cluster, **client), role, settings=settings)
        self.pipeline.backfilling.install(space)

    def until_complete(self) -> None:
        partitions = [tp.partition for tp in self.cluster.log if tp.topic == "items"]
        self.until(lambda: all(is_complete(self.cluster, number) for number in partitions))


def note(cluster: FakeCluster, partition: int) -> NextNote | None:
    commit = cluster.commits.get(TopicPartition("items", partition))
    found = None if commit is None else parse_note(commit.metadata)
    return None if found is None else found.next


def is_complete(cluster: FakeCluster, partition: int) -> bool:
    found = note(cluster, partition)
    return found is not None and found.is_complete


def feed(cluster: FakeCluster, numbers: Sequence[int], revision: int = 1) -> None:
    for number in numbers:
        value = item_value(f"i{number}", revision, text=feature(fill=100.0 * revision + number))
        cluster.append("items", number % cluster.num_partitions, f"i{number}".encode(), value)


def last(cluster: FakeCluster, topic: str) -> dict[str, tuple[int, float] | None]:
    """Revision and first element of the last vector of each item."""
    found: dict[str, tuple[int, float] | None] = {}
    for record in cluster.records(topic):
        if record.value is not None and record.value != b"marker":
            vector = decode(ItemVector, record.value)
            found[record.key.decode()] = vector.revision, float(vector.vector.to_numpy()[0])
        elif record.key is not None:
            found[record.key.decode()] = None
    return found


def mirrored(cluster: FakeCluster) -> dict[str, tuple[int, float] | None]:
    live = last(cluster, "item-vectors")
    return {key: each if each is None else (each[0], -each[1]) for key, each in live.items() if each is not None}


def there(cluster: FakeCluster) -> dict[str, tuple[int, float] | None]:
    return {key: each for key, each in last(cluster, NEXT_TOPIC).items() if each is not None}


DELIVERIES = pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])


@DELIVERIES
def test_what_is_remembered_and_what_comes_end_in_both_spaces(settings: Any) -> None:
    cluster = make_cluster()
    feed(cluster, range(100))
    cluster.append("items", 0, b"i4", None)
    with Harness(cluster, settings=settings) as harness:
        harness.until_committed()
        assert not there(cluster)
        harness.pipeline.backfilling.install(next_space())
        feed(cluster, range(90, 110), 2)
        cluster.append("items", 0, b"i6", None)
        harness.until_complete()
        feed(cluster, range(50, 60), 3)
        cluster.append("items", 0, b"i8", None)
        harness.until_committed()
    assert there(cluster) == mirrored(cluster)
    assert len(there(cluster)) == 110 - 3
    following = [each for each in cluster.records(NEXT_TOPIC) if each.key and each.value]
    assert {decode(ItemVector, each.value).space_id for each in following} == {NEXT}
    live = [each for each in cluster.records("item-vectors") if each.key and each.value]
    assert {decode(ItemVector, each.value).space_id for each in live} == {LIVE}
    assert len(live) == 100 + 20 + 10, "the live space has not noticed"
    if settings is EXACTLY_ONCE:
        places = Counter(
            (each.key, decode(ItemVector, each.value).source_offset if each.value else of_deletion(each))
            for each in cluster.records(NEXT_TOPIC)
            if each.key
        )
        assert max(places.values()) == 1, "nothing twice"


@DELIVERIES
def test_a_backfill_that_is_interrupted_goes_on_where_it_was(settings: Any) -> None:
    cluster = make_cluster()
    feed(cluster, range(200))
    slow = settings.model_copy(update={"rollout": RolloutSettings(backfill_rate=150)})
    with Harness(cluster, settings=settings) as harness:
        harness.until_committed()
    with Harness(cluster, next_space(), slow) as harness:
        harness.until(lambda: all((found := note(cluster, n)) is not None and found.reached >= 0 for n in (0, 1)))
        feed(cluster, range(150, 200), 2)  # of which most are still to come, by the order of the backfill
        harness.until_committed()
    num_before = len(there(cluster))
    assert 0 < num_before < 200
    assert not is_complete(cluster, 0)
    feed(cluster, range(20), 2)
    with Harness(cluster, next_space(), settings) as harness:
        harness.until_complete()
        harness.until_committed()
    assert there(cluster) == mirrored(cluster)
    written = Counter(
        (each.key, decode(ItemVector, each.value).source_offset)
        for each in cluster.records(NEXT_TOPIC)
        if each.key is not None
    )
    assert max(written.values()) == 1, "what was done is not done again"


def test_a_space_whose_model_fails_is_given_up_and_the_live_one_goes_on() -> None:
    cluster = make_cluster()
    told: list[str] = []
    feed(cluster, range(20))
    with Harness(cluster, next_space(raises=True, on_failed=told.append)) as harness:
        harness.until(lambda: bool(told))
        feed(cluster, range(20, 60))
        harness.until_committed()
        assert harness.error is None
    assert len(last(cluster, "item-vectors")) == 60
    assert not cluster.records("dead-letters")
    assert "this model breaks" in told[0]
    assert len(told) == 1
    assert note(cluster, 0) is None, "nothing is claimed of a space that has failed"


@DELIVERIES
@pytest.mark.parametrize("error", [AccessError("not allowed"), ClientError("nobody answers")])
def test_a_space_whose_topic_refuses_is_given_up_and_the_live_one_goes_on(error: WorkerError, settings: Any) -> None:
    cluster = make_cluster()
    told: list[str] = []
    feed(cluster, range(20))
    space = next_space(on_failed=told.append)
    refuse = lambda topic, key: error if topic == NEXT_TOPIC else None  # noqa: E731
    with Harness(cluster, space, settings, refuse=refuse) as harness:
        harness.until(lambda: bool(told))
        feed(cluster, range(20, 40))
        harness.until_committed()
        assert harness.error is None
    assert len(last(cluster, "item-vectors")) == 40
    assert str(error) in told[0]
    assert note(cluster, 0) is None


def test_what_the_next_space_refuses_is_counted_and_named_and_keeps_nothing_else_back() -> None:
    cluster = make_cluster(1)
    feed(cluster, range(10))
    cluster.append("items", 0, b"odd", item_value("odd", 1, text=feature(encoder="other")))
    with Harness(cluster, next_space(encoder="e")) as harness:
        harness.until_complete()
        moved = harness.pipeline.backfilling
        harness.until(lambda: moved.figures is not None and bool(moved.figures.num_missing))
        figures = moved.figures
        assert figures is not None
        assert figures.num_missing == 1
        assert figures.examples[0].startswith("odd: features.text.encoder: came 'other'")
        found = note(cluster, 0)
        assert found is not None
        assert found.num_missing == 1
        cluster.append("items", 0, b"odd", item_value("odd", 2, text=feature()))
        harness.until(lambda: (found := note(cluster, 0)) is not None and not found.num_missing)
    assert len(there(cluster)) == 11


def test_what_was_deleted_while_nobody_filled_the_next_space_goes_from_it_too() -> None:
    cluster = make_cluster(1)
    feed(cluster, range(10))
    with Harness(cluster, next_space()) as harness:
        harness.until_complete()
    with Harness(cluster) as harness:  # a worker that knows of no next space: what is claimed of it is void
        cluster.append("items", 0, b"i3", None)
        feed(cluster, range(5, 7), 2)
        harness.until_committed()
    assert note(cluster, 0) is None
    assert len(there(cluster)) == 10
    with Harness(cluster, next_space()) as harness:
        harness.until_complete()
    assert there(cluster) == mirrored(cluster)
    assert len(there(cluster)) == 9
    num_written = sum(each.key is not None for each in cluster.records(NEXT_TOPIC))
    assert num_written == 10 + 3, "what was there is not written again"


def test_a_message_that_the_live_model_fails_on_leaves_the_state_before_it_in_the_next_space() -> None:
    cluster = make_cluster(1)
    feed(cluster, range(5))
    with Harness(cluster) as harness:
        harness.until_committed()
    cluster.append("items", 0, b"i2", item_value("i2", 2, text=feature(fill=POISON)))
    with Harness(cluster, next_space()) as harness:
        harness.until_complete()
        harness.until_committed()
    assert len(cluster.records("dead-letters")) == 1
    assert there(cluster)["i2"] == (1, -102.0)


@DELIVERIES
def test_the_next_space_becomes_the_live_one_and_nothing_is_published_again(settings: Any) -> None:
    cluster = make_cluster()
    feed(cluster, range(30))
    with Harness(cluster, next_space(), settings) as harness:
        harness.until_complete()
        harness.until_committed()
    num_before = sum(each.key is not None for each in cluster.records(NEXT_TOPIC))
    with Harness(cluster, None, settings, primary=(NEXT, NEXT_TOPIC)) as harness:
        feed(cluster, range(3), 2)
        harness.until_committed()
    assert sum(each.key is not None for each in cluster.records(NEXT_TOPIC)) == num_before + 3
    assert note(cluster, 0) is None


def test_a_space_that_became_the_live_one_half_filled_is_filled_though_its_restore_fails_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = make_cluster()
    feed(cluster, range(200))
    with Harness(cluster) as harness:
        harness.until_committed()
    slow = SETTINGS.model_copy(update={"rollout": RolloutSettings(backfill_rate=150)})
    with Harness(cluster, next_space(), slow) as harness:
        harness.until(lambda: all((found := note(cluster, n)) is not None and found.reached >= 0 for n in (0, 1)))
    assert 0 < len(there(cluster)) < 200
    failures, end = [ClientError("nobody answers")] * 2, FakeLog.end

    def fail_at_first(log: FakeLog, partition: TopicPartition, timeout_s: float) -> int:
        if partition.topic == "items" and failures:
            raise failures.pop()
        return end(log, partition, timeout_s)

    monkeypatch.setattr(FakeLog, "end", fail_at_first)
    monkeypatch.setattr("worker.loop.restore.RETRY_S", 0.01)
    with Harness(cluster, primary=(NEXT, NEXT_TOPIC)) as harness:
        harness.until(lambda: len(last(cluster, NEXT_TOPIC)) == 200)
    assert not failures
