"""The rights of the KafkaUser are enough for a worker: tried on a real Kafka that enforces them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from schemas import encode
from tests.brokers import Listener, Outgoing, RealKafka, produce
from tests.contract.deploy.artefacts import COMPONENTS, Document, document, documents
from tests.worker_process import WorkerProcess, in_group
from worker.align.command import create
from worker.errors import AccessError, TopicError
from worker.synthetic import MODALITIES, Catalogue

USER = document(COMPONENTS / "strimzi" / "kafkauser.yaml")
NAME: str = USER["metadata"]["name"]
STRANGER = "stranger"
NUM_ITEMS = 40
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # whoever comes in through the plaintext listener: the broker, and this test
}

pytestmark = [pytest.mark.real_kafka, pytest.mark.acceptance]


def rights() -> list[ACL]:
    """What Strimzi's user operator makes of the KafkaUser."""
    return [
        ACL(
            f"User:{NAME}",
            acl.get("host", "*"),
            ACLOperation[operation_name(operation)],
            ACLPermissionType.ALLOW,
            ResourcePattern(
                ResourceType[resource_name(acl["resource"]["type"])],
                acl["resource"]["name"],
                pattern_of(acl["resource"]),
            ),
        )
        for acl in USER["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    ]


def resource_name(kind: str) -> str:
    return {"transactionalId": "TRANSACTIONAL_ID"}.get(kind, kind.upper())


def operation_name(operation: str) -> str:
    return {"DescribeConfigs": "DESCRIBE_CONFIGS"}.get(operation, operation.upper())


def pattern_of(resource: Document) -> ACLResourcePatternType:
    is_prefix = resource["patternType"] == "prefix"
    return ACLResourcePatternType.PREFIXED if is_prefix else ACLResourcePatternType.LITERAL


@pytest.fixture
def kafka(start_kafka: Callable[..., RealKafka]) -> RealKafka:
    """A broker with the topics, the user and its rights, and items that wait: all good but the last."""
    kafka = start_kafka(sasl={NAME: "secret", STRANGER: "secret"}, properties=AUTHORIZER)
    options = {"bootstrap_servers": kafka.bootstrap_servers}
    topics = {each["metadata"]["name"]: each["spec"] for each in documents(COMPONENTS / "strimzi" / "kafkatopics.yaml")}
    admin = KafkaAdminClient(**options)
    try:
        for topic, spec in topics.items():
            config = {name: str(value) for name, value in spec["config"].items() if name != "min.insync.replicas"}
            admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1, "configs": config}})
        assert not admin.create_acls(rights())["failed"]
    finally:
        admin.close()
    messages = [item.message(1, 0) for item in Catalogue(0).items(NUM_ITEMS)]
    records = [Outgoing("items", message.key, encode(message)) for message in messages]
    produce(options, [*records, Outgoing("items", b"bad", b"not msgpack")])
    return kafka


def settings(kafka: RealKafka, user: str, space: Path, delivery: str = "at_least_once") -> Mapping[str, Any]:
    signed_in = kafka.client_settings(Listener.SASL_PLAINTEXT, "SCRAM-SHA-512") | {"sasl_username": user}
    return {**in_group("kafka", signed_in), "space.path": space, "delivery": delivery}


def command(kafka: RealKafka, user: str, space: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of another command than `run`, with the same settings."""
    chosen = settings(kafka, user, space)
    with WorkerProcess(chosen, command=words) as process:
        code = process.wait()
    return code, process.stdout + process.stderr


def test_a_worker_gets_by_with_the_rights_of_its_user(kafka: RealKafka, tmp_path: Path) -> None:
    space = tmp_path / "space"
    create(space, MODALITIES, 32)

    code, said = command(kafka, STRANGER, space, "run")
    assert code in (TopicError.exit_code, AccessError.exit_code), said  # the broker does ask for rights

    for delivery in ("exactly_once", "at_least_once"):  # the second one takes over what the first one published
        with WorkerProcess(settings(kafka, NAME, space, delivery)) as worker:
            worker.wait_ready()
            worker.wait_until(
                lambda: all(each["lag"] == 0 for each in worker.status()["roles"][0]["partitions"]), name="done"
            )
            finished = worker.status()["roles"][0]["accounting"]
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        assert "authoriz" not in worker.stderr.lower()
        assert not worker.logged("topic_limits_unknown")
    assert finished["consumed"] == 0

    code, listed = command(kafka, NAME, space, "dlq", "list")
    assert (code, "not_msgpack" in listed) == (0, True), listed
    code, said = command(kafka, NAME, space, "dlq", "replay")
    assert (code, "1 records sent" in said) == (0, True), said
