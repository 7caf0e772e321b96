"""Attributes through the whole loop: carried, remembered, and published again without computing anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from schemas import AttributeValue, ItemVector, NewItem, Reason, as_json, decode, decode_vector, encode
from tests.fakes import FakeClient, FakeCluster, FakeEmbedder, feature
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from tests.unit.loop.test_pipeline import SPEC
from worker.align import Contract
from worker.records import Change
from worker.roles.items import ItemFormat, ItemsRole
from worker.settings import Settings
from worker.stages.fuse import Result
from worker.state.items import ItemState
from worker.topics import topics_of


class CountingEmbedder(FakeEmbedder):
    def __init__(self) -> None:
        super().__init__(poison=13.0)
        self.computed: list[str] = []

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        self.computed += [entry.id for entry in entries]
        return super().vectors(entries)


class Harness(LoopHarness):
    def __init__(
        self, cluster: FakeCluster, embedder: CountingEmbedder, *, space_id: Any="space", settings: Any=SETTINGS,
        keep_features: Any=True, has_modality_vectors: Any=False,
    ):  # fmt: skip
        output = ItemFormat(topics_of("items", settings), space_id, "f2", 2, has_modality_vectors)
        role = ItemsRole(output, Contract(SPEC), embedder, keep_features=keep_features)
        super().__init__(FakeClient(cluster), role, settings=settings)


def send(
    cluster: FakeCluster,
    revision: int,
    fill: float | None = None,
    *,
    partial: Any = False,
    key: Any = "a",
    **attributes: Any,
) -> None:
    features = {} if fill is None else {"text": feature(fill=fill)}
    message = NewItem(
        item_id=key, revision=revision, event_time_ms=1_000, features=features, partial=partial, attributes=attributes
    )
    cluster.append("items", 0, key.encode(), encode(message))


def published(cluster: FakeCluster, key: Any = "a") -> list[tuple[int, float, dict[str, AttributeValue]] | None]:
    found = []
    for record in cluster.records("item-vectors"):
        if record.key == key.encode():
            vector = None if record.value is None else decode(ItemVector, record.value)
            found.append(
                None if vector is None else (vector.revision, float(vector.vector.to_numpy()[0]), vector.attributes)
            )
    return found


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_a_new_price_alone_is_published_with_the_vector_that_there_is_and_nothing_is_computed(
    settings: Settings,
) -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder, settings=settings) as harness:
        send(cluster, 1, 2.0, price=1.0, tags=["x"])
        harness.until_committed()
        send(cluster, 2, partial=True, price=2.0)
        harness.until_committed()
        send(cluster, 3, partial=False, fill=2.0, price=3.0)  # whole, with the text it had
        harness.until_committed()
    accounting = harness.metrics.accounting.totals
    assert embedder.computed == ["a"]
    assert published(cluster) == [
        (1, 2.0, {"price": 1.0, "tags": ("x",)}),
        (2, 2.0, {"price": 2.0, "tags": ("x",)}),
        (3, 2.0, {"price": 3.0}),
    ]
    assert (accounting.consumed, accounting.published["upsert"], accounting.unaccounted()) == (3, 3, 0)
    vectors = [decode(ItemVector, record.value) for record in cluster.records("item-vectors")]
    assert [vector.source_offset for vector in vectors] == [0, 1, 2]
    assert {vector.modalities for vector in vectors} == {("text",)}


def test_the_vector_is_known_after_a_restart_and_computed_anew_in_another_space_or_with_other_settings() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 1, 2.0, price=1.0)
        harness.until_committed()
    with Harness(cluster, embedder) as harness:
        send(cluster, 2, partial=True, price=2.0)
        harness.until_committed()
    assert embedder.computed == ["a"]
    with Harness(cluster, embedder, has_modality_vectors=True) as harness:
        send(cluster, 3, partial=True, price=3.0)
        harness.until_committed()
    assert embedder.computed == ["a", "a"]
    assert published(cluster)[-1] == (3, 2.0, {"price": 3.0})
    assert ItemState.decode(cluster.records("item-state")[-1].value).made.stamp.endswith(b" 1")


def test_attributes_of_an_item_that_has_no_modality_yet_wait_for_one() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 1, partial=True, price=1.0)
        harness.until_committed()
        assert published(cluster) == []
        send(cluster, 2, 2.0, partial=True)
        harness.until_committed()
    assert published(cluster) == [(2, 2.0, {"price": 1.0})]
    accounting = harness.metrics.accounting.totals
    assert (accounting.consumed, accounting.superseded["without_vector"], accounting.unaccounted()) == (2, 1, 0)


def test_what_changes_the_vector_is_computed_and_keeps_the_attributes() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 1, 2.0, price=1.0)
        harness.until_committed()
        send(cluster, 2, 3.0, partial=True)
        harness.until_committed()
    assert embedder.computed == ["a", "a"]
    assert published(cluster)[-1] == (2, 3.0, {"price": 1.0})


def test_a_late_price_is_superseded_and_a_delete_ends_attributes_and_vector() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 2, 2.0, price=2.0)
        send(cluster, 1, partial=True, price=1.0)
        harness.until_committed()
        cluster.append("items", 0, b"a", None)
        harness.until_committed()
        send(cluster, 1, partial=True, price=9.0)
        harness.until_committed()
    assert published(cluster) == [(2, 2.0, {"price": 2.0}), None]
    assert ItemState.decode(cluster.records("item-state")[-1].value).values == {"price": 9.0}


def test_prices_in_one_batch_with_the_item_are_one_output() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    send(cluster, 1, 2.0, price=1.0)
    for revision in range(2, 6):
        send(cluster, revision, partial=True, price=float(revision))
    with Harness(cluster, embedder) as harness:
        harness.until_committed()
    assert published(cluster)[-1] == (5, 2.0, {"price": 5.0})


def test_a_price_that_was_displaced_by_what_breaks_the_model_is_published_after_all() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 1, 2.0, price=1.0)
        harness.until_committed()
        send(cluster, 2, partial=True, price=2.0)
        send(cluster, 3, 13.0, partial=True)
        harness.until_committed()
    assert published(cluster)[-1] == (2, 2.0, {"price": 2.0})
    (letter,) = cluster.records("dead-letters")
    assert letter.value is not None


def test_without_remembered_features_attributes_come_with_whole_messages_alone() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder, keep_features=False) as harness:
        send(cluster, 1, 2.0, price=1.0)
        harness.until_committed()
        send(cluster, 2, partial=True, price=2.0)
        harness.until_committed()
        send(cluster, 3, 2.0, price=3.0)
        harness.until_committed()
    assert published(cluster) == [(1, 2.0, {"price": 1.0}), (3, 2.0, {"price": 3.0})]
    assert harness.metrics.accounting.totals.dead_lettered[Reason.PARTIAL_UNSUPPORTED.value] == 1


def test_items_without_attributes_remember_no_vector() -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()
    with Harness(cluster, embedder) as harness:
        send(cluster, 1, 2.0)
        harness.until_committed()
    assert ItemState.decode(cluster.records("item-state")[-1].value).made is None


@pytest.mark.parametrize("envelope", ["json", "connect_json"])
def test_vectors_written_as_json_are_read_back_by_whoever_takes_over(envelope: str) -> None:
    cluster, embedder = FakeCluster(1), CountingEmbedder()

    class Json(Harness):
        def __init__(self) -> None:
            output = ItemFormat(
                topics_of("items", SETTINGS), "space", "f2", 2, written=partial(as_json, envelope=envelope)
            )
            role = ItemsRole(output, Contract(SPEC), embedder, keep_features=True)
            LoopHarness.__init__(self, FakeClient(cluster), role)

    for _ in range(2):
        with Json() as harness:
            send(cluster, 1, 2.0, price=1.0)
            harness.until_committed()
    assert all(record.value[:1] == b"{" for record in cluster.records("item-vectors"))
    found = [decode_vector(ItemVector, record.value) for record in cluster.records("item-vectors")]
    assert {(float(each.vector.to_numpy()[0]), each.attributes["price"]) for each in found} == {(2.0, 1.0)}
