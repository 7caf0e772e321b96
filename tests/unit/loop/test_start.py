"""A worker that starts while some brokers are down waits for them, as one that runs does."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import FakeClient, FakeCluster
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS
from tests.unit.loop.test_pipeline import Harness, feed, vectors
from worker.errors import CallTimeoutError, ClientError, UnreachableError
from worker.settings import KafkaSettings, Settings
from worker.topics import check_topics, create_topics


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kafka.patience.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("worker.stages.producers.BACKOFF_S", 0.001)


def failing(call: Callable[..., Any], times: int = 3) -> Callable[..., Any]:
    """The call, which nobody answers the first times."""
    left = [times]

    def maybe(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise CallTimeoutError("nobody answers") if left[0] % 2 else ClientError("connection refused")
        return call(*arguments, **named)

    return maybe


@pytest.mark.parametrize("until_caught_up", [False, True])
@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
@pytest.mark.parametrize("call", ["describe_topics", "producer", "transactional_producer", "log", "subscribe"])
def test_every_call_of_a_start_is_made_again(call: str, settings: Settings, *, until_caught_up: bool) -> None:
    cluster = FakeCluster(2)
    feed(cluster, 20, 0)
    run = Harness(cluster, settings=settings, until_caught_up=until_caught_up)
    place = run.consumer if call == "subscribe" else run.client
    setattr(place, call, failing(getattr(place, call)))
    with run:
        run.until_committed()
    assert run.error is None
    assert len(vectors(cluster)) == 20


def test_a_stop_ends_the_waiting() -> None:
    run = Harness(FakeCluster(2))
    run.consumer.subscribe = failing(run.consumer.subscribe, 10**9)
    with run:
        run.until(lambda: run.pipeline._stages[0]._thread.is_alive())
    assert run.error is None


def test_topics_are_asked_for_again_and_all_are_said_to_be_made() -> None:
    client: Any = FakeClient(FakeCluster(4, topics=()))
    client.describe_topics, client.create_topics = failing(client.describe_topics), failing(client.create_topics)
    assert sorted(create_topics(client, Settings(), 2, 1)) == ["dead-letters", "item-state", "item-vectors", "items"]
    client.describe_topics = failing(client.describe_topics)
    assert check_topics(client, Settings()) == []


def test_a_start_that_nobody_answers_ends_with_what_it_waited_for() -> None:
    client: Any = FakeClient(FakeCluster(4, topics=()))
    client.describe_topics = failing(client.describe_topics, 10**9)
    with pytest.raises(UnreachableError, match=r"kafka\.connect_timeout_s=0\.05"):
        check_topics(client, Settings(kafka=KafkaSettings(connect_timeout_s=0.05)))
