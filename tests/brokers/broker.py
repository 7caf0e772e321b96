"""What a test needs to know of the broker it runs against, whichever that is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.brokers import clients
from worker.kafka.embedded import EmbeddedBroker

EXTERNAL_VARIABLE = "ALIGN_TEST_BOOTSTRAP_SERVERS"
# Dead members are noticed within seconds.
QUICK_GROUP: Mapping[str, Any] = {
    "session_timeout_ms": 6_000,
    "heartbeat_interval_ms": 500,
    "delivery_timeout_ms": 3_000,
    "request_timeout_ms": 2_000,
}


@dataclass(frozen=True)
class Broker:
    """A running broker, embedded or real."""

    kind: Literal["embedded", "real"]
    bootstrap_servers: str
    client_settings: Mapping[str, Any]
    """Worker settings under `kafka.`, the address among them."""
    options: Mapping[str, Any]
    """Arguments of a kafka-python client, the address among them."""
    embedded: EmbeddedBroker | None = None
    created: list[str] = field(default_factory=list)

    def create_topics(self, partitions: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
        """Create topics by name and number of partitions. The embedded broker has no `config`, and ignores it."""
        self.created.extend(partitions)
        if self.embedded is None:
            clients.create_topics(self.options, partitions, config)
            return
        for name, count in partitions.items():
            self.embedded.create_topic(name, count)

    def environment(self) -> dict[str, str]:
        """`client_settings` as the environment of a worker process."""
        return environment("kafka", self.client_settings)


def embedded(broker: EmbeddedBroker) -> Broker:
    settings = {**QUICK_GROUP, **broker.settings, "bootstrap_servers": broker.bootstrap_servers}
    options = {
        "bootstrap_servers": broker.bootstrap_servers.split(","),
        "api_version": broker.settings["api_version"],
    }
    return Broker("embedded", broker.bootstrap_servers, settings, options, broker)


def real(bootstrap_servers: str) -> Broker:
    settings = {**QUICK_GROUP, "bootstrap_servers": bootstrap_servers}
    return Broker("real", bootstrap_servers, settings, {"bootstrap_servers": bootstrap_servers.split(",")})


def environment(group: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a group as the environment variables that a worker process reads."""
    return {f"ALIGN_{group}__{name}".upper(): _as_text(value) for name, value in settings.items()}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def external_bootstrap_servers() -> str | None:
    """The cluster that the tests are told to use instead of one of their own."""
    return os.environ.get(EXTERNAL_VARIABLE) or None
