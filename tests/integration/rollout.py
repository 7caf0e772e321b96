"""A rollout of a stream to another space, by the steps of the command, and what its topics hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import ItemVector, UserVector, decode
from tests.brokers import read_topic
from tests.integration.stream import PATIENCE_S, Stream
from tests.verifier.replay import Replay
from tests.worker_process import as_text
from worker.align import Space
from worker.kafka import make_client
from worker.rollout import steps
from worker.rollout.plan import topic_of
from worker.settings import Settings, load

TOLERANCE = 2e-3  # of float16 on the wire, and of users in a table of it


class Rollout:
    """Of the space of a stream to the one in `path`."""

    def __init__(self, stream: Stream, path: Path, roles: str = "items") -> None:
        self.stream = stream
        self.path = path
        self.space = Space.load(path)
        texts = {name: as_text(value) for name, value in stream.settings({"roles": roles}).items()}
        self.settings: Settings = load(texts)
        self.client = make_client(self.settings.kafka)
        self.client.connect()
        self._is_made = False

    @property
    def vectors(self) -> str:
        """The topic of the next space's item vectors."""
        return topic_of(self.stream.vectors, self.space.space_id)

    @property
    def user_vectors(self) -> str:
        return topic_of(self.stream.topics["user_vectors"], self.space.space_id)

    def begin(self) -> None:
        if self.stream.broker.kind == "embedded" and not self._is_made:  # it makes no topics for clients
            control = self.settings.topics.rollouts
            counts = dict.fromkeys((self.vectors, self.user_vectors), self.stream.num_partitions)
            if control not in self.client.describe_topics([control]):
                counts[control] = 1
            self.stream.broker.create_topics(counts)
            self._is_made = True
        steps.begin(self.client, self.settings, self.path)

    def cut_over(self, accepted_missing: int = 0, *, accept_health: bool = True) -> None:
        """`accept_health`: most catalogues here are too small to be judged."""
        steps.cut_over(self.client, self.settings, accepted_missing, accept_health=accept_health)

    def roll_back(self) -> None:
        steps.roll_back(self.client, self.settings)

    def finish(self, *, abandon: bool = False) -> None:
        steps.finish(self.client, self.settings, abandon=abandon)

    def report(self) -> steps.Report:
        return steps.report(self.client, self.settings)

    def is_complete(self) -> bool:
        progress = self.report().progress
        return bool(progress) and all(each.is_complete for each in progress.values())

    def wait_complete(self, *workers: Any, timeout: float = PATIENCE_S) -> None:
        self.until(self.is_complete, *workers, timeout=timeout)

    def until(self, condition: Callable[[], bool], *workers: Any, timeout: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            for worker in workers:
                worker.require_alive()
            told = [worker.status.rollout for worker in workers]
            assert time.monotonic() < deadline, f"not as expected after {timeout:g} s: {self.report()}, {told}"
            time.sleep(0.1)

    def replay(self, space: Space) -> Replay:
        events = self.stream.topics["events"]
        described = self.client.describe_topics([events])
        read = read_topic(self.stream.broker.options, events) if events in described else ()
        return Replay(space, self.stream.input_records(), read)

    def final(self, topic: str, space: Space, kind: Any = ItemVector) -> dict[str, NDArray[np.float32]]:
        """The last vector of each key that has one; all that the topic has ever held are of the space."""
        found: dict[str, NDArray[np.float32]] = {}
        for record in read_topic(self.stream.broker.options, topic):
            if record.value is None:
                found.pop(record.key.decode(), None)
                continue
            vector = decode(kind, record.value)
            assert vector.space_id == space.space_id, "no reader ever sees two spaces in one topic"
            found[record.key.decode()] = vector.vector.to_numpy().astype(np.float32)
        return found

    def require_replayed(self) -> None:
        """Both spaces hold what the logs lead to."""
        for topic, space in ((self.stream.vectors, self.stream.space), (self.vectors, self.space)):
            require_equal(self.final(topic, space), self.replay(space).items)
        if "users" in self.settings.roles:
            for topic, space in (
                (self.stream.topics["user_vectors"], self.stream.space),
                (self.user_vectors, self.space),
            ):
                require_equal(self.final(topic, space, UserVector), self.replay(space).users())


def require_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys(), (sorted(found.keys() ^ expected.keys())[:10], len(found), len(expected))
    worst = max((float(np.abs(found[key] - expected[key]).max()) for key in expected), default=0.0)
    assert worst < TOLERANCE, worst
