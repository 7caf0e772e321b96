"""The users half beside a stream of items: events in, user vectors out, and what they should be."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from numpy.typing import NDArray

from schemas import UserEvent, UserVector, decode, encode
from tests.brokers import Outgoing, log_ranges, read_topic
from tests.integration.stream import PATIENCE_S, Stream
from tests.verifier.replay import Replay

START_MS = 1_700_000_000_000


@dataclass
class UserStream:
    """The topics of the users role beside those of a stream, whose items they are about."""

    stream: Stream
    num_partitions: int = 2

    def create_topics(self) -> None:
        names = (self.events, self.vectors, self.stream.topics["user_state"])
        self.stream.broker.create_topics(dict.fromkeys(names, self.num_partitions))

    @property
    def events(self) -> str:
        return self.stream.topics["events"]

    @property
    def vectors(self) -> str:
        return self.stream.topics["user_vectors"]

    @property
    def group(self) -> str:
        return f"{self.stream.group}-users"

    def settings(self, roles: str = "items,users", changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.stream.settings({"roles": roles, "publish.vector_dtype": "f4", **(changes or {})})

    def event(self, user: str, item: str, at_ms: int, kind: str = "like", event_id: str | None = None) -> Outgoing:
        """`at_ms`: after `START_MS`."""
        made = UserEvent(
            event_id=event_id or f"{user}/{item}/{at_ms}", user_id=user, item_id=item, event_type=kind,
            event_time_ms=START_MS + at_ms,
        )  # fmt: skip
        return Outgoing(self.events, made.key, encode(made), zlib.crc32(made.key) % self.num_partitions)

    def feed(self, records: Iterable[Outgoing]) -> int:
        return self.stream.feed(records)

    def wait_committed(self, *workers: Any, timeout: float = PATIENCE_S) -> None:
        """Return when the users' group has come to the end of the events."""
        options = self.stream.broker.options
        ends = {number: log.end for number, log in log_ranges(options, self.events).items() if log.end > 0}
        deadline = time.monotonic() + timeout
        observer = KafkaConsumer(group_id=self.group, enable_auto_commit=False, **options)
        try:
            while True:
                with contextlib.suppress(KafkaError):
                    commits = {
                        number: observer.committed(TopicPartition(self.events, number), timeout_ms=5_000)
                        for number in ends
                    }
                    if commits == ends:
                        return
                for worker in workers:
                    worker.require_alive()
                assert time.monotonic() < deadline, f"committed {commits} of {ends} after {timeout:g} s"
                time.sleep(0.05)
        finally:
            observer.close(autocommit=False, timeout_ms=2_000)

    def published(self) -> dict[str, UserVector]:
        """The last vector of each user."""
        return {
            record.key.decode(): decode(UserVector, record.value)
            for record in read_topic(self.stream.broker.options, self.vectors)
        }

    def final(self) -> dict[str, NDArray[np.float32]]:
        return {user: vector.vector.to_numpy().astype(np.float32) for user, vector in self.published().items()}

    def replay(self) -> Replay:
        """What the logs lead to, computed without the worker."""
        options = self.stream.broker.options
        return Replay(
            self.stream.space,
            read_topic(options, self.stream.items),
            read_topic(options, self.events),
        )
