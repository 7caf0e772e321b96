"""The port to Kafka: all that the worker asks of a client.

The adapters lie in folders that are named after their libraries; `worker.kafka.make_client` chooses one. No type of a
client library appears here. Unless a method says otherwise, calls come from the poll thread only, block for a bounded
time, and raise only `worker.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from worker.errors import UnreadableError, WorkerError
from worker.records import Headers, Record, TopicPartition

_BATCH_OVERHEAD_BYTES = 128  # record batch header (61 bytes) and the record's own lengths, rounded up


def num_name_bytes(name: str) -> int:
    """Length of a header's name in the log."""
    return len(name) if name.isascii() else len(name.encode(errors="surrogateescape"))


class Commit(NamedTuple):
    """A position in an input partition, with metadata that the next owner reads back."""

    offset: int
    """The next offset to consume."""
    metadata: str = ""


CommitOutcome = Callable[[WorkerError | None], None]
"""Takes what became of a commit: None where the group has taken it. Must not raise."""


class Membership(NamedTuple):
    """A member's place in one generation of a group. A commit that names it is refused once the group has moved on."""

    group_id: str
    generation: int
    member_id: str
    instance_id: str | None


class Contact(NamedTuple):
    """Whether the brokers are heard of."""

    heard_at: float
    """Monotonic seconds when one has last answered anything; before that, when we began to ask."""
    num_failed: int
    """Requests so far that were not answered."""


class TopicDescription(NamedTuple):
    """The cluster's description of a topic."""

    num_partitions: int
    max_message_bytes: int
    """Largest record batch the topic takes; the client's default where the broker cannot be asked."""
    topic_id: str = ""
    """Id that tells it from others of its name, as Kafka's own tools write it; empty where the cluster gives
    topics no ids."""
    replication: int | None = None
    """Copies of each partition, the fewest of any; None where it is not known."""
    configuration: Mapping[str, str] | None = None
    """Configuration in force, defaults of the broker included; None where the broker cannot be asked."""


class TopicLook(NamedTuple):
    """The result of a look at a topic."""

    num_partitions: int
    topic_id: str = ""
    """Topic id, as in `TopicDescription`."""


class Receipt(Protocol):
    """Told the fate of a record. Called on the client's own thread: it must only take note and return."""

    def acknowledged(self, offset: int, count: int = 1) -> None:
        """It, and `count - 1` more of the same receipt before it, are in the log, the last of them at `offset`."""
        ...

    def failed(self, error: WorkerError) -> None: ...


class Outbound(NamedTuple):
    """One record to send."""

    topic: str
    partition: int | None
    """None: chosen by the key."""
    key: bytes | None
    value: bytes | None
    headers: Headers
    receipt: Receipt

    def num_bytes(self) -> int:
        """Size in the log, or a little more."""
        num_bytes = len(self.key or b"") + len(self.value or b"") + _BATCH_OVERHEAD_BYTES
        if self.headers:
            num_bytes += sum(num_name_bytes(name) + len(value or b"") + 10 for name, value in self.headers)
        return num_bytes


class PartitionListener(Protocol):
    """Told of partitions that come and go. Called while `poll` or `close` blocks, possibly on the client's thread:
    it must not call the client."""

    def assigned(self, partitions: Collection[TopicPartition]) -> None: ...

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        """Finish or abandon work on the partitions, and return what to commit before they are given away."""
        ...

    def lost(self, partitions: Collection[TopicPartition]) -> None:
        """They belong to somebody else already: nothing of them may be committed or published."""
        ...


class Lease(Protocol):
    """Whether this process may still write for its partitions. Asked on the client's thread before every request."""

    def is_valid(self) -> bool: ...


class ConsumerPort(Protocol):
    def subscribe(self, topics: Sequence[str], listener: PartitionListener) -> None: ...

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]: ...

    def unreadable(self) -> Sequence[UnreadableError]:
        """The partitions that the polls since the last call could not read on. They are paused; resumed, they are read
        from the same place again."""
        ...

    def is_stable(self) -> bool:
        """Whether this member has joined and no rebalance runs, as far as it knows. Any thread."""
        ...

    def membership(self) -> Membership | None:
        """The place in the group that the partitions of the last poll are held by; None while there is none or it is
        just changing. Asked for right after a poll: later it may be another one."""
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None: ...
    def resume(self, partitions: Collection[TopicPartition]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def beginning(self, partition: TopicPartition) -> int:
        """The first offset that the log of a partition still has."""
        ...

    def position(self, partition: TopicPartition) -> int | None:
        """The next offset that a poll may return. None while that is not known."""
        ...

    def log_start(self, partition: TopicPartition) -> int | None:
        """The first offset that the log of a partition still had at the last fetch. None before there was one."""
        ...

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        """The group's commits; partitions without one are missing."""
        ...

    def commit(self, commits: Mapping[TopicPartition, Commit], on_outcome: CommitOutcome) -> None:
        """Send a commit. What becomes of it is told once, before this returns, by a later poll or by `await_commits`:
        `NotMemberError` when the group no longer counts this member, `FencedError` when another process has its
        identity, `CallTimeoutError` when it has taken too long and may still be taken."""
        ...

    def await_commits(self) -> None:
        """Wait until what became of all commits has been told, for a bounded time. Nothing is handed over meanwhile,
        and nothing lost."""
        ...

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Offsets between the position and the end of the log, from what is known locally."""
        ...

    def contact(self) -> Contact:
        """Polls tell nothing of brokers that do not answer: this does. Any thread; never waits."""
        ...

    def heard_of(self, partition: TopicPartition) -> float | None:
        """Monotonic seconds when a broker has last said what there is of a partition that is not paused; None before
        the first time. Any thread; never waits."""
        ...

    def num_partitions(self, topic: str) -> int | None:
        """Number of partitions, as far as it is known locally; None before that. Never waits."""
        ...

    def close(self, timeout_s: float) -> None:
        """Commit what the listener returns, and leave the group; with `kafka.leave_group` false, stay until the session
        ends or the name comes back."""
        ...

    def leave(self, timeout_s: float) -> None:
        """Take this member out of its group by a connection of its own, even while another call of it is stuck. Any
        thread. Nothing may be asked of it afterwards; raises when it does not come to it in time."""
        ...


class ProducerPort(Protocol):
    """Safe to call from one thread beside the poll thread."""

    def send(self, outbound: Sequence[Outbound]) -> None:
        """Queue records; those of one partition keep their order. The fate of each reaches its receipt exactly once.

        What is known to fail at once is raised instead: then all or some of them are not queued, and hear nothing.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Records not acknowledged by then are failed."""
        ...


class TransactionalProducerPort(ProducerPort, Protocol):
    """A producer whose records count together or not at all. For one thread, but for `close`.

    After any error it must be closed, and a new one be made: whether the last transaction counts is then known only
    by the commits of the group.
    """

    def begin(self) -> None: ...

    def commit(self, commits: Mapping[TopicPartition, Commit], membership: Membership) -> None:
        """Make what was sent since `begin` count, and the commits of the group with it.

        All of it must have been acknowledged. Raises `NotMemberError` when the group has moved on, `ReplacedError` when
        there is a newer producer with the same id or the transaction has timed out, `CallTimeoutError` when nobody
        answers.
        """
        ...


class PartitionReader(Protocol):
    """Looks at single partitions, outside any group. For one thread; `timeout_s` bounds the wait for each step.

    What belongs to a transaction is seen once that is committed, and reading waits for those that are open.
    """

    def beginning(self, partition: TopicPartition, timeout_s: float) -> int:
        """The first offset that the log still has."""
        ...

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        """The offset that the next record will get, whatever transactions are open."""
        ...

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[Sequence[Record]]:
        """The records from `start` (None: the beginning) to the present end, in groups as they come, as soon as all
        transactions before it have ended. One partition at a time.

        Begins `at_least_last` offsets before the end if `start` is later than that. A start that the log no longer has
        means its beginning. Raises `UnreadableError` behind the last record that can be read.
        """
        ...

    def unreadable(self, partition: TopicPartition, offset: int, timeout_s: float) -> UnreadableError | None:
        """Find what keeps the partition from being read from `offset` on, whether or not it is left out; None where
        nothing does. In the error, the bytes of the batch and where the next one begins, as far as they can be had."""
        ...

    def close(self) -> None: ...


class TopicsPort(Protocol):
    """Looks at topics again and again, through a connection that it keeps. For one thread."""

    def look(self, names: Collection[str]) -> Mapping[str, TopicLook]:
        """Existing ones among `names`, as the cluster has them now. Creates none."""
        ...

    def close(self) -> None: ...


class TopicFollower(Protocol):
    """Follows all partitions of a topic from their beginning, outside any group; sees transactions once they are
    committed. For one thread."""

    def poll(self, timeout_ms: int) -> Sequence[Record]:
        """The next records, in order within a partition; none when there are none in time."""
        ...

    def num_behind(self) -> int:
        """Offsets up to where the topic ended when the reader was made, or last looked. Partitions that cannot be read
        on count as read."""
        ...

    def unreadable(self) -> Sequence[UnreadableError]:
        """The partitions that cannot be read on at present. Now and then it is tried again."""
        ...

    def look_again(self) -> None:
        """Note where the topic ends now."""
        ...

    def close(self) -> None: ...


class ClientPort(Protocol):
    """Makes the parts of one client library, all with the same connection settings."""

    def connect(self) -> None:
        """Wait until a broker answers and accepts us.

        Raises `UnreachableError` after `kafka.connect_timeout_s`, `AccessError` at once when credentials or TLS are
        refused. Nothing else may be called before.
        """
        ...

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        """Existing ones among `names`. Creates none."""
        ...

    def num_brokers(self) -> int:
        """How many brokers the cluster has now."""
        ...

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        """Make topics with these configurations. One that exists already is left as it is.

        Raises `TopicError` for what the cluster refuses, and `AccessError` for what it forbids us: then those that it
        has no objection to are made all the same.
        """
        ...

    def configure_topics(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Set these keys of existing topics, and no others. Raises as `create_topics` does."""
        ...

    def consumer(self, group_id: str) -> ConsumerPort: ...
    def producer(self, lease: Lease | None = None) -> ProducerPort:
        """Its batches are no larger than the topics described before take."""
        ...

    def transactional_producer(self, transactional_id: str, timeout_ms: int) -> TransactionalProducerPort:
        """Ends what an earlier producer with this id has left open, and shuts that one out.

        Raises `ConfigError` for what the broker cannot do, `AccessError` for an id that it forbids to us.
        """
        ...

    def reader(self, topic: str) -> TopicFollower:
        """Any thread."""
        ...

    def log(self) -> PartitionReader:
        """Any thread. Connects when it is first asked for something."""
        ...

    def topics(self) -> TopicsPort:
        """Any thread. Connects when it is first asked for something."""
        ...

    def group_commits(self, group_id: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        """The commits of a group, looked at from outside; partitions without one are missing. Any thread."""
        ...

    def leave_out(self, partition: TopicPartition, first: int, until: int) -> None:
        """Have all readers of this group's name pass over the offsets from `first` up to, and without, `until`, where
        they cannot read them. Any thread."""
        ...

    def reachable(self) -> bool:
        """Whether some broker accepts a connection right now. Any thread."""
        ...
