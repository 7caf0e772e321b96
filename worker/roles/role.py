"""The port between the loop and a half of the worker. Everything that tells items from users is behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from worker.errors import UnreadableError
from worker.item_vectors.dependents import Dependents
from worker.kafka.port import PartitionReader
from worker.monitoring.metrics import Metrics
from worker.partitions.tenure import Tenure
from worker.records import Decoded, Entry, Notice, Record, State
from worker.stages.decode import DecodedRecords
from worker.stages.encode import EncodeStage
from worker.stages.fuse import Embedder, OutputFormat
from worker.stages.stage import Stage, Watched
from worker.state.overlay import StateOverlay
from worker.topics import RoleTopics
from worker.vector_health import VectorWatch


class Role(Protocol):
    @property
    def topics(self) -> RoleTopics: ...
    @property
    def output(self) -> OutputFormat: ...
    @property
    def embedder(self) -> Embedder: ...
    @property
    def encoding(self) -> EncodeStage | None:
        """Where raw content becomes features before it is accepted; None where there is none."""
        ...

    @property
    def watch(self) -> VectorWatch | None:
        """Looks at vectors before they are published; None where none are made."""
        ...

    @property
    def recomputes_in_backlog(self) -> bool:
        """Whether what `newly_due` brings is computed while there is a backlog of the log, too, and not after it."""
        ...

    @property
    def stages(self) -> Sequence[Stage]:
        """Threads of its own."""
        ...

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        """Poll thread."""
        ...

    def accept(self, entries: Sequence[Decoded], overlay: StateOverlay[Any]) -> list[Entry]:
        """Merge consecutive inputs into what is remembered; returns what is to be computed or counted. Poll thread."""
        ...

    def decode_state(self, value: bytes) -> State: ...

    def look_back(
        self, tenure: Tenure, overlay: StateOverlay[Any], log: PartitionReader, watched: Watched, *, is_whole: bool
    ) -> int:
        """Read what an earlier owner has published since its last commit (`is_whole`: ever); returns the greatest place
        (`InputLog.at`) of an input in it, or -1. Restore thread; raises what the client raises."""
        ...

    def restore_extra(self, tenure: Tenure, overlay: StateOverlay[Any], watched: Watched) -> Collection[str]:
        """Register who waits for item vectors, and whatever else there is to know, before a restored partition is
        worked on, now that it is settled where that begins; returns the ids that are to be computed anew. Restore
        thread; raises what the client raises."""
        ...

    @property
    def can_recompute_all(self) -> bool:
        """Whether everything remembered can be computed anew."""
        ...

    def recompute(self, keys: Collection[str], partition: int, overlay: StateOverlay[Any]) -> list[Entry]:
        """Entries that compute them anew. Poll thread."""
        ...

    def newly_due(self) -> Mapping[int, Collection[str]]:
        """Ids by partition that are to be computed anew because of something outside the log. Never waits."""
        ...

    def wait_in_next(self, dependents: Dependents | None) -> None:
        """From now on, who is made of items waits for those of the next space, too; None: no longer. Poll thread."""
        ...

    def forget(self, partition: int) -> None:
        """The partition has gone to another worker."""
        ...

    def is_ready(self) -> bool:
        """Whether it has all that it needs to work."""
        ...

    def is_up_to_date(self) -> bool:
        """Whether it knows what lies outside the log, as that was when this was first asked. Poll thread."""
        ...

    def notices(self) -> Sequence[Notice]:
        """Notices for a person since the last call. Poll thread."""
        ...

    def unreadable(self) -> Sequence[UnreadableError]:
        """Batches outside the log that cannot be read. Any thread."""
        ...

    def status(self) -> Mapping[str, int]:
        """Sizes of what it keeps besides its state, by a name for people."""
        ...

    def export(self, metrics: Metrics) -> None:
        """Set the gauges and counters that are its own."""
        ...

    def close(self) -> None: ...
