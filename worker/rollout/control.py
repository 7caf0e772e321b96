"""The control topic: one record for each group, the last of which says where its rollout stands; beside it one where a
worker could not go on, and one for each process that has judged vectors of the next space.

Every worker, sink and `recommend` reads it; the command writes the plan, and a worker what has failed, and
what it has found of the vectors. A cluster
without the topic has had no rollout.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from worker.errors import AccessError, CallTimeoutError, ClientError, RolloutError, WorkerError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Outbound, TopicFollower, TopicsPort
from worker.kafka.whole_topic import describe, read_whole
from worker.records import Record
from worker.rollout.health import ProcessHealth
from worker.rollout.plan import Failure, Plan, PlannedSpace, Standing
from worker.settings import Settings

log = logging.getLogger(__name__)

SETTING = "topics.rollouts"
CONFIGURATION = {"cleanup.policy": "compact", "delete.retention.ms": "86400000"}
LOOK_S = 2.0
RETRY_S = 1.0
POLL_TIMEOUT_MS = 200
WRITE_TIMEOUT_S = 30.0
_FAILED = "/failed"
_HEALTH = "/health/"


class Board:
    """What has been read of one group. One thread."""

    def __init__(self, group_id: str) -> None:
        self._key = group_id.encode()
        self._failed_key = (group_id + _FAILED).encode()
        self._health_key = (group_id + _HEALTH).encode()
        self._plan: Plan | None = None
        self._failure: Failure | None = None
        self.health: Mapping[str, ProcessHealth] = {}
        """By process. Replaced whole, so any thread may read it."""

    def take(self, records: Iterable[Record]) -> Standing:
        """Where it stands after these. Raises `RolloutError` for a record of ours that cannot be read."""
        for record in records:
            if record.key == self._key:
                self._plan = None if record.value is None else Plan.decode(record.value)
            elif record.key == self._failed_key:
                self._failure = None if record.value is None else Failure.decode(record.value)
            elif record.key is not None and record.key.startswith(self._health_key):
                self._take_health(record.key[len(self._health_key) :].decode(errors="replace"), record.value)
        failure = self._failure
        return Standing(self._plan, failure.detail if failure is not None and failure.concerns(self._plan) else "")

    def _take_health(self, process: str, value: bytes | None) -> None:
        others = {name: each for name, each in self.health.items() if name != process}
        self.health = others if value is None else {**others, process: ProcessHealth.decode(value)}


def read_standing(client: ClientPort, settings: Settings) -> Standing:
    """As the topic has it now."""
    return read_board(client, settings)[0]


def read_board(client: ClientPort, settings: Settings) -> tuple[Standing, Mapping[str, ProcessHealth]]:
    """The same, and what each process has found of the vectors."""
    topic, board = settings.topics.rollouts, Board(settings.kafka.group_id)
    if describe(client, topic) is None:
        return Standing(), {}
    return board.take(read_whole(client, topic, SETTING)), board.health


def standing_if_allowed(client: ClientPort, settings: Settings) -> Standing:
    """`read_standing`, for a process that publishes or reads one space where its user may not see the topic.

    No rollout reaches it then, and the cutover of one stays shut for want of its partitions.
    """
    try:
        return read_standing(client, settings)
    except AccessError as error:
        _tell_forbidden(settings, error)
        return Standing()


def _tell_forbidden(settings: Settings, error: AccessError) -> None:
    log.warning(
        "%s: no rollout reaches this process: let its user describe, read and write topic %r (%s)",
        SETTING,
        settings.topics.rollouts,
        error.one_line(),
        extra={"action": "control_forbidden"},
    )


def settings_of(settings: Settings, space: PlannedSpace) -> Settings:
    """With this space, and the topics of its vectors."""
    names = {"item_vectors": space.item_vectors, "user_vectors": space.user_vectors}
    changes = {
        "topics": settings.topics.model_copy(update=names),
        "space": settings.space.model_copy(update={"path": Path(space.path)}),
    }
    return settings.model_copy(update=changes)


class ControlFollower:
    """Follows the topic, which may not be there yet, or be forbidden. One thread."""

    def __init__(self, client: ClientPort, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._topic = settings.topics.rollouts
        self._is_forbidden = False
        self._board = Board(settings.kafka.group_id)
        self._topics: TopicsPort | None = None
        self._reader: TopicFollower | None = None
        self._next_look = 0.0
        self.standing = Standing()
        """As of the last step; before the topic has been read to its end, as far as it has been. Any thread."""
        self.is_read = False
        """Whether all has been read that was there at the start, or there is no such topic."""

    @property
    def health(self) -> Collection[ProcessHealth]:
        """What processes have found of the vectors of a next space, as of the last step. Any thread."""
        return self._board.health.values()

    def step(self, timeout_ms: int = POLL_TIMEOUT_MS) -> Standing:
        """Read on; returns after a moment when there is nothing. Raises `RolloutError` for a record of our group that
        cannot be read."""
        try:
            if self._reader is None and not self._is_there():
                time.sleep(timeout_ms / 1000)
                return self.standing
            if self._reader is None:
                self._reader = self._client.reader(self._topic)
            if records := self._reader.poll(timeout_ms):
                self.standing = self._board.take(records)
            self.is_read = self.is_read or self._reader.num_behind() == 0
            self._is_forbidden = False
        except AccessError as error:
            if not self._is_forbidden:
                _tell_forbidden(self._settings, error)
            self._is_forbidden = True
            time.sleep(RETRY_S)
        except (ClientError, CallTimeoutError) as error:
            log.debug("%s", error.one_line(), extra={"action": "control_failed"})
            time.sleep(RETRY_S)
        return self.standing

    def _is_there(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_S
        self._topics = self._topics or self._client.topics()
        found = self._topic in self._topics.look([self._topic])
        self.is_read = self.is_read or not found
        return found

    def close(self) -> None:
        for each in (self._reader, self._topics):
            if each is not None:
                each.close()


def write_plan(client: ClientPort, settings: Settings, plan: Plan) -> None:
    """Returns once the record is in the log, and is the last of its group. Raises `RolloutError` where somebody else
    has made a step meanwhile."""
    group_id = settings.kafka.group_id
    _write(client, settings, group_id, plan.encode())
    found = read_standing(client, settings).plan
    if found != plan:
        raise RolloutError("somebody else has made a step of this rollout at the same time: see `space rollout status`")


def write_failure(client: ClientPort, settings: Settings, failure: Failure) -> None:
    _write(client, settings, settings.kafka.group_id + _FAILED, failure.encode())


def write_health(client: ClientPort, settings: Settings, process: str, health: ProcessHealth) -> None:
    _write(client, settings, settings.kafka.group_id + _HEALTH + process, health.encode())


def forget_health(client: ClientPort, settings: Settings, processes: Iterable[str]) -> None:
    """Their rollout is over."""
    for process in processes:
        _write(client, settings, settings.kafka.group_id + _HEALTH + process, None)


def _write(client: ClientPort, settings: Settings, key: str, value: bytes | None) -> None:
    producer = patiently("opening a producer", client.producer, *patience(settings.kafka))
    written = _Written()
    try:
        producer.send([Outbound(settings.topics.rollouts, None, key.encode(), value, (), written)])
        written.wait()
    finally:
        producer.close(1.0)


class _Written:
    """The receipt of one record."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error: WorkerError | None = None

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self._done.set()

    def failed(self, error: WorkerError) -> None:
        self._error = error
        self._done.set()

    def wait(self) -> None:
        if not self._done.wait(WRITE_TIMEOUT_S):
            raise CallTimeoutError("the control record is not acknowledged")
        if self._error is not None:
            raise self._error
