"""The producers of a role, opened anew after a failure, and what the topics that they write to take."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable

from worker.errors import CallTimeoutError, ClientError, WorkerError
from worker.kafka.port import ClientPort
from worker.partitions.lease import MembershipLease
from worker.settings import Settings
from worker.stages.publish import OpenProducers, Publisher
from worker.topics import RoleTopics

log = logging.getLogger(__name__)

PRODUCER_CLOSE_S = 0.5
BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
LIMITS_RETRY_S = 15.0


class Producers:
    """Producers of the publisher. Poll thread."""

    def __init__(
        self, client: ClientPort, topics: RoleTopics, settings: Settings, lease: MembershipLease, publisher: Publisher
    ) -> None:
        self._client = client
        self._topics = topics
        self._settings = settings
        self._lease = lease
        self._publisher = publisher
        self._transactional_id = transactional_id(settings, topics.group_id)
        self._producers: OpenProducers | None = None
        self._reopen_at: float | None = None
        self._num_failures = 0
        self._num_partitions: dict[str, int] = {}
        self._limits_learned_at = 0.0
        self._are_limits_doubted = False
        self._others: dict[str, None] = {}

    @property
    def are_open(self) -> bool:
        return self._producers is not None

    def open_soon(self) -> None:
        """Open them now, or as soon as the brokers let us."""
        self._reopen_at = 0.0
        self.reopen_due(0.0)

    def open(self) -> None:
        """Raises what the client raises; nothing is open then."""
        if self._settings.delivery == "exactly_once":
            timeout_ms = self._settings.transaction.timeout_ms
            producer = self._client.transactional_producer(self._transactional_id, timeout_ms)
            self._use(OpenProducers(producer, producer, producer))
            return
        outputs = self._client.producer(self._lease)
        try:
            producers = OpenProducers(outputs, self._client.producer(self._lease))
        except WorkerError:
            outputs.close(PRODUCER_CLOSE_S)
            raise
        self._use(producers)

    def drop(self, reopen_at: float | None = None) -> None:
        """Throw the producers away. What they have not sent yet, they never will."""
        producers, self._producers = self._producers, None
        self._reopen_at = reopen_at
        self._publisher.use(None)
        if producers is not None:
            producers.close(PRODUCER_CLOSE_S)

    def reopen_due(self, now: float) -> None:
        if self._producers is not None or self._reopen_at is None or now < self._reopen_at:
            return
        try:
            self.open()
        except ClientError as error:
            self._reopen_at = time.monotonic() + self.failed()
            log.warning("%s", error.one_line(), extra={"action": "producer_failed"})

    def replace_for_dead_letters(self) -> None:
        """Only the producer of dead letters, which has refused one: the others are not to suffer for it."""
        if self._producers is None:
            return
        refused, outputs = self._producers.dead_letters, self._producers.outputs
        try:
            self._producers = OpenProducers(outputs, self._client.producer(self._lease))
        except ClientError as error:  # the old one fails the next dead letter, and we are here again
            log.warning("%s", error.one_line(), extra={"action": "producer_failed"})
            return
        self._publisher.use(self._producers)
        refused.close(PRODUCER_CLOSE_S)

    def _use(self, producers: OpenProducers) -> None:
        self._producers = producers
        self._publisher.use(producers)
        self._reopen_at = None

    # ------------------------------------------------------------------ failures in a row

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        self._num_failures += 1
        return backoff_s(self._num_failures)

    def succeeded(self) -> None:
        self._num_failures = 0

    # ------------------------------------------------------------------ topics

    def write_to(self, topic: str) -> None:
        """This topic is written to, as well."""
        self._others[topic] = None
        self.learn_limits()

    def learn_limits(self) -> None:
        """How large a record the topics take, and how many partitions they have. What is not known is not limited."""
        self._limits_learned_at = time.monotonic()
        topics = self._topics
        try:
            described = self._client.describe_topics([*topics.written, topics.dead_letters, *self._others])
        except (ClientError, CallTimeoutError) as error:
            log.warning("%s", error.one_line(), extra={"action": "limits_unknown"})
            self._are_limits_doubted = True
            return
        for name, description in described.items():
            self._publisher.limit(name, description.max_message_bytes)
            self._num_partitions[name] = description.num_partitions

    def doubt_limits(self) -> None:
        """A record was refused for what we know of its topic: by now somebody may have raised the limit."""
        self._are_limits_doubted = True

    def relearn_due(self, now: float) -> None:
        if self._are_limits_doubted and now >= self._limits_learned_at + LIMITS_RETRY_S:
            self._are_limits_doubted = False
            self.learn_limits()

    def num_partitions(self, topic: str, at_least: int) -> int | None:
        """Asked for again where fewer than `at_least` are known of; None: the topic could not be asked for."""
        if at_least > self._num_partitions.get(topic, 0):
            self.learn_limits()
        return self._num_partitions.get(topic)


def transactional_id(settings: Settings, group_id: str) -> str:
    """Transactional id of one role of this process: begins with the name of its group, so that one rule of access
    covers all."""
    return f"{group_id}-{settings.transaction.id or settings.kafka.group_instance_id or uuid.uuid4().hex}"


def backoff_s(num_failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Delay before try `num_failures`, doubling to a bound, with up to half of it random so that workers spread."""
    delay = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(num_failures - 1, 10))
    return delay * (1 - jitter() / 2)
