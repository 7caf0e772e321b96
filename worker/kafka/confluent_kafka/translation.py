"""librdkafka's errors in our words: one table, kept complete by `tests/contract/test_confluent_errors.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
    WorkerError,
)
from worker.kafka.advice import FORBIDDEN, FORBIDDEN_TRANSACTIONAL_ID, SAME_INSTANCE_ID

_ACCESS = (
    "_AUTHENTICATION _SSL TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED "
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED DELEGATION_TOKEN_EXPIRED "
    "SASL_AUTHENTICATION_FAILED UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE "
    "UNACCEPTABLE_CREDENTIAL"
)
_FENCED = "FENCED_INSTANCE_ID UNRELEASED_INSTANCE_ID"
_NOT_MEMBER = (
    "ILLEGAL_GENERATION UNKNOWN_MEMBER_ID REBALANCE_IN_PROGRESS MEMBER_ID_REQUIRED STALE_MEMBER_EPOCH "
    "FENCED_MEMBER_EPOCH _ASSIGNMENT_LOST"
)
_REPLACED = "_FENCED INVALID_PRODUCER_EPOCH PRODUCER_FENCED"
_TOO_LARGE = "MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE"
_TIMEOUT = "_TIMED_OUT _TIMED_OUT_QUEUE _MSG_TIMED_OUT REQUEST_TIMED_OUT"
_FINAL = (
    "_INVALID_ARG _NOT_IMPLEMENTED _UNSUPPORTED_FEATURE _FATAL _INVALID_TYPE _CRIT_SYS_RESOURCE _FS "
    "_UNKNOWN_PROTOCOL _INVALID_DIFFERENT_RECORD _LOG_TRUNCATION "
    "TOPIC_EXCEPTION UNSUPPORTED_VERSION TOPIC_ALREADY_EXISTS INVALID_PARTITIONS INVALID_REPLICATION_FACTOR "
    "INVALID_REPLICA_ASSIGNMENT INVALID_CONFIG INVALID_REQUEST UNSUPPORTED_FOR_MESSAGE_FORMAT POLICY_VIOLATION "
    "INVALID_TRANSACTION_TIMEOUT INVALID_SESSION_TIMEOUT INCONSISTENT_GROUP_PROTOCOL INVALID_GROUP_ID "
    "GROUP_MAX_SIZE_REACHED UNSUPPORTED_ASSIGNOR UNSUPPORTED_COMPRESSION_TYPE INVALID_REQUIRED_ACKS "
    "INVALID_TIMESTAMP INVALID_RECORD OFFSET_METADATA_TOO_LARGE TOPIC_DELETION_DISABLED SECURITY_DISABLED "
    "TRANSACTION_ABORTABLE INVALID_TXN_STATE INVALID_PRODUCER_ID_MAPPING"
)

_ADVICE = {
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": FORBIDDEN_TRANSACTIONAL_ID,
    "TOPIC_AUTHORIZATION_FAILED": FORBIDDEN,
    "GROUP_AUTHORIZATION_FAILED": FORBIDDEN,
    "CLUSTER_AUTHORIZATION_FAILED": FORBIDDEN,
    "FENCED_INSTANCE_ID": SAME_INSTANCE_ID,
    "UNRELEASED_INSTANCE_ID": SAME_INSTANCE_ID,
}


def codes(names: str) -> frozenset[int]:
    """Codes of errors by name; those that the installed library does not know yet are left out."""
    return frozenset(getattr(KafkaError, name) for name in names.split() if hasattr(KafkaError, name))


TABLE: dict[int, type[WorkerError]] = {
    code: ours
    for names, ours in (
        (_ACCESS, AccessError),
        (_FENCED, FencedError),
        (_NOT_MEMBER, NotMemberError),
        (_REPLACED, ReplacedError),
        (_TOO_LARGE, RecordTooLargeError),
        (_TIMEOUT, CallTimeoutError),
    )
    for code in codes(names)
}
FINAL = codes(_FINAL)
"""Without an entry of their own, and no better for being tried again."""


def kafka_error(error: BaseException) -> KafkaError | None:
    """The library's error within an exception."""
    found = error.args[0] if error.args else None
    return found if isinstance(found, KafkaError) else None


def translate(error: KafkaError | BaseException, doing: str) -> WorkerError:
    """Our error for one of the library's. `doing` says what was attempted and starts the message.

    Anything without an entry of its own is a `ClientError`, retriable unless another try is known to be no use.
    """
    if isinstance(error, WorkerError):
        return error
    known = error if isinstance(error, KafkaError) else kafka_error(error)
    if known is None:
        translated = ClientError(f"{doing}: {type(error).__name__}: {error}")
        translated.retriable = isinstance(error, BufferError)
        return translated
    told = f"{known.name()}: {known.str()}"
    if ours := TABLE.get(known.code()):
        advice = _ADVICE.get(known.name())
        return ours(f"{doing}: {advice} ({told})" if advice else f"{doing}: {told}")
    translated = ClientError(f"{doing}: {told}")
    translated.retriable = known.code() not in FINAL and not known.fatal()
    return translated


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate what the library raises inside the block."""
    try:
        yield
    except TimeoutError as error:  # of a future
        raise CallTimeoutError(f"{doing}: no answer in time") from error
    except (KafkaException, ValueError, RuntimeError, BufferError, TypeError) as error:
        raise translate(error, doing) from error
