"""The core objects are valid, and each says what the worker needs it to say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.contract.deploy.artefacts import (
    COMPONENT_NAMES,
    CORE_GROUPS,
    DEPLOY,
    MANUAL,
    SPACE_VOLUME,
    TARGETS,
    Document,
    all_containers,
    assembled,
    base_deployment,
    container,
    document,
    documents,
    kustomized_by_kubectl,
    of_kind,
    pod_spec,
    rendered,
    target_with,
    the,
    with_components,
    workers_of,
)
from tests.contract.deploy.queries import Samples
from worker import __version__
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.monitoring.health import Health
from worker.monitoring.http import make_routes
from worker.monitoring.metrics import Metrics
from worker.settings import Settings, variable

KUBERNETES_VERSIONS = ("1.29", kubernetes_validate.latest_version())
PATCHES = ("gpu", "next-space", "rack", "relay", "scram", "seeded-space", "sink", "users")
CORE_FILES = sorted(
    path
    for path in DEPLOY.rglob("*.yaml")
    if "apiVersion" in path.read_text()
    and documents(path)[0].get("apiVersion") in CORE_GROUPS
    and path.parent.name not in PATCHES  # these hold patches, not objects
)
APART = ("overlays/next-space", "overlays/next-space-users", "overlays/users")
WORKLOADS = [base_deployment(), *of_kind("Pod", documents(SPACE_VOLUME))]

CLOSE_S = 8.0
"""What the pipeline gives its threads and the client to close, rounded up."""
SPARE_S = 10.0
MODEL_S = 60.0
"""What a start may take beyond the wait for a broker."""


def validate(resources: Iterable[Document]) -> None:
    for resource in resources:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(dict(resource), version, strict=True)


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_files_are_valid_as_they_lie(path: Path) -> None:
    validate(documents(path))


def test_the_files_are_found() -> None:
    names = {str(path.relative_to(DEPLOY)) for path in CORE_FILES}
    assert {"base/deployment.yaml", "base/serviceaccount.yaml", "space-volume.yaml"} <= names


@pytest.mark.parametrize("target", TARGETS)
def test_rendered_objects_are_valid(target: str) -> None:
    validate(each for each in rendered(target) if each["apiVersion"] in CORE_GROUPS)


@pytest.mark.parametrize("name", COMPONENT_NAMES)
def test_each_component_renders_alone(name: str, tmp_path: Path) -> None:
    resources = with_components(tmp_path, name)
    validate(each for each in resources if each["apiVersion"] in CORE_GROUPS)
    workers_of(resources)


def test_the_validator_would_complain() -> None:
    broken = {**base_deployment(), "spec": {**base_deployment()["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        validate([broken])


def test_the_base_has_what_a_worker_needs_and_no_custom_resource() -> None:
    kinds = sorted(each["kind"] for each in rendered("base"))
    assert kinds == ["ConfigMap", "Deployment", "PodDisruptionBudget", "ServiceAccount"]


def test_the_base_is_the_same_without_kubectl() -> None:
    """Where there is none, the other tests look at what `assembled` makes of it."""
    plain, made = assembled(DEPLOY / "base"), kustomized_by_kubectl(DEPLOY / "base")
    assert plain is not None
    tag = f":{__version__}"
    name = the("ConfigMap", made)["metadata"]["name"]
    assert name.startswith("align-worker-")
    text = yaml.safe_dump(list(made)).replace(f"image: align-worker{tag}", "image: align-worker")
    without_hash = yaml.safe_load(text.replace(name, "align-worker"))
    assert sorted(without_hash, key=by_kind) == sorted(plain, key=by_kind)


def by_kind(resource: Document) -> str:
    return str(resource["kind"])


def test_full_adds_the_operators_resources() -> None:
    kinds = [each["kind"] for each in rendered("overlays/full")]
    expected = {
        "ConfigMap": 2, "Deployment": 1, "PodDisruptionBudget": 1, "ServiceAccount": 1, "PodMonitor": 1,
        "PrometheusRule": 1, "ScaledObject": 1, "TriggerAuthentication": 1, "KafkaTopic": 7, "KafkaUser": 1,
        "NetworkPolicy": 1,
    }  # fmt: skip
    assert {kind: kinds.count(kind) for kind in kinds} == expected


def test_full_users_adds_what_its_own_workers_need() -> None:
    """Topics, the user, rules and the monitor are those of `full`."""
    kinds = [each["kind"] for each in rendered("overlays/full-users")]
    expected = ["ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "ScaledObject", "ServiceAccount",
                "TriggerAuthentication"]  # fmt: skip
    assert sorted(kinds) == expected
    both = [*rendered("overlays/full"), *rendered("overlays/full-users")]
    names = [(each["kind"], each["metadata"]["name"]) for each in both]
    assert len(set(names)) == len(names)
    assert {each["metadata"]["namespace"] for each in both} == {"kafka"}


def test_with_disks_the_rest_of_the_workload_is_the_same(tmp_path: Path) -> None:
    plain = the("Deployment", rendered("base"))["spec"]
    stateful = the("StatefulSet", with_components(tmp_path, "state-volume"))["spec"]
    assert plain.keys() - stateful.keys() == {"strategy"}
    assert stateful["updateStrategy"] == {"type": "RollingUpdate"}  # one at a time, and none in excess
    for name in ("replicas", "selector", "minReadySeconds"):
        assert stateful[name] == plain[name]
    assert stateful["template"]["metadata"] == plain["template"]["metadata"]
    before, after = (
        container({"kind": "Deployment", "spec": plain}),
        container({"kind": "StatefulSet", "spec": stateful}),
    )
    assert {name for name in before if before[name] != after[name]} == {"env", "volumeMounts"}


# ---------------------------------------------------------------------- security


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])
def test_pods_run_with_as_little_as_they_can(workload: Document) -> None:
    require_restricted(workload)


def test_workers_with_disks_run_with_as_little_too(tmp_path: Path) -> None:
    require_restricted(the("StatefulSet", with_components(tmp_path, "state-volume")))


def test_workers_with_gpus_run_with_as_little_too(tmp_path: Path) -> None:
    require_restricted(the("Deployment", with_components(tmp_path, "gpu")))


def test_a_gpu_is_the_only_thing_that_the_component_adds(tmp_path: Path) -> None:
    plain, made = (the("Deployment", found) for found in (rendered("base"), with_components(tmp_path, "gpu")))
    worker = container(made)
    limits = worker["resources"]["limits"]
    assert limits.pop("nvidia.com/gpu") == "1"
    assert worker["resources"] == container(plain)["resources"]
    assert pod_spec(made)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert [each for each in worker["env"] if each not in container(plain)["env"]] == [
        {"name": "ALIGN_DEVICE", "value": "cuda"}
    ]


def test_a_roll_needs_no_second_gpu(tmp_path: Path) -> None:
    made = the("Deployment", with_components(tmp_path, "gpu"))
    assert made["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_zone_of_a_worker_is_its_pods_label(tmp_path: Path) -> None:
    worker = container(the("Deployment", with_components(tmp_path, "rack")))
    (found,) = [each for each in worker["env"] if each["name"] == variable("kafka.client_rack")]
    zone = pod_spec(base_deployment())["topologySpreadConstraints"][0]["topologyKey"]
    assert found["valueFrom"] == {"fieldRef": {"fieldPath": f"metadata.labels['{zone}']"}}


def test_a_zone_that_nobody_knows_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable("kafka.client_rack"), "")  # what Kubernetes makes of a label that is not there
    assert Settings().kafka.client_rack is None


# ---------------------------------------------------------------------- autoscaling without KEDA


def test_the_plain_autoscaler_alone_sets_the_number_of_workers(tmp_path: Path) -> None:
    for names, kind in ((("hpa",), "Deployment"), (("hpa", "state-volume"), "StatefulSet")):
        for target in ("base", "overlays/users"):
            resources = target_with(tmp_path, target, *names)
            workers, scaler = the(kind, resources), the("HorizontalPodAutoscaler", resources)
            assert "replicas" not in workers["spec"]
            assert scaler["spec"]["scaleTargetRef"] == {
                "apiVersion": "apps/v1", "kind": kind, "name": workers["metadata"]["name"],
            }  # fmt: skip


def test_the_plain_autoscaler_is_as_patient_as_keda() -> None:
    plain = document(DEPLOY / "components" / "hpa" / "horizontalpodautoscaler.yaml")["spec"]
    keda = document(DEPLOY / "components" / "keda" / "scaledobject.yaml")["spec"]
    assert plain["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (plain["minReplicas"], plain["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])


def test_the_lag_can_be_given_to_the_plain_autoscaler_as_the_page_says(
    worker_settings: Settings, samples: Samples
) -> None:
    scaler = document(DEPLOY / "components" / "hpa" / "horizontalpodautoscaler.yaml")
    (block,) = re.findall(r"```yaml\n(metrics:\n.*?)```", MANUAL.read_text(), re.DOTALL)
    (metric,) = yaml.safe_load(block)["metrics"]
    validate([{**scaler, "spec": {**scaler["spec"], "metrics": [metric]}}])
    asked, target = metric["external"]["metric"], metric["external"]["target"]
    assert asked["name"] in samples
    assert asked["selector"]["matchLabels"]["topic"] == worker_settings.topics.items
    assert int(target["averageValue"]) == worker_settings.batch.backlog_records


def test_init_containers_run_with_as_little_too(tmp_path: Path) -> None:
    deployment = the("Deployment", with_components(tmp_path, "seeded-space"))
    assert len(all_containers(deployment)) == 2
    require_restricted(deployment)


def require_restricted(workload: Document) -> None:
    spec = pod_spec(workload)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in all_containers(workload):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert each["resources"]["requests"].keys() == {"cpu", "memory"}
        assert each["resources"]["limits"].keys() - {"nvidia.com/gpu"} == {"cpu", "memory"}
        assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}


def test_images_have_the_version_of_the_code() -> None:
    kustomization = document(DEPLOY / "base" / "kustomization.yaml")
    (image,) = kustomization["images"]
    assert image["newTag"] == __version__
    loader = the("Pod", documents(SPACE_VOLUME))
    assert loader["spec"]["containers"][0]["image"] == f"{image['name']}:{__version__}"
    assert container(base_deployment())["image"] == image["name"]


# ---------------------------------------------------------------------- probes


def port_of(probed: str | int, of: Document) -> int:
    named = {port["name"]: port["containerPort"] for port in of["ports"]}
    return named[probed] if isinstance(probed, str) else probed


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
)
def test_probes_ask_what_the_worker_answers(probe: str, path: str) -> None:
    def no_status() -> Any:
        raise AssertionError

    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    Metrics(registry, "items")
    worker = container(base_deployment())
    asked = worker[probe]["httpGet"]
    assert asked["path"] == path
    assert path in make_routes(registry, Health(), no_status)
    assert port_of(asked["port"], worker) == Settings().http.port


def test_a_start_has_time_to_say_itself_why_it_fails() -> None:
    probe = container(base_deployment())["startupProbe"]
    patience_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert patience_s >= Settings().kafka.connect_timeout_s + MODEL_S


def test_a_hung_worker_ends_itself_before_the_kubelet_does() -> None:
    """The watchdog's message is better than a kill; the probe is for a process that not even the watchdog moves in."""
    probe = container(base_deployment())["livenessProbe"]
    assert probe["timeoutSeconds"] * probe["failureThreshold"] >= 10


# ---------------------------------------------------------------------- coming and going


def grace_needed_s(settings: Settings) -> float:
    """Drain; the commit that was under way at its end, and the last one; the consumer's farewell; closing."""
    commits_s = 2 * CALL_TIMEOUT_MS / 1000
    return settings.shutdown.drain_timeout_s + commits_s + CLOSE_S + SPARE_S


def test_the_grace_period_covers_the_drain(worker_settings: Settings) -> None:
    grace_s = pod_spec(base_deployment())["terminationGracePeriodSeconds"]
    assert grace_s >= grace_needed_s(worker_settings)
    assert grace_s >= grace_needed_s(Settings())


def test_revocation_and_closing_fit_the_allowance() -> None:
    from worker.stages.producers import PRODUCER_CLOSE_S
    from worker.stages.stage import STEP_TIMEOUT_S

    threads_s, consumer_s = 3 * 5 * STEP_TIMEOUT_S, 2.0
    assert threads_s + consumer_s + Settings().shutdown.revoke_timeout_s + PRODUCER_CLOSE_S <= CLOSE_S


def test_a_roll_adds_no_members_to_the_group() -> None:
    strategy = base_deployment()["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def test_the_disruption_budget_lets_nodes_be_drained() -> None:
    budget = document(DEPLOY / "base" / "poddisruptionbudget.yaml")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("target", TARGETS)
def test_every_selector_finds_the_pods(target: str) -> None:
    resources = rendered(target)
    deployment = the("Deployment", resources)
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod_spec(deployment)["topologySpreadConstraints"]]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind("PodDisruptionBudget", resources)]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind("PodMonitor", resources)]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind("NetworkPolicy", resources)]
    assert len(selectors) >= 4
    for selector in selectors:
        assert selector.items() <= labels


def test_two_deployments_do_not_select_each_others_pods() -> None:
    deployments = [the("Deployment", rendered(target)) for target in ("base", *APART)]
    for first, second in itertools.permutations(deployments, 2):
        require_apart(first, second)


def test_the_two_of_full_do_not_select_each_others_pods() -> None:
    first, second = rendered("overlays/full"), rendered("overlays/full-users")
    require_apart(the("Deployment", first), the("Deployment", second))
    labels = the("Deployment", second)["spec"]["template"]["metadata"]["labels"].items()
    for kind, selector in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert not the(kind, first)["spec"][selector]["matchLabels"].items() <= labels
    assert the("PodMonitor", first)["spec"]["selector"]["matchLabels"].items() <= labels  # one for both


def require_apart(first: Document, second: Document) -> None:
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert not (
        first["spec"]["selector"]["matchLabels"].items() <= second["spec"]["template"]["metadata"]["labels"].items()
    )


def test_objects_name_each_other_rightly() -> None:
    for target in TARGETS:
        resources = rendered(target)
        spec = pod_spec(the("Deployment", resources))
        assert spec["serviceAccountName"] == the("ServiceAccount", resources)["metadata"]["name"]
        mounted = {each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each}
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind("ConfigMap", resources)}
        assert mounted <= maps.keys()
        assert {name for name in mounted if "worker.yaml" in maps[name]} == {
            name for name, data in maps.items() if "worker.yaml" in data
        }
        mounts = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}


def test_the_space_comes_from_a_volume_that_cannot_be_written() -> None:
    claim = the("PersistentVolumeClaim", documents(SPACE_VOLUME))["metadata"]["name"]
    volumes = {each["name"]: each for each in pod_spec(base_deployment())["volumes"]}
    assert volumes["space"]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}
    mounts = {each["name"]: each for each in container(base_deployment())["volumeMounts"]}
    assert mounts["space"]["readOnly"] is True
