"""A sink as a process: store, loop, watchdog, metrics and probes put together, until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from prometheus_client import CollectorRegistry

from worker import __version__
from worker.errors import StoreError, WorkerError
from worker.kafka import make_client
from worker.kafka.port import ClientPort
from worker.monitoring.health import Health
from worker.monitoring.http import HttpServer
from worker.monitoring.metrics import ByRole, Metrics, ProcessMetrics
from worker.monitoring.status import ProcessState, Status
from worker.monitoring.watchdog import Vitals, Watchdog
from worker.rollout.control import ControlFollower, standing_if_allowed
from worker.rollout.plan import PlannedSpace, Standing
from worker.settings import Settings
from worker.sink.batch import Pending
from worker.sink.loop import Input, SinkLoop, StopEvent, find_inputs
from worker.sink.metrics import SinkMetrics
from worker.sink.port import Store
from worker.sink.row import Entity
from worker.sink.writer import LetterFormat, Writer

log = logging.getLogger(__name__)

RED_BEFORE_EXIT_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
SWITCH_INTERVAL_S = 0.001
MAX_WAITING_BATCHES = 4


class SinkService:
    """Runs one sink. `exit_process` is what the watchdog calls, from its own thread, when nothing moves."""

    def __init__(
        self,
        settings: Settings,
        kind: str,
        store: Store,
        client: ClientPort | None = None,
        *,
        until_caught_up: bool = False,
        exit_process: Callable[[int], None] = os._exit,
        followed: Settings | None = None,
    ) -> None:
        """`followed`: settings of the workers whose rollouts are followed; None: those of the sink alone say what is
        read."""
        self.settings = settings
        self._followed = followed
        self._standing = Standing()
        self._is_other = threading.Event()
        self._kind = kind
        self._store = store
        self._until_caught_up = until_caught_up
        self._exit_process = exit_process
        self.client = client or make_client(settings.kafka)
        self.health = Health(("sink",))
        self.registry = CollectorRegistry()
        self.process_metrics = ProcessMetrics(self.registry)
        self.sink_metrics = SinkMetrics(self.registry)
        topics: dict[Entity, str] = {"items": settings.topics.item_vectors, "users": settings.topics.user_vectors}
        self.metrics = {
            entity: Metrics(CollectorRegistry(), topic)
            for entity, topic in topics.items()
            if entity in settings.sink.vectors
        }
        self.registry.register(ByRole({entity: metrics.registry for entity, metrics in self.metrics.items()}))
        self._started_at_ms = time.time_ns() // 1_000_000
        self._state, self._detail = ProcessState.STARTING, ""
        self.http = HttpServer(
            settings.http.host, settings.http.port, self.registry, self.health, self.status,
            allowed_hosts=settings.http.allowed_hosts,
        )  # fmt: skip
        self.loop: SinkLoop | None = None
        self.is_caught_up = False

    def status(self) -> Status:
        return Status(
            version=__version__, state=self._state, detail=self._detail, started_at_ms=self._started_at_ms,
            now_ms=time.time_ns() // 1_000_000, delivery="written only if newer", space={"sink": self._kind},
            device={}, roles=[],
        )  # fmt: skip

    def run(self, stop: StopEvent, on_running: Callable[[], None] = lambda: None) -> None:
        """Raises the `WorkerError` that ends the process."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.http.start()
        log.info("serving metrics and status at %s", self.http.address, extra={"action": "http"})
        try:
            self._run(stop, on_running)
            self._state = ProcessState.STOPPED
        except Exception as error:
            self._detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
            self._state = ProcessState.FAILED
            self.health.dead(self._detail)
            time.sleep(RED_BEFORE_EXIT_S)
            raise
        finally:
            self.http.close()

    def _run(self, stop: StopEvent, on_running: Callable[[], None]) -> None:
        self.client.connect()
        if self._followed is not None:
            self._standing = standing_if_allowed(self.client, self._followed)
        find_inputs(self.client, self.settings, self._standing)  # what is missing is told before the index is asked for
        with closing(self._store):
            if not self._connect(stop):
                return
            with self._following():
                while True:
                    self._is_other.clear()
                    self._run_loop(find_inputs(self.client, self.settings, self._standing), stop, on_running)
                    if not self._is_other.is_set() or stop.is_set() or self.is_caught_up:
                        return
                    log.info("other topics are published: reading these", extra={"action": "rollout"})
                    self.health.begin_again()

    def _run_loop(self, inputs: Sequence[Input], stop: StopEvent, on_running: Callable[[], None]) -> None:
        settings = self.settings
        pending = Pending(settings.sink.max_records, MAX_WAITING_BATCHES)
        letters = LetterFormat(settings.topics.dead_letters, f"sink {self._kind}")
        writer = Writer(self._store, pending, self.client, letters, self.sink_metrics)
        self.loop = loop = SinkLoop(
            settings, self.client, settings.kafka.group_id, inputs, pending, writer, self.metrics
        )
        watchdog = Watchdog(
            settings.watchdog,
            self.health,
            lambda: Vitals(
                {"poll": loop.polled_at, "write": writer.moved_at if writer.is_alive else time.monotonic()},
                loop.is_stable, self.client.reachable,
            ),
            self._exit_process,
            self.process_metrics.watchdog.set,
        )  # fmt: skip
        self.health.started()
        self._state = ProcessState.RUNNING
        on_running()
        writer.start()
        watchdog.start()
        try:
            loop.run(
                _Draining((stop, self._is_other), self._drain),
                lambda: self.health.joined("sink"),
                until_caught_up=self._until_caught_up,
            )
            self.is_caught_up = loop.is_caught_up
        finally:
            watchdog.stop()

    @contextmanager
    def _following(self) -> Iterator[None]:
        """See meanwhile when another set of topics is published."""
        if self._followed is None:
            yield
            return
        ends = threading.Event()
        thread = threading.Thread(target=self._follow, args=(self._followed, ends), name="rollout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join(LONGEST_PAUSE_S)

    def _follow(self, followed: Settings, ends: threading.Event) -> None:
        with closing(ControlFollower(self.client, followed)) as follower:
            while not ends.is_set():
                self._follow_on(follower, ends)

    def _follow_on(self, follower: ControlFollower, ends: threading.Event) -> None:
        try:
            standing = follower.step()
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "rollout_failed"})
            ends.wait(LONGEST_PAUSE_S)
            return
        if follower.is_read and _published(standing) != _published(self._standing):
            self._standing = standing
            self._is_other.set()

    def _drain(self) -> None:
        self._state = ProcessState.DRAINING
        self.health.draining()

    def _connect(self, stop: StopEvent) -> bool:
        """Wait for the index, as for a broker. False: told to stop before."""
        deadline, pause_s = time.monotonic() + self.settings.sink.connect_timeout_s, FIRST_PAUSE_S
        while True:
            try:
                self._store.connect()
                return True
            except StoreError as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                log.warning("%s; trying again", error.one_line(), extra={"action": "connect_failed"})
            until = time.monotonic() + pause_s
            while time.monotonic() < until:
                if stop.is_set():
                    return False
                time.sleep(0.05)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


def _published(standing: Standing) -> tuple[PlannedSpace | None, PlannedSpace | None]:
    return None if standing.plan is None else standing.plan.primary, standing.published_beside


class _Draining:
    """The events that ask to stop; says so when one is first seen."""

    def __init__(self, stops: Sequence[StopEvent], on_set: Callable[[], None]) -> None:
        self._stops, self._on_set = stops, on_set

    def is_set(self) -> bool:
        if any(stop.is_set() for stop in self._stops):
            self._on_set()
            return True
        return False
