"""The ways into a node, and ports for them."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

HOST = "127.0.0.1"
# Below the range that the kernel takes client ports from (32768 on Linux): a client that dials a port of that
# range while the broker is away can be given this very port, connect to itself, and keep the broker out.
_PORTS = range(20_000, 32_000)


class Listener(StrEnum):
    """Ways in. `MTLS` demands a client certificate; `SSL` asks for none."""

    PLAINTEXT = "PLAINTEXT"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SSL = "SSL"
    MTLS = "MTLS"
    SASL_SSL = "SASL_SSL"

    @property
    def protocol(self) -> str:
        """The `security.protocol` that a client needs."""
        return "SSL" if self is Listener.MTLS else self.value

    @property
    def prefix(self) -> str:
        """What the properties of this listener alone begin with."""
        return f"listener.name.{self.lower()}."


@dataclass(frozen=True)
class NodeAddress:
    """A node's number and its ports."""

    number: int
    client_ports: Mapping[Listener, int]
    controller_port: int


def listeners(*, sasl: bool, tls: bool) -> tuple[Listener, ...]:
    """What a node listens on. `PLAINTEXT` is always there, for brokers among themselves and for the tests."""
    found = [Listener.PLAINTEXT]
    if sasl:
        found.append(Listener.SASL_PLAINTEXT)
    if tls:
        found += [Listener.SSL, Listener.MTLS]
    if sasl and tls:
        found.append(Listener.SASL_SSL)
    return tuple(found)


def assign_ports(nodes: int, ways_in: Sequence[Listener], first_port: int | None) -> list[NodeAddress]:
    """One port per node and listener, from `first_port` upwards or wherever there are free ones."""
    count = nodes * (len(ways_in) + 1)
    ports = iter(free_ports(count) if first_port is None else range(first_port, first_port + count))
    return [NodeAddress(number, {way: next(ports) for way in ways_in}, next(ports)) for number in range(nodes)]


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on and that the kernel gives to no client."""
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports in {_PORTS.start}-{_PORTS.stop - 1}")
