"""Every error this program raises on purpose.

    WorkerError                      ends the process; `exit_code` says how
    ├── ConfigError             2    a setting is wrong: the message names it
    ├── SpaceError              3    the space directory is missing, broken or not what was expected
    ├── TopicError              4    a topic is missing or cannot be used
    ├── AccessError             5    the broker refused who we are (credentials, TLS, authorisation)
    ├── UnreachableError        6    no broker answered in time
    ├── FencedError             7    another member took this one's identity
    ├── StalledError            8    a part of the process stopped moving
    ├── SystemicError           9    no record can be processed (no memory for a batch of one, …)
    ├── DataError              10    a file of items or events is missing, broken or not what was expected
    ├── StateError             11    the local store cannot be used
    ├── NotBetterError         12    a space that was to be better than all baselines is not
    ├── RefusedError           13    a run is over, and too much of its input was refused
    ├── StoreError             15    the index that a sink writes to cannot be reached, or fails
    ├── RolloutError           16    a step of a rollout cannot be made now, or its record cannot be read
    └── ClientError                  one call to the broker failed; `retriable` says whether to try again
        ├── CallTimeoutError    6      it did not answer within the call's deadline
        ├── NotMemberError             this member's place in the group is gone or moving
        ├── ReplacedError              a producer's place is taken: by another one, or because its transaction timed out
        ├── RecordTooLargeError        the broker or the client refuses a record of this size
        ├── NextSpaceError             an output of the next space cannot be written
        └── UnreadableError    14      a batch in a log cannot be read: its partition waits

Errors of the Kafka client are translated once, in `worker.kafka`; nothing else imports them. A record that cannot be
processed is not an error of the process: it is a `worker.records.Rejection`, a value.
"""

from __future__ import annotations

from worker.printable import printable


class WorkerError(Exception):
    """The worker cannot go on."""

    exit_code = 1

    def one_line(self) -> str:
        """The message on a single line, as it is logged and printed when the process ends. What strangers wrote into it
        cannot drive a terminal."""
        return printable(" ".join(str(self).split()))


class ConfigError(WorkerError):
    """A setting is wrong. The message names the setting and what to do."""

    exit_code = 2


class SpaceError(WorkerError):
    """The space directory is missing, broken, or not the one expected."""

    exit_code = 3


class TopicError(WorkerError):
    """A topic is missing or configured so that it cannot be used."""

    exit_code = 4


class AccessError(WorkerError):
    """The broker refused the connection: credentials, TLS or authorisation."""

    exit_code = 5


class UnreachableError(WorkerError):
    """No broker answered within the time allowed."""

    exit_code = 6


class FencedError(WorkerError):
    """Another process runs with this member's identity."""

    exit_code = 7


class StalledError(WorkerError):
    """A part of the process stopped moving, and a restart is the cure."""

    exit_code = 8


class SystemicError(WorkerError):
    """Nothing can be processed: going on would dead-letter the whole topic."""

    exit_code = 9


class DataError(WorkerError):
    """A file of data cannot be used. The message names the file, where in it, and what is wrong."""

    exit_code = 10


class StateError(WorkerError):
    """The local store cannot be read or written."""

    exit_code = 11


class NotBetterError(WorkerError):
    """An evaluation was asked to fail unless the space is better, and it is not."""

    exit_code = 12


class RefusedError(WorkerError):
    """All of what was to be done has been done, and all of it, or more than may be, was refused."""

    exit_code = 13


class StoreError(WorkerError):
    """The index that a sink writes to cannot be reached, or has failed. Mostly it is tried again."""

    exit_code = 15


class RolloutError(WorkerError):
    """A step from one space to the next cannot be made now, or what the control topic says of it cannot be read."""

    exit_code = 16


class ClientError(WorkerError):
    """One call to the broker failed."""

    retriable = True


class CallTimeoutError(ClientError):
    """A call to the broker did not finish within its deadline."""

    exit_code = 6


class NotMemberError(ClientError):
    """This member's place in the consumer group is gone, or moving."""


class ReplacedError(ClientError):
    """The broker knows a newer producer with this one's transactional id, or has ended its transaction without it."""


class RecordTooLargeError(ClientError):
    """A record is larger than the topic or the client accepts."""

    retriable = False


class NextSpaceError(ClientError):
    """An output of the next space could not be written, while the space that is read could be."""

    def __init__(self, message: str, *, retriable: bool = True) -> None:
        super().__init__(message)
        self.retriable = retriable
        """Whether it may be the brokers' condition, and not that topic's."""

    @classmethod
    def of(cls, error: WorkerError) -> WorkerError:
        """The error of such an output; itself where it says that this process has to end."""
        if isinstance(error, FencedError | SystemicError):
            return error
        is_transient = isinstance(error, ClientError) and error.retriable and not isinstance(error, RecordTooLargeError)
        return cls(str(error), retriable=is_transient)


BATCH_FAULTS = ("refused", "length", "format", "checksum", "codec", "data", "records", "too_large")
"""Why a batch cannot be read: the broker refuses it; or its length, its format, its checksum, its compression, what it
unpacks to or the records in it are wrong; or a record is larger than this reader takes."""


class UnreadableError(ClientError):
    """A batch in a log cannot be read. What lies before it has been; what lies behind it waits.

    The message names partition and offset, and what to do.
    """

    exit_code = 14
    retriable = False

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        fault: str,
        detail: str,
        *,
        next_offset: int | None = None,
        num_bytes: int = 0,
        raw: bytes = b"",
    ) -> None:
        super().__init__(
            f"{topic}/{partition} cannot be read on from offset {offset}: {detail}; mend the log, or leave out what "
            f"cannot be read: align-worker dlq skip {topic}/{partition}@{offset}"
        )
        self.topic, self.partition = topic, partition
        self.offset = offset
        """The first one that is missing."""
        self.fault = fault
        """One of `BATCH_FAULTS`."""
        self.detail = detail
        self.next_offset = next_offset
        """Where the next batch begins, as far as that can be seen."""
        self.num_bytes = num_bytes
        """Size of the batch, as it lies in the log; 0 where the broker does not hand it out."""
        self.raw = raw
        """Its bytes."""
