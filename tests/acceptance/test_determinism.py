"""The same logs lead to the same vectors, whatever the batches, the number of workers and the crashes on the way."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas import ItemVector, UserVector, decode
from tests.acceptance.conftest import worker_on
from tests.brokers import Broker, Outgoing, read_topic
from tests.integration.stream import Stream, feature, item, names
from tests.integration.user_stream import UserStream
from tests.verifier.replay import Replay

pytestmark = [pytest.mark.acceptance, pytest.mark.real_kafka]

NUM_ITEMS, NUM_USERS, NUM_EVENTS = 300, 60, 1_500
ONE_SIZE = {"batch.padded_sizes": "64", "publish.vector_dtype": "f4"}
ROUNDING = 1e-5  # of float32 sums whose terms come in another order
REPLAY_TOLERANCE = 2e-3  # the replay's table of items holds what was computed there, in float16

Vectors = dict[str, bytes]


@pytest.fixture
def users(make_stream: Callable[..., Stream], real_kafka: Broker) -> UserStream:
    """Items in parts, late and twice, and events in any order."""
    made = UserStream(make_stream(real_kafka, create=False))
    made.stream.broker.create_topics({made.stream.items: 2, made.events: 2})
    dice = random.Random(7)
    inputs = [record for name in names(NUM_ITEMS) for record in parts(made.stream, name, dice)]
    dice.shuffle(inputs)
    made.feed(inputs)
    catalogue = list(names(NUM_ITEMS))
    events = [
        made.event(f"user-{dice.randrange(NUM_USERS)}", dice.choice(catalogue), dice.randrange(10**9))
        for _ in range(NUM_EVENTS)
    ]
    made.feed([*events, *dice.sample(events, 200)])
    return made


def parts(stream: Stream, name: str, dice: random.Random) -> list[Outgoing]:
    made = [
        stream.record(name, item(name, revision, features={modality: feature(modality, dice.randrange(1_000))},
                                 partial=True))
        for revision, modality in enumerate(["text", "image", "text", "image"][: dice.randrange(1, 5)], 1)
    ]  # fmt: skip
    return [*made, dice.choice(made)]


def run_settings(users: UserStream, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run with outputs, state and group of its own."""
    names_of = {each: f"{users.stream.topics[each]}-{name}" for each in (
        "item_vectors", "user_vectors", "item_state", "user_state", "dead_letters")}  # fmt: skip
    users.stream.broker.create_topics(dict.fromkeys(names_of.values(), 2))
    topics = {f"topics.{each}": topic for each, topic in names_of.items()}
    return {**topics, "roles": "items,users", "kafka.group_id": f"{users.stream.group}-{name}", **changes}


def catch_up(users: UserStream, name: str, num_workers: int, num_kills: int, changes: Mapping[str, Any]) -> None:
    settings = run_settings(users, name, changes)

    def start() -> Any:
        return worker_on(users.stream, settings, command=("run", "--until-caught-up")).start()

    workers = [start() for _ in range(num_workers)]
    try:
        for _ in range(num_kills):
            victim = workers.pop(0)
            victim.wait_until(lambda victim=victim: victim.metric("align_records_published_total") > 50)
            victim.kill()
            victim.close()
            workers.append(start())
        codes = [worker.wait(120) for worker in workers]
        assert set(codes) == {0}, [worker.log_tail() for worker in workers]
    finally:
        for worker in workers:
            worker.close()


def finals(users: UserStream, name: str) -> tuple[Vectors, Vectors]:
    """The last vector of every item and user of a run, as bytes of float32."""
    options, topics = users.stream.broker.options, users.stream.topics
    items = {
        record.key.decode(): decode(ItemVector, record.value).vector.data
        for record in read_topic(options, f"{topics['item_vectors']}-{name}")
    }
    found = {
        record.key.decode(): decode(UserVector, record.value).vector.data
        for record in read_topic(options, f"{topics['user_vectors']}-{name}")
    }
    return items, found


def worst(one: Vectors, other: Vectors) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(values(one[key]) - values(other[key])).max()) for key in one)


def values(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4")


@pytest.mark.timeout(280)
def test_batches_workers_and_crashes_make_no_difference(users: UserStream) -> None:
    catch_up(users, "a", 1, 0, {**ONE_SIZE, "batch.max_records": 64})
    catch_up(users, "b", 2, 0, {**ONE_SIZE, "batch.max_records": 7, "batch.max_age_ms": 1})
    crash = {
        "delivery": "exactly_once", "transaction.timeout_ms": 3_000, "kafka.delivery_timeout_ms": 1_500,
        "kafka.request_timeout_ms": 1_000, "kafka.session_timeout_ms": 3_000, "kafka.heartbeat_interval_ms": 500,
    }  # fmt: skip
    catch_up(users, "c", 1, 2, {**ONE_SIZE, **crash, "batch.max_records": 33})
    catch_up(users, "d", 1, 0, {"publish.vector_dtype": "f4", "batch.max_records": 50})
    runs = {name: finals(users, name) for name in "abcd"}
    items, people = runs["a"]
    assert (len(items), len(people)) == (NUM_ITEMS, NUM_USERS)
    assert runs["b"] == runs["a"], "bit for bit, with one size"
    assert runs["c"] == runs["a"], "bit for bit, with one size"
    off = worst(runs["d"][0], items), worst(runs["d"][1], people)
    print(f"with several sizes: items differ by up to {off[0]:.1e}, users by up to {off[1]:.1e}")
    assert off[0] < ROUNDING
    assert off[1] < REPLAY_TOLERANCE
    require_replayed(users, items, people)


def require_replayed(users: UserStream, items: Vectors, people: Vectors) -> None:
    """What one item and one user at a time, from the logs alone, lead to."""
    options = users.stream.broker.options
    replay = Replay(users.stream.space, read_topic(options, users.stream.items), read_topic(options, users.events))
    for found, expected in ((items, replay.items), (people, replay.users())):
        assert found.keys() == expected.keys()
        assert max(float(np.abs(values(found[key]) - expected[key]).max()) for key in expected) < REPLAY_TOLERANCE


def test_one_that_is_stopped_before_it_has_caught_up_says_so(users: UserStream) -> None:
    settings = run_settings(users, "stopped", {"batch.max_records": 1, "batch.max_age_ms": 0})
    with worker_on(users.stream, settings, command=("run", "--until-caught-up")) as worker:
        worker.wait_until(lambda: worker.metric("align_records_published_total") > 5)
        worker.signal(signal.SIGTERM)
        started = time.monotonic()
        assert worker.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - started < 40
