"""Content of the status page and of `/status.json`: plain values, put together by `StatusBoard`.

The board replaces its `Status` as a whole; the HTTP threads only read the last one.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from worker.partitions.state import PartitionState


class ProcessState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Mode(StrEnum):
    """Mode of batches: closed soon, or filled."""

    LIVE = "live"
    BACKLOG = "backlog"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Tone(StrEnum):
    """How grave something is, and its colour."""

    WARN = "warn"
    BAD = "bad"


class Concern(_Part):
    """A matter that somebody ought to know of."""

    kind: str
    """Stays the same while the figures in the texts change."""
    tone: Tone
    title: str
    detail: str


class WarningStatus(_Part):
    """A line of the log."""

    at_ms: int
    """When it came last."""
    level: str
    text: str
    count: int
    """How often it came, but for the numbers in it."""


class History(_Part):
    """Points in time, oldest first."""

    at_ms: list[int]
    per_second: list[float]
    """Latency of what was published since the point before."""
    lag: list[int | None]


class PartitionStatus(_Part):
    partition: int
    state: PartitionState
    position: int | None
    committed: int | None
    lag: int | None
    """Records between the committed offset and the end of the log."""
    detail: str = ""
    """Why the partition is stopped, or how far it has been restored."""


class DeadLetterStatus(_Part):
    at_ms: int
    partition: int
    offset: int
    reason: str
    detail: str


class IncidentStatus(_Part):
    """Something that a person should know of, and that is over."""

    at_ms: int
    kind: str
    """expired | new_log | key_in_two_partitions | partitioners"""
    detail: str


class AccountingStatus(_Part):
    consumed: int
    published: int
    superseded: int
    dead_lettered: int
    abandoned: int
    in_flight: int


class EncoderStatus(_Part):
    """Counts of the raw content of one modality since the start."""

    modality: str
    encoder: str
    encoded: int
    reused: int
    """Not encoded, because it was encoded before."""
    refused: int
    ms_each: float | None
    """Milliseconds of the encoder per content encoded."""
    server: str = ""
    """How it is with the server that encodes, if it is one."""


class VectorCheckStatus(_Part):
    """What a check says of the last vectors before they were published."""

    check: str
    value: float
    limit: float
    is_ill: bool
    detail: str


class BackfillStatus(_Part):
    """Of the partitions of this process: how far the next space has been brought."""

    space_id: str
    topic: str
    partitions: int
    complete: int
    """Partitions of which it has everything."""
    done: int
    """Published by the backfill since the process has had the next space."""
    left: int
    missing: int
    """Without a vector in it, although they have one in the live space."""
    examples: list[str]
    """Some of them, and why."""
    per_second: float
    eta_s: float | None
    failure: str = ""
    vector_health: list[VectorCheckStatus] = []
    """What each check says of its last vectors."""


class GroupStatus(_Part):
    """Of all workers of a role, as their commits say."""

    partitions: int
    complete: int
    left: int
    missing: int


class RolloutStatus(_Part):
    """Where the rollout stands that the control topic tells of."""

    phase: str
    """stable | moving | switched"""
    readers: str
    """The id of the space that readers read."""
    next: str | None
    """The id of the space that is moved to."""
    failure: str
    swap_waits: str = ""
    """What a swap to another space waits for here."""
    objections: list[str] = []
    """What keeps the cutover shut, until there has been one; what has failed, after one or a swap."""
    groups: dict[str, GroupStatus]
    """By role."""


class RoleStatus(_Part):
    role: str
    """items | users"""
    group_id: str
    group_stable: bool
    topics: dict[str, str]
    mode: Mode
    partitions: list[PartitionStatus]
    accounting: AccountingStatus
    per_second: float
    """Records whose output is acknowledged, per second, over the last 10 s."""
    mean_per_second: float = 0.0
    """The same since the process started."""
    history: History = History(at_ms=[], per_second=[], lag=[])
    """History of the last half hour, whoever has looked at it."""
    concerns: list[Concern] = []
    """The gravest first."""
    latency_ms: dict[str, float | None]
    """p50 and p99 from append to acknowledgement, over the last 60 s; bucket-interpolated."""
    freshness_ms: dict[str, float | None]
    """The same from event time."""
    batch_fill: float
    batch_max_records: int
    queue_records: int
    queue_limit: int
    unacknowledged: int
    transactions: dict[str, float | None] = {}
    """With `exactly_once`: committed, aborted, and p50_ms and p99_ms of those of the last 60 s; else empty."""
    state: dict[str, int]
    """Size of the state: values, bytes, and what the role has besides."""
    dead_letters: list[DeadLetterStatus]
    """The most recent ones, newest first."""
    incidents: list[IncidentStatus] = []
    """Records lost unseen, logs that are others than before, keys in two partitions: the most recent ones, newest
    first."""
    unreadable: list[str] = []
    """Batches that cannot be read, of whatever topic, with where they lie and what to do."""
    encoders: list[EncoderStatus] = []
    """None: raw content is refused."""
    vector_health: list[VectorCheckStatus] = []
    """None before the first 334 vectors."""
    backfill: BackfillStatus | None = None
    """While another space is published beside the live one."""


class Status(_Part):
    version: str
    state: ProcessState
    detail: str = ""
    started_at_ms: int
    now_ms: int
    delivery: str
    space: dict[str, str | int | list[str]]
    device: dict[str, str]
    """device_requested, device_active, dtype_requested, dtype_active."""
    roles: list[RoleStatus]
    rollout: RolloutStatus | None = None
    """None: there has been none."""
    warnings: list[WarningStatus] = []
    """The last ones of the log, newest first."""

    def role(self, name: str) -> RoleStatus:
        return next(role for role in self.roles if role.role == name)
