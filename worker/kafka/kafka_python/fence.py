"""The last step before the socket: nothing is written by a producer that may no longer write."""

from __future__ import annotations

from typing import Any

from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.protocol.producer import ProduceRequest

from worker.kafka.port import Lease


class Fence:
    """A gate before the socket: a producer sends while it has its lease and has not been closed."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease
        self._is_shut = False

    def shut(self) -> None:
        self._is_shut = True

    def lets_pass(self) -> bool:
        return not self._is_shut and (self._lease is None or self._lease.is_valid())


class FencedNetClient(KafkaNetClient):  # type: ignore[misc]  # the client carries no types
    """Asks the fence at the last step before the socket.

    A process that was frozen for longer than its session wakes up with produce requests ready to go, while another
    member already writes newer vectors for the same items; kafka-python sends them even past their delivery timeout.
    """

    def __init__(self, fence: Fence, **config: Any) -> None:
        super().__init__(**config)
        self._fence = fence

    def send(self, node_id: int, request: Any, **kwargs: Any) -> Any:
        if isinstance(request, ProduceRequest) and not self._fence.lets_pass():
            return Future().failure(KafkaTimeoutError("this member's lease on its partitions has expired"))
        return super().send(node_id, request, **kwargs)
