"""A real Apache Kafka (KRaft) for tests: started from a distribution's jars, gone with the test run."""

from __future__ import annotations

import atexit
import base64
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.brokers import library
from tests.brokers.addresses import HOST, Listener, assign_ports, listeners
from tests.brokers.certificates import Authority
from tests.brokers.distribution import Distribution, find_distribution
from tests.brokers.node import KafkaFailedError, Node
from tests.brokers.properties import (
    cluster_properties,
    node_properties,
    rack_properties,
    sasl_properties,
    scram_users,
    tls_properties,
)

START_TIMEOUT_S = 120.0


@dataclass
class RealKafka:
    """A cluster of its own on free loopback ports, with its data in a temporary directory.

    Each node is broker and controller. Use it as a context manager, or call `start` and `close`. No broker
    survives this process, however it ends.
    """

    nodes: int = 1
    port: int | None = None
    """First of the ports, which then follow one another. None: ports that are free."""
    sasl: Mapping[str, str] = field(default_factory=dict)
    """Passwords by user; they open the SASL listeners."""
    tls: bool = False
    """Opens the TLS listeners."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Server properties on top of our own, the same for all nodes."""
    racks: Sequence[str] = ()
    """Where each node stands. Consumers that say where they do then read from a replica in the same place."""
    auto_create_topics: bool = False
    heap: str = "512m"
    optimizing: bool = False
    """With the JVM's optimising compiler, for long runs and for figures. In short ones it costs more than it wins: a
    node takes 3.6 s of CPU to start with it, 2.2 s without."""
    distribution: Distribution | None = None
    """None: the one that `find_distribution` finds."""

    def __post_init__(self) -> None:
        found = self.distribution or find_distribution()
        if isinstance(found, str):
            raise KafkaFailedError(found)
        self._root = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        ways_in = listeners(sasl=bool(self.sasl), tls=self.tls)
        addresses = assign_ports(self.nodes, ways_in, self.port)
        self._nodes = [Node(address, self._root / f"node-{address.number}", found) for address in addresses]
        self.authority = Authority(self._root) if self.tls else None
        self._client = self.authority.issue("client") if self.authority else None
        shared = cluster_properties(addresses, self.auto_create_topics)
        for node in self._nodes:
            node.configure(shared | self._own_properties(node) | dict(self.properties))
        atexit.register(self.close)

    def _own_properties(self, node: Node) -> dict[str, str]:
        properties = node_properties(node.address, node.data)
        if self.racks:
            properties |= rack_properties(self.racks[node.address.number])
        if self.sasl:
            properties |= sasl_properties(self.sasl)
        if self.authority is not None:
            properties |= tls_properties(node.directory, self.authority)
        return properties

    def __enter__(self) -> RealKafka:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bootstrap_servers(self) -> str:
        return self.bootstrap(Listener.PLAINTEXT)

    def bootstrap(self, listener: Listener) -> str:
        return ",".join(f"{HOST}:{node.address.client_ports[listener]}" for node in self._nodes)

    def data_directory(self, node: int = 0) -> Path:
        """Where a node keeps its logs."""
        return self._nodes[node].data

    def client_settings(self, listener: Listener, mechanism: str = "PLAIN") -> dict[str, object]:
        """Worker settings under `kafka.` that get a client in through this listener, as the first user."""
        settings: dict[str, object] = {
            "client": library.current,
            "bootstrap_servers": self.bootstrap(listener),
            "security_protocol": listener.protocol,
        }
        if self.authority is not None and listener.protocol.endswith("SSL"):
            settings["ssl_cafile"] = str(self.authority.certificate)
        if self._client is not None and listener is Listener.MTLS:
            settings["ssl_certfile"] = str(self._client.certificate)
            settings["ssl_keyfile"] = str(self._client.key)
        if listener.protocol.startswith("SASL"):
            user, password = next(iter(self.sasl.items()))
            settings["sasl_mechanism"] = mechanism
            if mechanism == "OAUTHBEARER":
                settings["sasl_oauth_token_file"] = str(self._token_file(user))
            else:
                settings |= {"sasl_username": user, "sasl_password": password}
        return settings

    def _token_file(self, user: str) -> Path:
        path = self._root / f"{user}.token"
        path.write_text(bearer_token(user, time.time()))
        return path

    def start(self, node: int | None = None, *, wait: bool = True) -> None:
        """Start a node, or all, on the data they have. Those that run are left alone."""
        chosen = [each for each in self._chosen(node) if each.process is None]
        self._format([each for each in chosen if not each.data.exists()])
        for each in chosen:
            each.launch(self.heap, optimizing=self.optimizing)
        if wait:
            self.wait_ready(node)

    def wait_ready(self, node: int | None = None, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the node, or every running node, serves clients."""
        deadline = time.monotonic() + timeout_s
        for each in self._chosen(node):
            while each.process is not None and not each.is_ready():
                if each.process.poll() is not None:
                    raise each.failure(f"ended with {each.process.returncode}")
                if time.monotonic() > deadline:
                    raise each.failure(f"is not ready after {timeout_s:g} s")
                time.sleep(0.05)

    def is_ready(self, node: int) -> bool:
        """Whether a node that was started serves clients by now. Raises `KafkaFailedError` if it has ended instead."""
        chosen = self._nodes[node]
        if chosen.process is not None and chosen.process.poll() is not None:
            raise chosen.failure(f"ended with {chosen.process.returncode}")
        return chosen.is_ready()

    def kill(self, node: int = 0) -> None:
        """SIGKILL: the node is gone at once, and the cluster is not told."""
        self._nodes[node].end(signal.SIGKILL)

    def stop(self, node: int = 0) -> None:
        """SIGTERM: the node hands its partitions over and leaves."""
        self._nodes[node].end(signal.SIGTERM)

    def pause(self, node: int = 0) -> None:
        """SIGSTOP: connections stay open, and nobody answers."""
        self._nodes[node].freeze()

    def resume(self, node: int = 0) -> None:
        """SIGCONT."""
        self._nodes[node].send(signal.SIGCONT)

    def close(self) -> None:
        """Kill what still runs and remove all data."""
        for node in self._nodes:
            if node.process is not None:
                node.end(signal.SIGKILL)
        shutil.rmtree(self._root, ignore_errors=True)
        atexit.unregister(self.close)

    def _chosen(self, number: int | None) -> Sequence[Node]:
        return self._nodes if number is None else [self._nodes[number]]

    def _format(self, nodes: Collection[Node]) -> None:
        users = scram_users(self.sasl)
        running = [(node, node.format(self._cluster_id, users)) for node in nodes]
        outputs = [process.communicate(timeout=START_TIMEOUT_S)[0].decode() for _, process in running]
        for (node, process), output in zip(running, outputs, strict=True):
            if process.returncode:
                raise node.failure(f"could not be formatted: {output}")


def bearer_token(user: str, now: float, valid_for_s: float = 3600.0) -> str:
    """An unsigned OAuth token, which Kafka's own test validator accepts."""
    claims = f'{{"sub":"{user}","iat":{now:.0f},"exp":{now + valid_for_s:.0f}}}'
    parts = ['{"alg":"none"}', claims, ""]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
