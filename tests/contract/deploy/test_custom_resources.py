"""KEDA, Strimzi and Prometheus-operator resources: against their definitions where those are at hand, and always
against what their definitions do not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.contract.deploy.artefacts import (
    COMPONENTS,
    CORE_GROUPS,
    DEPLOY,
    TARGETS,
    Document,
    base_deployment,
    container,
    document,
    documents,
    of_kind,
    pod_spec,
    rendered,
    the,
    with_components,
)
from tests.contract.deploy.conftest import LoadSettings
from tests.contract.deploy.crd import Schemas, load_schemas, problems
from tests.contract.deploy.test_settings import settings_of
from worker.settings import Settings
from worker.stages.producers import transactional_id
from worker.topics import needed_topics, topics_of_roles, wanted_topics

SCALED_OBJECT = COMPONENTS / "keda" / "scaledobject.yaml"
POD_MONITOR = COMPONENTS / "monitoring" / "podmonitor.yaml"
SERVICE_MONITOR = COMPONENTS / "service-monitor" / "servicemonitor.yaml"
PROMETHEUS_RULE = COMPONENTS / "monitoring" / "prometheusrule.yaml"
TOPICS = COMPONENTS / "strimzi" / "kafkatopics.yaml"
NEXT_TOPICS = DEPLOY / "next-space-topics.yaml"
USER = COMPONENTS / "strimzi" / "kafkauser.yaml"
TRIGGER_AUTHENTICATION = DEPLOY / "overlays" / "full" / "triggerauthentication.yaml"
FILES = (
    SCALED_OBJECT,
    POD_MONITOR,
    SERVICE_MONITOR,
    PROMETHEUS_RULE,
    TOPICS,
    NEXT_TOPICS,
    USER,
    TRIGGER_AUTHENTICATION,
)

FULL = ("overlays/full", "overlays/full-users")

API_VERSIONS = {
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "KafkaTopic": "kafka.strimzi.io/v1",  # v1beta2 is gone since Strimzi 1.0
    "KafkaUser": "kafka.strimzi.io/v1",
}
TRIGGER_FIELDS = {
    "bootstrapServers", "consumerGroup", "topic", "lagThreshold", "activationLagThreshold", "offsetResetPolicy",
    "allowIdleConsumers", "scaleToZeroOnInvalidOffset", "excludePersistentLag", "limitToPartitionsWithLag",
    "ensureEvenDistributionOfPartitions", "partitionLimitation", "version", "sasl", "tls",
}  # fmt: skip
"""Of KEDA's Kafka trigger. Its definition takes any, and KEDA ignores what it does not know."""
CLUSTER_TOPIC_CONFIG = {"min.insync.replicas"}
"""Left to the cluster: the worker does not ask for them."""


def trigger_of(scaled_object: Document) -> Document:
    (trigger,) = scaled_object["spec"]["triggers"]
    assert trigger["type"] == "kafka"
    found: Document = trigger
    return found


def metadata_of(scaled_object: Document) -> Mapping[str, str]:
    found: Mapping[str, str] = trigger_of(scaled_object)["metadata"]
    return found


# ---------------------------------------------------------------------- definitions


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return load_schemas()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_obey_their_definitions(path: Path, schemas: Schemas) -> None:
    for resource in documents(path):
        assert problems(schemas, resource) == []


def test_rendered_resources_obey_their_definitions(schemas: Schemas) -> None:
    both = [*rendered("overlays/full"), *rendered("overlays/full-users")]
    custom = [each for each in both if each["apiVersion"] not in CORE_GROUPS]
    assert len(custom) == 14
    for resource in custom:
        assert problems(schemas, resource) == []


@pytest.mark.parametrize(
    ("path", "change", "complaint"),
    [
        (SCALED_OBJECT, {"pollInterval": 5}, "pollInterval"),
        (POD_MONITOR, {"podMetricEndpoints": []}, "podMetricEndpoints"),
        (SERVICE_MONITOR, {"endpoint": []}, "endpoint"),
        (TRIGGER_AUTHENTICATION, {"secretTargetRef": [{"name": "x"}]}, "parameter"),
        (USER, {"authentication": {"type": "scram"}}, "scram"),
    ],
)
def test_the_definitions_would_complain(
    path: Path, change: Mapping[str, Any], complaint: str, schemas: Schemas
) -> None:
    resource = dict(document(path))
    assert complaint in " ".join(problems(schemas, {**resource, "spec": {**resource["spec"], **change}}))


def test_an_old_api_version_would_be_noticed(schemas: Schemas) -> None:
    assert problems(schemas, {**documents(TOPICS)[0], "apiVersion": "kafka.strimzi.io/v1beta2"})


# ---------------------------------------------------------------------- what always holds


def test_api_versions() -> None:
    found = {each["kind"]: each["apiVersion"] for path in FILES for each in documents(path)}
    assert found == API_VERSIONS


def test_workers_are_scaled_up_to_one_per_partition() -> None:
    spec = document(SCALED_OBJECT)["spec"]
    topics = {each["metadata"]["name"]: each["spec"]["partitions"] for each in documents(TOPICS)}
    assert spec["maxReplicaCount"] == topics[metadata_of(document(SCALED_OBJECT))["topic"]]
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]


def test_partitions_of_inputs_and_outputs_match(worker_settings: Settings) -> None:
    partitions = {each["metadata"]["name"]: each["spec"]["partitions"] for each in documents(TOPICS)}
    for topics in topics_of_roles(with_roles(worker_settings)):
        assert partitions[topics.inputs] == partitions[topics.outputs] == partitions[topics.state]


def test_the_trigger_watches_what_the_worker_consumes(worker_settings: Settings) -> None:
    metadata = metadata_of(document(SCALED_OBJECT))
    assert metadata["consumerGroup"] == worker_settings.kafka.group_id
    assert metadata["topic"] == worker_settings.topics.items
    assert metadata["bootstrapServers"] == worker_settings.kafka.bootstrap_servers
    assert int(metadata["lagThreshold"]) == worker_settings.batch.backlog_records


def test_the_trigger_begins_where_the_worker_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.kafka.kafka_python import client

    given: dict[str, Any] = {}
    monkeypatch.setattr(client, "KafkaConsumer", lambda **config: given.update(config))
    for name in ("Unpacking", "note_fetches"):  # they reach into the consumer that there is none of
        monkeypatch.setattr(client, name, lambda *arguments: None)
    client.KafkaPythonClient(Settings().kafka).consumer("group")
    assert metadata_of(document(SCALED_OBJECT))["offsetResetPolicy"] == given["auto_offset_reset"]


def test_the_trigger_speaks_to_kafka_4() -> None:
    """KEDA's default, 1.0.0, is a protocol that Kafka 4 refuses."""
    major, minor, _ = map(int, metadata_of(document(SCALED_OBJECT))["version"].split("."))
    assert (major, minor) >= (2, 1)


def test_the_trigger_has_no_field_that_keda_would_ignore() -> None:
    in_overlays = [the("ScaledObject", rendered(target)) for target in FULL]
    for found in (document(SCALED_OBJECT), *in_overlays):
        metadata = metadata_of(found)
        assert metadata.keys() <= TRIGGER_FIELDS
        assert all(isinstance(value, str) for value in metadata.values())


def test_the_trigger_reaches_brokers_from_another_namespace() -> None:
    for server in metadata_of(document(SCALED_OBJECT))["bootstrapServers"].split(","):
        assert ".svc" in server.rpartition(":")[0]


def test_the_autoscaler_alone_sets_the_number_of_workers(tmp_path: Path) -> None:
    resources = with_components(tmp_path, "keda")
    deployment = the("Deployment", resources)
    assert "replicas" not in deployment["spec"]
    assert the("ScaledObject", resources)["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_scaling_down_is_slower_than_a_rebalance() -> None:
    behavior = document(SCALED_OBJECT)["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 600
    (policy,) = behavior["scaleDown"]["policies"]
    assert (policy["value"], policy["periodSeconds"] >= 120) == (1, True)


@pytest.mark.parametrize("target", FULL)
def test_in_full_the_trigger_watches_what_its_workers_consume(
    target: str, load_settings: LoadSettings, tmp_path: Path
) -> None:
    resources = rendered(target)
    settings, scaled = settings_of(resources, load_settings, tmp_path), the("ScaledObject", resources)
    (topics,) = topics_of_roles(settings)
    metadata = metadata_of(scaled)
    assert (metadata["topic"], metadata["consumerGroup"]) == (topics.inputs, topics.group_id)
    assert int(metadata["lagThreshold"]) == settings.batch.backlog_records
    deployment = the("Deployment", resources)
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    partitions = {each["metadata"]["name"]: each["spec"]["partitions"] for each in documents(TOPICS)}
    assert scaled["spec"]["maxReplicaCount"] == partitions[topics.inputs]


def test_the_autoscaler_finds_workers_with_disks(tmp_path: Path) -> None:
    resources = with_components(tmp_path, "keda", "state-volume")
    workers = the("StatefulSet", resources)
    assert "replicas" not in workers["spec"]
    target = the("ScaledObject", resources)["spec"]["scaleTargetRef"]
    assert target == {"kind": "StatefulSet", "name": workers["metadata"]["name"]}


@pytest.mark.parametrize("target", FULL)
def test_in_full_keda_signs_in_where_and_as_the_worker_does(
    target: str, load_settings: LoadSettings, tmp_path: Path
) -> None:
    resources = rendered(target)
    kafka = settings_of(resources, load_settings, tmp_path).kafka
    scaled, authentication = the("ScaledObject", resources), the("TriggerAuthentication", resources)
    metadata = metadata_of(scaled)
    assert metadata["bootstrapServers"] == kafka.bootstrap_servers
    assert (metadata["sasl"], metadata["tls"]) == ("scram_sha512", "enable")
    assert trigger_of(scaled)["authenticationRef"]["name"] == authentication["metadata"]["name"]

    worker = container(the("Deployment", resources))
    variables = {each["name"]: each for each in worker["env"]}
    (username,) = authentication["spec"]["env"]
    assert username["parameter"] == "username"
    assert username["containerName"] == worker["name"]
    user = the("KafkaUser", rendered("overlays/full"))["metadata"]["name"]
    assert variables[username["name"]]["value"] == user  # Strimzi's user name, and that of its Secret
    secrets = {each["parameter"]: (each["name"], each["key"]) for each in authentication["spec"]["secretTargetRef"]}
    path = PurePosixPath(variables["ALIGN_KAFKA__SASL_PASSWORD_FILE"]["value"])
    (mount,) = [each for each in worker["volumeMounts"] if each["mountPath"] == str(path.parent)]
    (volume,) = [
        each["secret"] for each in pod_spec(the("Deployment", resources))["volumes"] if each["name"] == mount["name"]
    ]
    assert volume["items"] == [{"key": "password", "path": path.name}]
    assert volume["optional"] is False  # the pod waits until Strimzi has made it
    assert secrets["password"] == (volume["secretName"], "password") == (user, "password")
    assert secrets["ca"] == ("kafka-cluster-ca-cert", "ca.crt")


def test_in_full_all_lives_beside_the_cluster() -> None:
    resources = rendered("overlays/full")
    (namespace,) = {each["metadata"].get("namespace") for each in resources}
    (cluster,) = {
        each["metadata"]["labels"]["strimzi.io/cluster"]
        for each in resources
        if each["apiVersion"].startswith("kafka.strimzi.io/")
    }
    servers = metadata_of(the("ScaledObject", resources))["bootstrapServers"]
    assert servers == f"{cluster}-kafka-bootstrap.{namespace}.svc:9093"


# ---------------------------------------------------------------------- topics and rights


def test_topics_are_what_the_worker_wants(worker_settings: Settings) -> None:
    wanted = wanted_topics(with_roles(worker_settings))
    found = {each["metadata"]["name"]: each["spec"]["config"] for each in documents(TOPICS)}
    assert {
        name: {key: str(value) for key, value in config.items() if key not in CLUSTER_TOPIC_CONFIG}
        for name, config in found.items()
    } == wanted
    assert all(each["spec"]["replicas"] > each["spec"]["config"]["min.insync.replicas"] for each in documents(TOPICS))


def test_topics_of_the_next_space_are_those_of_its_workers(load_settings: LoadSettings, tmp_path: Path) -> None:
    """All but the inputs, which are there already, with as many partitions as these have."""
    settings = with_roles(settings_of(rendered("overlays/next-space"), load_settings, tmp_path))
    inputs = {topics.inputs for topics in topics_of_roles(settings)}
    found = {each["metadata"]["name"]: each["spec"] for each in documents(NEXT_TOPICS)}
    present = {each["metadata"]["name"]: each["spec"] for each in documents(TOPICS)}
    assert found.keys() == wanted_topics(settings).keys() - inputs
    for name, spec in found.items():
        assert spec == present[name.removesuffix("-next")]


def with_roles(settings: Settings) -> Settings:
    """The topics are for both roles, whichever a deployment has."""
    return settings.model_copy(update={"roles": frozenset({"items", "users"})})


def allowed(acls: list[Document], kind: str, name: str) -> set[str]:
    """Operations that a user may do on a resource."""
    granted: set[str] = set()
    for acl in acls:
        resource = acl["resource"]
        is_prefix = resource["patternType"] == "prefix"
        named = name.startswith(resource["name"]) if is_prefix else name == resource["name"]
        if resource["type"] == kind and named and acl.get("type", "allow") == "allow":
            granted |= set(acl["operations"])
    return granted


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "base"])
def test_the_user_may_do_what_the_worker_does(target: str, load_settings: LoadSettings, tmp_path: Path) -> None:
    settings = settings_of(rendered(target), load_settings, tmp_path)
    acls = document(USER)["spec"]["authorization"]["acls"]
    look = {"Describe", "DescribeConfigs"}
    for name in needed_topics(settings):
        assert allowed(acls, "topic", name) >= look | {"Read"}
    for topics in topics_of_roles(settings):
        for written in (topics.outputs, topics.state, topics.dead_letters):
            assert allowed(acls, "topic", written) >= look | {"Read", "Write"}
        assert allowed(acls, "group", topics.group_id) >= {"Describe", "Read"}
        assert allowed(acls, "transactionalId", transactional_id(settings, topics.group_id)) == {"Describe", "Write"}


def test_the_user_may_do_no_more() -> None:
    acls = document(USER)["spec"]["authorization"]["acls"]
    assert {acl["resource"]["type"] for acl in acls} == {"topic", "group", "transactionalId"}
    granted = {operation for acl in acls for operation in acl["operations"]}
    assert granted == {"Describe", "DescribeConfigs", "Read", "Write"}
    assert allowed(acls, "topic", "other") == allowed(acls, "group", "other") == set()


# ---------------------------------------------------------------------- scraping and network


def test_the_pod_monitor_scrapes_the_port_that_serves_metrics() -> None:
    (endpoint,) = document(POD_MONITOR)["spec"]["podMetricsEndpoints"]
    ports = {port["name"]: port["containerPort"] for port in container(base_deployment())["ports"]}
    assert ports[endpoint["port"]] == Settings().http.port
    assert endpoint["path"] == "/metrics"
    assert int(endpoint["scrapeTimeout"].removesuffix("s")) <= int(endpoint["interval"].removesuffix("s"))


def test_the_service_monitor_is_the_pod_monitor_by_another_way(tmp_path: Path) -> None:
    """The same workers, port, path and times; a `job` for each deployment; and nobody is scraped twice."""
    resources = with_components(tmp_path, "monitoring", "service-monitor")
    assert not of_kind("PodMonitor", resources)
    pods, services = document(POD_MONITOR)["spec"], the("ServiceMonitor", resources)["spec"]
    ((of_pods,), (of_services,)) = pods["podMetricsEndpoints"], services["endpoints"]
    (relabeling,) = of_services.pop("relabelings")
    assert of_services == of_pods
    label = re.sub(r"\W", "_", pods["jobLabel"])
    assert relabeling["sourceLabels"] == [f"__meta_kubernetes_pod_label_{label}"]
    assert relabeling["targetLabel"] == "job"
    service = the("Service", resources)
    assert services["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"] == pods["selector"]["matchLabels"]
    (port,) = service["spec"]["ports"]
    ports = {each["name"]: each["containerPort"] for each in container(base_deployment())["ports"]}
    assert (port["name"], ports[port["targetPort"]]) == (of_services["port"], port["port"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("target", FULL)
def test_the_network_policy_lets_the_worker_reach_kafka(
    target: str, load_settings: LoadSettings, tmp_path: Path
) -> None:
    resources = rendered(target)
    policy = the("NetworkPolicy", resources)["spec"]
    namespace = the("Deployment", resources)["metadata"]["namespace"]
    port = int(settings_of(resources, load_settings, tmp_path).kafka.bootstrap_servers.rpartition(":")[2])
    brokers = [
        rule
        for rule in policy["egress"]
        if port in {each["port"] for each in rule["ports"]}
        and rule["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    ]
    assert len(brokers) == 1
    assert any(
        {(each["port"], each["protocol"]) for each in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
        for rule in policy["egress"]
    )


def test_the_network_policy_lets_prometheus_in() -> None:
    policy = document(COMPONENTS / "networkpolicy" / "networkpolicy.yaml")["spec"]
    (rule,) = policy["ingress"]
    names = {port["name"] for port in container(base_deployment())["ports"]}
    assert {port["port"] for port in rule["ports"]} <= names
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_every_custom_resource_is_looked_at() -> None:
    custom = {
        each["kind"]
        for path in DEPLOY.rglob("*.yaml")
        for each in documents(path)
        if "kind" in each
        and each.get("apiVersion") not in (*CORE_GROUPS, None)
        and "kustomize" not in each["apiVersion"]
    }
    assert custom == API_VERSIONS.keys()
    assert of_kind("KafkaTopic", documents(TOPICS))
