"""From one space to the next while the stream flows, on real brokers, by the steps of the command."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas import NewItem, UserVector, decode
from tests.integration.conftest import StreamMaker
from tests.integration.rollout import Rollout, require_equal
from tests.integration.stream import DIMS, SPACE_DIM, Stream, item, names
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread
from worker.align import AlignRuntime, Space, command
from worker.align.result import unpack_rows
from worker.commands.recommend import _as_read
from worker.errors import RolloutError
from worker.kafka.embedded import EmbeddedBroker
from worker.rollout.plan import Phase
from worker.sink.port import Outcome
from worker.sink.row import Collection, Entity, Row
from worker.sink.service import SinkService
from worker.vector_health import measured, write_references

NUM_ITEMS, NUM_USER_ITEMS, NUM_JUDGED = 200, 60, 1_100


@pytest.fixture(scope="session")
def next_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space that can follow the one of the streams."""
    path = tmp_path_factory.mktemp("spaces") / "next"
    command.create(path, DIMS, dim=SPACE_DIM, seed=7)
    return path


def test_a_catalogue_moves_over_and_back_and_over_while_it_changes(stream: Stream, next_path: Path) -> None:
    stream.feed_items(names(NUM_ITEMS))
    rollout = Rollout(stream, next_path)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        rollout.begin()
        stream.feed_items(list(names(NUM_ITEMS))[50:70], revision=2)
        stream.feed([stream.delete(name) for name in list(names(NUM_ITEMS))[60:65]])
        rollout.wait_complete(worker)
        assert rollout.report().standing.plan.readers.space_id == stream.space.space_id  # type: ignore[union-attr]
        worker.until(lambda: worker.status.rollout is not None and worker.status.rollout.phase == "moving")
        worker.until(lambda: (seen := worker.items.backfill) is not None and seen.complete == stream.num_partitions)
        rollout.cut_over()
        assert _as_read(rollout.settings).topics.item_vectors == rollout.vectors, "`recommend` has gone over"
        stream.feed_items(list(names(NUM_ITEMS))[:10], revision=3)
        stream.wait_committed(worker)
        rollout.require_replayed()  # both are published until the end
        rollout.roll_back()
        assert _as_read(rollout.settings).topics.item_vectors == stream.vectors, "and back"
        assert rollout.report().standing.plan.phase is Phase.MOVING  # type: ignore[union-attr]
        stream.feed_items(list(names(NUM_ITEMS))[10:20], revision=3)
        stream.wait_committed(worker)
        rollout.require_replayed()
        rollout.cut_over()
        rollout.finish()
        worker.until(lambda: worker.status.space.get("space_id") == rollout.space.space_id)
        num_old = len(stream.output_records())
        stream.feed_items(list(names(NUM_ITEMS))[20:40], revision=4)
        stream.wait_committed(worker)
        assert len(stream.output_records()) == num_old, "the old space is published no more"
    with WorkerThread(stream.settings()) as worker:  # whose space.path is still the old one
        stream.feed_items(list(names(NUM_ITEMS))[:5], revision=5)
        stream.wait_committed(worker)
        assert worker.status.space["space_id"] == rollout.space.space_id
    replayed = rollout.replay(rollout.space).items
    found = rollout.final(rollout.vectors, rollout.space)
    assert found.keys() == replayed.keys()


def test_users_move_with_the_items_and_from_what_is_remembered_of_them(stream: Stream, next_path: Path) -> None:
    users = UserStream(stream)
    users.create_topics()
    catalogue = list(names(NUM_USER_ITEMS))
    stream.feed_items(catalogue)
    dice = random.Random(1)
    users.feed(users.event(f"u{dice.randrange(30)}", dice.choice(catalogue), dice.randrange(10**9)) for _ in range(300))
    rollout = Rollout(stream, next_path, "items,users")
    with WorkerThread(users.settings()) as worker:
        stream.wait_committed(worker)
        users.wait_committed(worker)
        rollout.begin()
        users.feed(users.event(f"u{number}", catalogue[number], 10**9 + number) for number in range(25, 35))
        rollout.wait_complete(worker)
        users.feed(users.event(f"u{number}", catalogue[-1], 10**9 + 100 + number) for number in range(33, 40))
        users.wait_committed(worker)
        worker.until(lambda: worker.users.accounting.in_flight == 0)
        rollout.require_replayed()
        rollout.cut_over()
        rollout.finish()
        worker.until(lambda: worker.status.space.get("space_id") == rollout.space.space_id)
        worker.wait_ready()
        users.feed([users.event("u0", catalogue[3], 2 * 10**9), users.event("new", catalogue[3], 2 * 10**9)])
        users.wait_committed(worker)
    require_equal(rollout.final(rollout.user_vectors, rollout.space, UserVector), rollout.replay(rollout.space).users())


def test_a_space_whose_vectors_are_ill_is_not_cut_over_to_unless_that_is_said(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    stream = make_stream(embedded_broker)
    stream.feed_items(names(NUM_JUDGED))
    ill, well = tmp_path / "ill", tmp_path / "well"
    for seed, path in enumerate((ill, well), 11):
        command.create(path, DIMS, dim=SPACE_DIM, seed=seed)
    measured_on(well, Space.load(well))
    measured_on(ill, Space.load(well))  # as if its weights had been mixed up since its training
    with WorkerThread(stream.settings()) as worker:
        rollout = Rollout(stream, ill)
        rollout.begin()
        with pytest.raises(RolloutError, match=r"have to be judged .*--accept-health"):
            rollout.cut_over(accept_health=False)
        rollout.wait_complete(worker)
        rollout.until(lambda: bool((found := rollout.report().health) and found["items"].ill), worker)
        with pytest.raises(RolloutError, match=r"stays shut: items: .* do not pass .*--accept-health"):
            rollout.cut_over(accept_health=False)
        worker.until(lambda: any("do not pass" in each for each in worker.status.rollout.objections))
        assert any(each.is_ill for each in worker.items.backfill.vector_health)
        assert not any(each.is_ill for each in worker.items.vector_health), "the live space has nothing to do with it"
        rollout.cut_over(accept_health=True)
        rollout.roll_back()
        rollout.finish(abandon=True)
        assert not rollout.report().health
        rollout = Rollout(stream, well)
        rollout.begin()
        rollout.wait_complete(worker)
        rollout.until(lambda: not rollout.report().objections, worker)
        rollout.cut_over(accept_health=False)


def measured_on(path: Path, other: Space) -> None:
    """Give a space the references of another one's vectors."""
    items = [decode(NewItem, item(name)) for name in names(NUM_JUDGED, "sample")]
    embedded = AlignRuntime(other, device="cpu", threads=1).embed([dict(each.features) for each in items])
    vectors_ID = unpack_rows(embedded.rows("f4"), SPACE_DIM, "f4")
    found = measured(Space.load(path).space_id, {embedded.modalities[0]: vectors_ID}, dict.fromkeys(DIMS, 1.0))
    assert found is not None
    write_references(path, found)


def test_a_rollout_of_items_alone_is_refused_where_users_are_published(stream: Stream, next_path: Path) -> None:
    UserStream(stream).create_topics()
    with pytest.raises(RolloutError, match="--roles items,users"):
        Rollout(stream, next_path).begin()


class Shelf:
    """Implements `worker.sink.port.Store` in memory: ids by space."""

    def __init__(self) -> None:
        self.ids: dict[str, set[str]] = {}
        self._collections: set[Collection] = set()

    def connect(self) -> None:
        return

    def prepare(self, collection: Collection) -> None:
        self._collections.add(collection)
        self.ids.setdefault(collection.space_id, set())

    def collections(self, entity: Entity) -> Sequence[Collection]:
        return [each for each in self._collections if each.entity == entity]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        here = self.ids[collection.space_id]
        for row in rows:
            (here.discard if row.is_deleted else here.add)(row.id)
        num_deleted = sum(row.is_deleted for row in rows)
        return Outcome(len(rows) - num_deleted, num_deleted, 0)

    def tick(self, *, is_caught_up: bool) -> bool:
        return True

    def close(self) -> None:
        return


def test_a_sink_reads_every_space_that_is_published_each_into_its_own_place(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, next_path: Path
) -> None:
    stream = make_stream(embedded_broker)
    stream.feed_items(names(20))
    rollout = Rollout(stream, next_path)
    shelf, stop = Shelf(), threading.Event()
    kafka = rollout.settings.kafka.model_copy(update={"group_id": f"{stream.group}-sink"})
    sink_settings = rollout.settings.model_copy(update={"kafka": kafka})
    sink = SinkService(sink_settings, "shelf", shelf, followed=rollout.settings)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            sink.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        thread.start()
        try:
            worker.until(lambda: len(shelf.ids.get(stream.space.space_id, ())) == 20 or bool(failed))
            rollout.begin()
            worker.until(lambda: len(shelf.ids.get(rollout.space.space_id, ())) == 20 or bool(failed))
            rollout.wait_complete(worker)
            rollout.cut_over()
            rollout.finish()
            worker.until(lambda: worker.status.space.get("space_id") == rollout.space.space_id)
            stream.feed_items(["later"])
            worker.until(lambda: "later" in shelf.ids[rollout.space.space_id] or bool(failed))
        finally:
            stop.set()
            thread.join(30)
    assert not failed, failed
    assert "later" not in shelf.ids[stream.space.space_id]
    assert not [each.name for each in threading.enumerate() if each.name == "rollout"], "it follows no longer"
