"""The whole loop of a role on a log in memory, run on a thread until a condition holds."""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

from prometheus_client import CollectorRegistry

from tests.fakes import FakeClient
from worker.kafka.port import Commit
from worker.loop.pipeline import Pipeline
from worker.monitoring.health import Health
from worker.monitoring.metrics import Metrics
from worker.roles.role import Role
from worker.settings import BatchSettings, CommitSettings, Settings, ShutdownSettings, TransactionSettings
from worker.state import Stores

SETTINGS = Settings(
    batch=BatchSettings(max_records=8, max_age_ms=1, queue_records=32),
    commit=CommitSettings(interval_ms=10),
    shutdown=ShutdownSettings(drain_timeout_s=5, revoke_timeout_s=1),
)


EXACTLY_ONCE = SETTINGS.model_copy(
    update={"delivery": "exactly_once", "transaction": TransactionSettings(id="me", interval_ms=5, max_records=64)}
)


class LoopHarness:
    def __init__(
        self,
        client: FakeClient,
        role: Role,
        stores: Stores | None = None,
        settings: Settings = SETTINGS,
        *,
        until_caught_up: bool = False,
    ) -> None:
        self.client, self.cluster = client, client.cluster
        self.role: Any = role  # tests look into what their kind of role has
        self.metrics = Metrics(CollectorRegistry(), role.topics.inputs)
        stores = stores or Stores(None, role.topics.state, role.topics.group_id)
        self.stores = stores
        self.pipeline = Pipeline(
            settings, self.client, role, stores, self.metrics, Health(), until_caught_up=until_caught_up
        )
        self.consumer = self.client.consumers[-1]
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.pipeline.run(self._stop)
        except BaseException as error:
            self.error = error
            self.pipeline.abort()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert self.error is None, self.error
            assert time.monotonic() < deadline, "the condition did not come true in 10 s"
            self._thread.join(0.002)

    def until_ended(self) -> None:
        """By itself."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def until_failed(self) -> BaseException:
        """By itself; returns what it failed with."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert self.error is not None
        return self.error

    def unreadable_offsets(self) -> dict[tuple[str, ...], float]:
        """What the metrics say, by topic, partition and fault."""
        (family,) = self.metrics.unreadable.collect()
        return {tuple(sample.labels.values()): sample.value for sample in family.samples}

    def until_committed(self) -> None:
        inputs = self.role.topics.inputs
        logs = {tp: len(records) for tp, records in self.cluster.log.items() if tp.topic == inputs and records}
        self.until(lambda: all(self.cluster.commits.get(tp, Commit(0)).offset == end for tp, end in logs.items()))
