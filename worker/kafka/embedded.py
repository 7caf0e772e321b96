"""A broker inside this process, for the demo and for tests: librdkafka's mock cluster, over loopback.

It speaks the real Kafka protocol to any client and needs nothing but the `confluent-kafka` wheel. It is no
substitute for Kafka:

- Nothing is kept on disk, and a partition keeps its newest 5 MB or 100 000 batches: older ones are dropped.
- No compaction, no retention by time, no admin calls; a topic that a client names is created with 4
  partitions.
- A second or later member waits `kafka.session_timeout_ms` - 1 s for its place in the group, and again as long
  each time its answer crosses the leader's, which happens in half of the attempts or more; `poll` then raises once.
  Static membership is not kept.
- No fencing: a stale producer may write, transactions are not isolated, their offsets are not applied, and
  their control batches carry no checksum.
- No credentials, no TLS. One batch per partition and fetch, so throughput says nothing about Kafka's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType, TracebackType
from typing import Any

ALL_BROKERS = -1
DISCONNECT = -195  # RD_KAFKA_RESP_ERR__TRANSPORT: the broker closes the connection instead of answering
_PRODUCER = 0  # rd_kafka_type_t: the cluster needs a client to live in, and an idle producer is the cheapest
_MESSAGE_BYTES = 512

_HANDLE, _TEXT, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_BROKER, _API, _SIZE = ctypes.c_int32, ctypes.c_int16, ctypes.c_size_t
_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {  # name: (result, arguments)
    "rd_kafka_conf_new": (_HANDLE, ()),
    "rd_kafka_conf_set": (_INT, (_HANDLE, _TEXT, _TEXT, _TEXT, _SIZE)),
    "rd_kafka_new": (_HANDLE, (_INT, _HANDLE, _TEXT, _SIZE)),
    "rd_kafka_destroy": (None, (_HANDLE,)),
    "rd_kafka_err2str": (_TEXT, (_INT,)),
    "rd_kafka_mock_cluster_new": (_HANDLE, (_HANDLE, _INT)),
    "rd_kafka_mock_cluster_destroy": (None, (_HANDLE,)),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, (_HANDLE,)),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, (_HANDLE, ctypes.c_int32)),
    "rd_kafka_mock_topic_create": (_INT, (_HANDLE, _TEXT, _INT, _INT)),
    "rd_kafka_mock_push_request_errors_array": (None, (_HANDLE, _API, _SIZE, ctypes.POINTER(_INT))),
    "rd_kafka_mock_clear_request_errors": (None, (_HANDLE, _API)),
    "rd_kafka_mock_broker_set_down": (_INT, (_HANDLE, _BROKER)),
    "rd_kafka_mock_broker_set_up": (_INT, (_HANDLE, _BROKER)),
    "rd_kafka_mock_broker_set_rtt": (_INT, (_HANDLE, _BROKER, _INT)),
}


class Api(IntEnum):
    """Requests that can be made to fail, by their Kafka protocol key."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class EmbeddedBroker:
    """A cluster of `brokers` nodes that lives until `close` or the end of the `with` block.

    Its threads are librdkafka's own and never hold the interpreter lock. Any thread may call the methods.
    """

    settings: Mapping[str, Any] = MappingProxyType(
        {
            "api_version": (2, 3),  # its answer to the version question is malformed for kafka-python
            "check_crcs": False,  # control batches of transactions carry checksum 0
            "fetch_max_wait_ms": 20,  # a fetch at the end of the log waits this long, deaf to new data
        }
    )
    """The `kafka.*` settings to talk to it; a kafka-python consumer takes the same arguments, a
    producer the first one. A short `session_timeout_ms` makes the joins of further members as short."""

    def __init__(self, brokers: int = 1) -> None:
        if brokers < 1:
            raise ValueError(f"the embedded broker needs at least one node, not {brokers}")
        self._library = _load_library()
        self._client = _new_client(self._library)
        self._cluster: int | None = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if self._cluster is None:
            self._library.rd_kafka_destroy(self._client)
            raise RuntimeError(f"the embedded broker did not start with {brokers} brokers")
        self._num_brokers = brokers
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)  # 3 s otherwise

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and forget everything. Clients should be closed before."""
        if self._cluster is not None:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._cluster = None

    @property
    def bootstrap_servers(self) -> str:
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._alive())
        return servers.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Raises `ValueError` for a topic that exists already. Kafka's rules for names are not enforced."""
        if partitions < 1:
            raise ValueError(f"embedded broker: topic {name!r} needs at least one partition, not {partitions}")
        replicas = min(3, self._num_brokers)
        code = self._library.rd_kafka_mock_topic_create(self._alive(), name.encode(), partitions, replicas)
        self._check(code, f"topic {name!r} with {partitions} partitions")

    def fail_requests(self, api: Api, *errors: int) -> None:
        """Answer the next requests of this kind, from whomever, with these Kafka error codes, one each.

        0 lets a request pass; `DISCONNECT` drops the connection. They queue up behind errors given before.
        """
        codes = (_INT * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._alive(), api, len(errors), codes)

    def stop_failing(self, api: Api) -> None:
        """Forget the errors of `fail_requests` that nobody has met yet."""
        self._library.rd_kafka_mock_clear_request_errors(self._alive(), api)

    def set_down(self, broker: int = ALL_BROKERS) -> None:
        """Drop all connections and refuse new ones. Leadership does not move. Brokers count from 1."""
        self._check(self._library.rd_kafka_mock_broker_set_down(self._alive(), broker), f"broker {broker}")

    def set_up(self, broker: int = ALL_BROKERS) -> None:
        """Accept connections again, with all data and groups as they were."""
        self._check(self._library.rd_kafka_mock_broker_set_up(self._alive(), broker), f"broker {broker}")

    def set_round_trip(self, milliseconds: int, broker: int = ALL_BROKERS) -> None:
        """Delay every answer by this much; 0 ends it."""
        code = self._library.rd_kafka_mock_broker_set_rtt(self._alive(), broker, milliseconds)
        self._check(code, f"broker {broker}")

    def _alive(self) -> int:
        if self._cluster is None:
            raise RuntimeError("the embedded broker is closed")
        return self._cluster

    def _check(self, code: int, subject: str) -> None:
        if code:
            text: bytes = self._library.rd_kafka_err2str(code)
            raise ValueError(f"embedded broker: {subject}: {text.decode()}")


def _load_library() -> Any:
    """librdkafka as the wheel carries it.

    Symbols are looked up through the extension module, which is linked to it: that finds the library wherever
    the wheel, or a system package, put it.
    """
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise ImportError(
            "the embedded broker is part of the confluent-kafka package: "
            "pip install 'confluent-kafka>=2.11', or set kafka.bootstrap_servers to a Kafka of your own"
        ) from error
    library = ctypes.CDLL(cimpl.__file__)
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise ImportError(
                f"the installed confluent-kafka has no {name}, which the embedded broker needs: "
                "pip install --upgrade confluent-kafka"
            ) from error
        function.restype, function.argtypes = result, arguments
    return library


def _new_client(library: Any) -> int:
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    config = library.rd_kafka_conf_new()
    # Level 0: it would complain on stderr that it has no cluster to connect to.
    library.rd_kafka_conf_set(config, b"log_level", b"0", message, _MESSAGE_BYTES)
    client: int | None = library.rd_kafka_new(_PRODUCER, config, message, _MESSAGE_BYTES)
    if client is None:
        raise RuntimeError(f"the embedded broker did not start: {message.value.decode()}")
    return client
