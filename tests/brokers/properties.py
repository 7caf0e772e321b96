"""The server properties of a KRaft node for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.brokers.addresses import HOST, Listener, NodeAddress
from tests.brokers.certificates import Authority

SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_SECURITY = "org.apache.kafka.common.security"


def cluster_properties(nodes: Iterable[NodeAddress], auto_create_topics: bool) -> dict[str, str]:
    """What all nodes share: as many replicas as there are nodes, up to 3, and short waits."""
    voters = [f"{node.number}@{HOST}:{node.controller_port}" for node in nodes]
    replicas = min(3, len(voters))
    in_sync = str(max(1, replicas - 1))
    return {
        "process.roles": "broker,controller",
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": Listener.PLAINTEXT.value,
        "auto.create.topics.enable": str(auto_create_topics).lower(),
        "default.replication.factor": str(replicas),
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": str(replicas),
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": "1",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # Of members that speak KIP-848, for whom the brokers decide: as short as `QUICK_GROUP` and a heartbeat.
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.session.timeout.ms": "7000",
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "500",
        # A killed node is let in again once the controller has given up its former self (default: 9 s).
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.backoff.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


def node_properties(node: NodeAddress, data: Path) -> dict[str, str]:
    """What one node has for itself."""
    clients = [f"{listener}://{HOST}:{port}" for listener, port in node.client_ports.items()]
    protocols = [f"{listener}:{listener.protocol}" for listener in node.client_ports]
    return {
        "node.id": str(node.number),
        "listeners": ",".join([*clients, f"CONTROLLER://{HOST}:{node.controller_port}"]),
        "advertised.listeners": ",".join(clients),
        "listener.security.protocol.map": ",".join([*protocols, "CONTROLLER:PLAINTEXT"]),
        "log.dirs": str(data),
    }


def rack_properties(rack: str) -> dict[str, str]:
    """Where a node stands, and that consumers are sent to the replica nearest to them."""
    return {
        "broker.rack": rack,
        "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    }


def sasl_properties(users: Mapping[str, str]) -> dict[str, str]:
    """Password log-in for these users, and OAuth log-in for everybody with an unsigned token."""
    passwords = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    modules = {
        "PLAIN": f"{_SECURITY}.plain.PlainLoginModule required {passwords};",
        "SCRAM-SHA-256": f"{_SECURITY}.scram.ScramLoginModule required;",
        "SCRAM-SHA-512": f"{_SECURITY}.scram.ScramLoginModule required;",
        "OAUTHBEARER": f"{_SECURITY}.oauthbearer.OAuthBearerLoginModule required;",
    }
    properties = {}
    for listener in (Listener.SASL_PLAINTEXT, Listener.SASL_SSL):
        properties[f"{listener.prefix}sasl.enabled.mechanisms"] = ",".join(SASL_MECHANISMS)
        for mechanism in SASL_MECHANISMS:
            properties[f"{listener.prefix}{mechanism.lower()}.sasl.jaas.config"] = modules[mechanism]
    return properties


def scram_users(users: Mapping[str, str]) -> list[str]:
    """The users once more, as arguments of Kafka's format command."""
    return [
        f"--add-scram={mechanism}=[name={name},password={password}]"
        for name, password in users.items()
        for mechanism in SASL_MECHANISMS
        if mechanism.startswith("SCRAM")
    ]


def tls_properties(directory: Path, authority: Authority) -> dict[str, str]:
    """A certificate for this node, kept in `directory`, and trust in everything the authority signed."""
    identity = authority.issue(directory.name, hosts=("localhost", HOST))
    key_store = directory / "keystore.pem"
    key_store.write_bytes(identity.key.read_bytes() + identity.certificate.read_bytes())
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(key_store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        f"{Listener.MTLS.prefix}ssl.client.auth": "required",
    }
