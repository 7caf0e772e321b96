"""Spaces with graph fusion on real brokers: every item ends as its neighbours have it, whatever came in which order and
whoever died on the way, and users are pooled from that."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker, Outgoing
from tests.integration.stream import DIMS, SPACE_DIM, Stream, item, names
from tests.integration.test_exactly_once import SHORT_SESSION
from tests.integration.test_users import NUM_ITEMS, TOLERANCE, clicks, final_vectors, require_equal
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess
from worker.align import Space, command, create_space
from worker.align.spec import GraphSpec, SpaceSpec

FOLLOWING = {"users.follow_changes": True}  # of users: an item that a neighbour has moved moves them, too


@pytest.fixture(scope="module")
def graph_space(tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, Path]:
    folder = tmp_path_factory.mktemp("spaces")
    plain = command.create(folder / "plain", DIMS, dim=SPACE_DIM)
    fields = plain.spec.model_dump(include=set(SpaceSpec.model_fields))
    spec = SpaceSpec.model_validate({**fields, "graph": GraphSpec(width=8, max_neighbors=3)})
    return create_space(folder / "graph", spec, seed=1), folder / "graph"


def with_space(stream: Stream, graph_space: tuple[Space, Path]) -> UserStream:
    stream.space, stream.space_path = graph_space[0], str(graph_space[1])
    users = UserStream(stream)
    users.create_topics()
    return users


@pytest.fixture
def users(stream: Stream, graph_space: tuple[Space, Path]) -> UserStream:
    return with_space(stream, graph_space)


def catalogue(stream: Stream, seed: int = 0) -> list[Outgoing]:
    """Items that name neighbours, some of which do not exist, in no order."""
    dice, found = random.Random(seed), [*names(NUM_ITEMS)]
    made = [
        stream.record(name, item(name, neighbors=dice.sample([*found, "nobody"], dice.randrange(6)))) for name in found
    ]
    return dice.sample(made, len(made))


def is_final(stream: Stream, expected: Mapping[str, Any]) -> bool:
    found = final_vectors(stream)
    return found.keys() == expected.keys() and all(
        abs(found[name] - expected[name]).max() < TOLERANCE for name in expected
    )


def require_final(users: UserStream, worker: WorkerThread) -> None:
    stream, replay = users.stream, users.replay()
    stream.wait_committed(worker)
    users.wait_committed(worker)
    worker.until(lambda: is_final(stream, replay.items), name="done with the items")
    # One after the other: users are done when what they are made of has been read.
    worker.until(
        lambda: (
            users.final().keys() == (expected := replay.users()).keys()
            and all(abs(users.final()[user] - expected[user]).max() < TOLERANCE for user in expected)
        ),
        name="done with the users",
    )
    require_equal(users.final(), replay.users())


def test_items_end_as_their_neighbours_have_them_and_users_as_their_items(users: UserStream) -> None:
    """Over a restart in the middle of the catalogue."""
    stream, items = users.stream, catalogue(users.stream)
    users.feed(clicks(users, 20, 200))
    for half in (items[: NUM_ITEMS // 2], items[NUM_ITEMS // 2 :]):
        stream.feed(half)
        with WorkerThread(users.settings(changes=FOLLOWING)) as worker:
            require_final(users, worker)
            verdict = stream.verdict([worker.metrics_url])
            assert verdict.ok, verdict.explain()
    assert verdict.counts["computed_anew"] > 0, "some item has been moved by a neighbour that came later"


def test_two_workers_share_a_catalogue_whose_neighbours_lie_in_both_halves(users: UserStream) -> None:
    stream, items = users.stream, catalogue(users.stream, 1)

    def settled(worker: WorkerThread) -> bool:
        return len(worker.items.partitions) == 1 and worker.items.partitions[0].state == "running"

    settings = users.settings("items", stream.for_several)
    with WorkerThread(settings) as first:
        first.wait_ready()  # the embedded broker minds two that join at once
        with WorkerThread(settings) as second:
            first.until(lambda: settled(first) and settled(second), name="one partition each")
            stream.feed(items)
            stream.wait_committed(first, second)
            expected = users.replay().items
            first.until(lambda: is_final(stream, expected), name="done with the items")
            verdict = stream.verdict([first.metrics_url, second.metrics_url])
            assert verdict.ok, verdict.explain()


def test_a_run_to_the_end_of_the_log_needs_no_order(users: UserStream) -> None:
    stream = users.stream
    stream.feed(catalogue(stream, 2))
    users.feed(clicks(users, 20, 200))
    with WorkerProcess(users.settings(), command=("run", "--until-caught-up")) as worker:
        assert worker.wait(60) == 0, worker.stderr
    replay = users.replay()
    require_equal(final_vectors(stream), replay.items)
    require_equal(users.final(), replay.users())


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.real_kafka
def test_a_worker_that_is_killed_leaves_no_item_behind(
    make_stream: Callable[..., Stream], real_kafka: Broker, graph_space: tuple[Space, Path], delivery: str
) -> None:
    users = with_space(make_stream(real_kafka), graph_space)
    stream, items = users.stream, catalogue(users.stream, 3)
    # Killed with little committed, and whatever is computed anew in the air.
    slow = {"transaction.interval_ms": 300, "transaction.id": "one", "commit.interval_ms": 300, "batch.max_records": 8}
    settings = users.settings("items", {"delivery": delivery, **slow, **SHORT_SESSION})
    stream.feed(items)
    with WorkerProcess(settings) as victim:
        victim.wait_until(lambda: victim.metric("align_recomputed_total") > 0)
        victim.kill()
    with WorkerThread(settings) as heir:
        stream.wait_committed(heir)
        expected = users.replay().items
        heir.until(lambda: is_final(stream, expected), name="done with the items")
        heir.until(lambda: heir.items.accounting.in_flight == 0)
        verdict = stream.verdict([heir.metrics_url])
        assert verdict.ok, verdict.explain()
