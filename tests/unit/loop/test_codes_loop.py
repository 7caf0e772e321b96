"""Codes through the whole loop: no crash, no rebalance, no replay and no dtype of publishing changes any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from schemas import Feature, ItemVector, NewItem, decode, encode
from tests.fakes import FakeClient, FakeCluster
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from worker.align import Contract
from worker.align.result import pack_rows
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.codes import Codebooks
from worker.codes.learn import learned
from worker.records import Change, TopicPartition
from worker.roles.coded import CodedItems, CodeUse
from worker.roles.items import ItemFormat, ItemsRole
from worker.settings import Settings
from worker.stages.fuse import Result, Vector
from worker.topics import topics_of

DIM, NUM_ITEMS, SIZE = 16, 60, 16
SPEC = SpaceSpec(
    dim=DIM,
    width=16,
    modalities={"text": ModalitySpec(dim=DIM)},
    fusion=SelfAttentionSpec(layers=1, heads=1, hidden=4),
)
FEATURES = np.random.default_rng(0).standard_normal((3, NUM_ITEMS, DIM)).astype(np.float32)
"""By revision and item."""


class Model:
    """Features at unit length, computed as a batch."""

    def __init__(self, dtype: Literal["f2", "f4"]) -> None:
        self._dtype: Literal["f2", "f4"] = dtype

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        rows = np.stack([entry.features["text"].to_numpy() for entry in entries])  # type: ignore[union-attr]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return [Vector(row, ("text",)) for row in pack_rows(rows.astype(np.float32), self._dtype)]

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None: ...


@pytest.fixture(scope="module")
def books() -> Codebooks:
    rows = FEATURES.reshape(-1, DIM)
    return learned("space", rows / np.linalg.norm(rows, axis=1, keepdims=True), 3, SIZE)


class Harness(LoopHarness):
    def __init__(self, cluster: FakeCluster, books: Codebooks, settings: Settings, dtype: Literal["f2", "f4"]) -> None:
        output = ItemFormat(topics_of("items", settings), "space", dtype, DIM, code_space_id=books.code_space_id)
        embedder = CodedItems(Model(dtype), CodeUse(books), dtype)
        super().__init__(
            FakeClient(cluster), ItemsRole(output, Contract(SPEC), embedder, keep_features=True), settings=settings
        )


def send(cluster: FakeCluster, revision: int, items: range) -> None:
    for item in items:
        feature = Feature.from_numpy(FEATURES[revision, item], "f4", encoder="e")
        message = NewItem(item_id=f"i{item}", revision=revision, event_time_ms=1_000, features={"text": feature})
        cluster.append("items", item % 2, message.key, encode(message))


def stamped(cluster: FakeCluster) -> dict[tuple[str, int], set[Any]]:
    """What every output of an item's revision was stamped with."""
    found: dict[tuple[str, int], set[Any]] = {}
    for record in cluster.records("item-vectors"):
        assert record.value is not None
        vector = decode(ItemVector, record.value)
        found.setdefault((vector.item_id, vector.revision), set()).add(
            (vector.codes, vector.code_space_id, vector.disambiguator)
        )
    return found


def with_batches_of(settings: Settings, size: int) -> Settings:
    return settings.model_copy(update={"batch": settings.batch.model_copy(update={"max_records": size})})


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_a_crash_a_rebalance_a_replay_and_the_other_dtype_change_no_code(books: Codebooks, settings: Settings) -> None:
    cluster = FakeCluster(2)
    both = [TopicPartition("items", 0), TopicPartition("items", 1)]
    with Harness(cluster, books, settings, "f2") as harness:
        send(cluster, 0, range(NUM_ITEMS))
        harness.until_committed()
        send(cluster, 1, range(0, NUM_ITEMS, 2))
        harness.consumer.rebalance("lost", both)  # what is under way is given up, and done again
        harness.consumer.rebalance("assigned", both)
        send(cluster, 2, range(0, NUM_ITEMS, 3))
        harness.until_committed()
    before = stamped(cluster)
    cluster.commits.clear()  # as though a crash had come before any of it was committed
    with Harness(cluster, books, with_batches_of(settings, 3), "f2") as harness:
        harness.until_committed()
    after = stamped(cluster)
    assert {key[0] for key in after} == {f"i{item}" for item in range(NUM_ITEMS)}
    assert all(len(each) == 1 for each in after.values())
    assert all(after[key] == stamps for key, stamps in before.items())

    replay = FakeCluster(2)
    with Harness(replay, books, with_batches_of(settings, 7), "f4") as harness:
        for revision, step in ((0, 1), (1, 2), (2, 3)):
            send(replay, revision, range(0, NUM_ITEMS, step))
        harness.until_committed()
    replayed = stamped(replay)
    assert replayed
    assert all(after[key] == stamps for key, stamps in replayed.items() if key in after)
    newest = {f"i{item}": max(key[1] for key in after if key[0] == f"i{item}") for item in range(NUM_ITEMS)}
    assert all((item, revision) in replayed for item, revision in newest.items())
