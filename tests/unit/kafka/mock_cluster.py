"""librdkafka's own cluster in memory, which answers as it is told to: for what real ones rarely do.

It is part of the library that `confluent_kafka` brings, but not of its binding; `ctypes` reaches it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

PRODUCE = 0  # the request's number in Kafka's protocol
_PRODUCER = 0  # kind of a client
READ_TIMEOUT_S = 10.0


def _library() -> ctypes.CDLL:
    package = Path(confluent_kafka.__file__).parent
    (path,) = package.with_name("confluent_kafka.libs").glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, text, size, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_conf_set", number, [pointer, text, text, text, size]),
        ("rd_kafka_new", pointer, [number, pointer, text, size]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, number]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_push_request_errors_array", None, [pointer, ctypes.c_int16, size, ctypes.POINTER(number)]),
    ):
        function: Any = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """Three brokers on loopback ports, for clients of any kind. Use it as a context manager."""

    def __init__(self) -> None:
        self._library = _library()
        text = ctypes.create_string_buffer(512)
        config = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(config, b"log_level", b"0", text, len(text))
        self._client = self._library.rd_kafka_new(_PRODUCER, config, text, len(text))
        assert self._client, text.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 3)
        self.bootstrap_servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self) -> MockCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)

    def refuse_produce(self, *codes: int) -> None:
        """Answer the next produce requests with these errors, one each; their records do not get into the log."""
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, PRODUCE, len(codes), (ctypes.c_int * len(codes))(*codes)
        )

    def read(self, topic: str, partitions: int) -> Iterator[Any]:
        """The messages of a topic from its beginning, in order within a partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": "reader"})
        try:
            places = [TopicPartition(topic, partition, 0) for partition in range(partitions)]
            ends = [consumer.get_watermark_offsets(place, READ_TIMEOUT_S)[1] for place in places]
            consumer.assign(places)
            for message in consumer.consume(sum(ends), READ_TIMEOUT_S):
                assert message.error() is None, message.error()
                yield message
        finally:
            consumer.close()
