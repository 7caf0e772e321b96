"""Another space in the place of the live one while the stream flows, without a restart and in the same topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, NewItem, decode
from tests.brokers import read_topic
from tests.integration.conftest import StreamMaker
from tests.integration.rollout import TOLERANCE, Rollout
from tests.integration.stream import DIMS, SPACE_DIM, Stream, names
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread
from worker.align import AlignRuntime, Space, command
from worker.align.space import record_compatible, write_space
from worker.errors import RolloutError
from worker.kafka.embedded import EmbeddedBroker
from worker.rollout import steps

NUM_ITEMS = 120


@pytest.fixture(scope="module")
def close(tmp_path_factory: pytest.TempPathFactory, space_path: Path) -> Path:
    """A space that was measured to be comparable with that of the streams."""
    path, live = tmp_path_factory.mktemp("spaces") / "close", Space.load(space_path)
    bias = live.weights["output.bias"]
    write_space(path, live.spec, {**live.weights, "output.bias": bias + 0.3})
    record_compatible(path, live.space_id, {"cosine": 0.5})
    return path


def test_a_space_takes_over_between_two_batches_and_nothing_is_lost_twice_or_mixed(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, close: Path
) -> None:
    stream = make_stream(embedded_broker)
    users = UserStream(stream)
    users.create_topics()
    swap = Rollout(stream, close, "items,users")
    embedded_broker.create_topic(swap.settings.topics.rollouts, 1)
    catalogue = list(names(NUM_ITEMS))
    with WorkerThread(users.settings()) as worker:
        stream.feed_items(catalogue)
        stream.wait_committed(worker)
        users.feed([users.event("before", catalogue[0], 10)])
        users.wait_committed(worker)
        assert steps.swap(swap.client, swap.settings, close).primary.item_vectors == stream.vectors
        revision = 2
        while worker.status.space["space_id"] != swap.space.space_id:
            stream.feed_items(catalogue[revision % 4 :: 4], revision=revision)
            worker.require_alive()
            revision += 1
        stream.feed_items(catalogue[:20], revision=10_000)
        users.feed([users.event(name, catalogue[0], 20) for name in ("before", "after")])
        stream.wait_committed(worker)
        users.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        assert worker.items.accounting.dead_lettered == 0
    published = vectors(stream)
    require_each_of_its_space(stream, swap.space, published)
    assert {each.space_id for each in published} == {stream.space.space_id, swap.space.space_id}
    assert {each.space_id for each in published if each.revision == 10_000} == {swap.space.space_id}
    assert max(Counter((each.item_id, each.source_offset) for each in published).values()) == 1, "nothing twice"
    newest = {each.item_id: each.revision for each in published}
    assert newest == {item_id: item.revision for item_id, item in inputs(stream)[1].items()}, "nothing lost"
    of_users = {each.user_id: each for each in users.published().values()}
    assert {each.space_id for each in of_users.values()} == {swap.space.space_id}
    own = AlignRuntime(swap.space, device="cpu", threads=1).embed([features_of(stream, catalogue[0], 10_000)])
    assert np.abs(of_users["after"].vector.to_numpy().astype("f4") @ own.vectors[0]) > 0.9, "pooled of the new vectors"
    with WorkerThread(users.settings()) as worker:  # whose space.path is still the one before
        stream.feed_items(catalogue[20:30], revision=10_001)
        stream.wait_committed(worker)
        assert worker.status.space["space_id"] == swap.space.space_id
        steps.roll_back(swap.client, swap.settings)
        revision = 10_002
        while worker.status.space["space_id"] != stream.space.space_id:
            stream.feed_items(catalogue[revision % 4 :: 4], revision=revision)
            worker.require_alive()
            revision += 1
        stream.feed_items(catalogue[:5], revision=20_000)
        stream.wait_committed(worker)
    published = vectors(stream)
    assert {each.space_id for each in published if each.revision == 20_000} == {stream.space.space_id}
    require_each_of_its_space(stream, swap.space, published)


def test_a_space_that_is_not_what_it_was_measured_to_be_is_refused_and_the_live_one_goes_on(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stream = make_stream(embedded_broker)
    command.create(tmp_path / "far", DIMS, dim=SPACE_DIM, seed=9)
    swap = Rollout(stream, tmp_path / "far")
    embedded_broker.create_topic(swap.settings.topics.rollouts, 1)
    stream.feed_items(names(NUM_ITEMS))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        with pytest.raises(RolloutError, match=r"it was not measured .* `space rollout .*far` moves to it"):
            steps.swap(swap.client, swap.settings, tmp_path / "far")
        record_compatible(tmp_path / "far", stream.space.space_id, {"cosine": 0.95})
        steps.swap(swap.client, swap.settings, tmp_path / "far")
        worker.until(lambda: (seen := worker.status.rollout) is not None and "0 of the 64 items" in seen.swap_waits)
        stream.feed_items(names(NUM_ITEMS), revision=2)
        swap.until(lambda: "have a cosine of" in swap.report().standing.failure, worker)
        stream.feed_items(names(5), revision=3)
        stream.wait_committed(worker)
        assert worker.status.space["space_id"] == stream.space.space_id
    with WorkerThread(stream.settings()) as worker:
        stream.feed_items(names(5), revision=4)
        stream.wait_committed(worker)
    assert {each.space_id for each in vectors(stream)} == {stream.space.space_id}
    steps.roll_back(swap.client, swap.settings)
    assert not swap.report().standing.failure


def vectors(stream: Stream) -> list[ItemVector]:
    return [decode(ItemVector, record.value) for record in read_topic(stream.broker.options, stream.vectors)]


def inputs(stream: Stream) -> tuple[Mapping[tuple[str, int], NewItem], Mapping[str, NewItem]]:
    """By item and revision, and the last of each."""
    items = [decode(NewItem, record.value) for record in stream.input_records()]
    return {(item.item_id, item.revision): item for item in items}, {item.item_id: item for item in items}


def features_of(stream: Stream, item_id: str, revision: int) -> Any:
    return dict(inputs(stream)[0][item_id, revision].features)


def require_each_of_its_space(stream: Stream, other: Space, published: list[ItemVector]) -> None:
    """What a vector says of its space is true."""
    by_revision = inputs(stream)[0]
    for space in (stream.space, other):
        mine = [each for each in published if each.space_id == space.space_id]
        made = AlignRuntime(space, device="cpu", threads=1).embed(
            [dict(by_revision[each.item_id, each.revision].features) for each in mine]
        )
        found = np.stack([each.vector.to_numpy().astype("f4") for each in mine])
        assert np.abs(found - made.vectors).max() < TOLERANCE, space.space_id


def test_what_has_another_contract_is_refused_in_one_line(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stream = make_stream(embedded_broker)
    command.create(tmp_path / "other", {**DIMS, "extra": 8}, dim=SPACE_DIM, seed=9)
    record_compatible(tmp_path / "other", stream.space.space_id, {"cosine": 1.0})
    swap = Rollout(stream, tmp_path / "other")
    with pytest.raises(RolloutError, match=r"modalities: it has .*extra") as error:
        steps.swap(swap.client, swap.settings, tmp_path / "other")
    assert "\n" not in error.value.one_line()
